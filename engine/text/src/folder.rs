//! The tokenizer of a Hugging Face model folder.
//!
//! `tokenizer.json` is needed; `tokenizer_config.json`, `special_tokens_map.json`,
//! `generation_config.json` and `chat_template.jinja` are read where they are. Sizes are bounded
//! before anything is parsed.

use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bytes::{Alphabet, Entry, TokenBytes};
use crate::tokenizer::{Parts, SpecialTokens, Tokenizer};
use crate::vocab::TOKEN_COUNT_MAX;

/// The largest in use (262,000 tokens, indented) have about 35 MB.
const TOKENIZER_BYTES_MAX: u64 = 128 << 20;
/// `tokenizer_config.json` repeats every added token; some have thousands.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// Why the tokenizer of a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file is missing or cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is larger than any real one, or no file.
    #[error("{} is not a regular file of at most {bytes_max} bytes", path.display())]
    NotAFile {
        /// Which file.
        path: PathBuf,
        /// Largest allowed.
        bytes_max: u64,
    },
    /// A file is not the JSON that its name promises.
    #[error("parsing {}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// `tokenizer.json` does not describe a tokenizer.
    #[error("building the tokenizer of {}", path.display())]
    Build {
        /// Which file.
        path: PathBuf,
        /// What the library says.
        #[source]
        source: tokenizers::Error,
    },
    /// Its tokens cannot be turned into bytes one by one.
    #[error("{} decodes neither as byte-level nor as sentencepiece BPE", path.display())]
    Decoder {
        /// Which file.
        path: PathBuf,
    },
    /// Token ids leave the range of any real vocabulary.
    #[error("token id {id} in {} is above {id_max}", path.display())]
    TokenId {
        /// Which file.
        path: PathBuf,
        /// The id.
        id: u32,
        /// Highest allowed.
        id_max: usize,
    },
}

/// `tokenizer_config.json`, and `special_tokens_map.json` with less in it.
#[derive(Debug, Default, Deserialize)]
struct Config {
    bos_token: Option<Named>,
    eos_token: Option<Named>,
    pad_token: Option<Named>,
    unk_token: Option<Named>,
    chat_template: Option<Template>,
}

/// A special token, by its text alone or with how it is matched.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Named {
    Text(String),
    Added { content: String },
}

/// One chat template, or several by purpose.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Template {
    One(String),
    Several(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Debug, Default, Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<Ids>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Several(Vec<u32>),
}

/// Reads the folder.
pub(crate) fn load(folder: &Path) -> Result<Tokenizer, FolderError> {
    let config: Config = json_or_default(&folder.join("tokenizer_config.json"))?;
    let map: Config = json_or_default(&folder.join("special_tokens_map.json"))?;
    let generation: GenerationConfig = json_or_default(&folder.join("generation_config.json"))?;
    let template = text(&folder.join("chat_template.jinja"), CONFIG_BYTES_MAX)?;
    let path = folder.join("tokenizer.json");
    let inner = parse_tokenizer(&path)?;
    let alphabet = inner
        .get_decoder()
        .and_then(Alphabet::of)
        .ok_or_else(|| FolderError::Decoder { path: path.clone() })?;
    let bytes = token_bytes(&inner, alphabet, &path)?;
    let special_tokens = special_tokens(&config, &map);
    let id = |text: Option<&String>| inner.token_to_id(text?);
    let eos = id(special_tokens.eos.as_ref())
        .into_iter()
        .chain(generation.ids())
        .collect();
    Ok(Tokenizer::from_parts(Parts {
        bos: id(special_tokens.bos.as_ref()),
        eos,
        before: None,
        after: None,
        special_tokens,
        bytes,
        alphabet,
        inner,
        chat_template: template.or_else(|| config.chat_template.and_then(Template::default_one)),
    }))
}

/// The library may panic on merges that do not fit its vocabulary; for us that is a bad file.
fn parse_tokenizer(path: &Path) -> Result<tokenizers::Tokenizer, FolderError> {
    let not_found = || {
        let advice = "it is missing: fetch the whole folder";
        io::Error::new(io::ErrorKind::NotFound, advice)
    };
    let json = text(path, TOKENIZER_BYTES_MAX)?.ok_or_else(|| FolderError::Read {
        path: path.to_owned(),
        source: not_found(),
    })?;
    let build = |source| FolderError::Build {
        path: path.to_owned(),
        source,
    };
    let mut inner = catch_unwind(AssertUnwindSafe(|| {
        tokenizers::Tokenizer::from_bytes(&json)
    }))
    .unwrap_or_else(|_| Err("its merges do not fit its vocabulary".into()))
    .map_err(build)?;
    inner.with_truncation(None).map_err(build)?;
    inner.with_padding(None);
    Ok(inner)
}

fn token_bytes(
    inner: &tokenizers::Tokenizer,
    alphabet: Alphabet,
    path: &Path,
) -> Result<TokenBytes, FolderError> {
    let ordinary = inner.get_vocab(false);
    let added = inner.get_added_tokens_decoder();
    let bound = |id: &&u32| usize::try_from(**id).is_ok_and(|id| id >= TOKEN_COUNT_MAX);
    if let Some(id) = ordinary.values().chain(added.keys()).find(bound) {
        let id_max = TOKEN_COUNT_MAX - 1;
        return Err(FolderError::TokenId {
            path: path.to_owned(),
            id: *id,
            id_max,
        });
    }
    let ordinary = ordinary.iter().map(|(text, id)| Entry {
        id: *id,
        text,
        is_added: false,
        is_special: false,
    });
    let added = added.iter().map(|(id, token)| Entry {
        id: *id,
        text: &token.content,
        is_added: true,
        is_special: token.special,
    });
    Ok(TokenBytes::new(alphabet, ordinary.chain(added)))
}

fn special_tokens(config: &Config, map: &Config) -> SpecialTokens {
    let text = |pick: fn(&Config) -> Option<&Named>| {
        pick(config)
            .or_else(|| pick(map))
            .map(|named| named.text().to_owned())
    };
    SpecialTokens {
        bos: text(|it| it.bos_token.as_ref()),
        eos: text(|it| it.eos_token.as_ref()),
        pad: text(|it| it.pad_token.as_ref()),
        unk: text(|it| it.unk_token.as_ref()),
    }
}

fn json_or_default<T: DeserializeOwned + Default>(path: &Path) -> Result<T, FolderError> {
    let Some(json) = text(path, CONFIG_BYTES_MAX)? else {
        return Ok(T::default());
    };
    serde_json::from_str(&json).map_err(|source| FolderError::Parse {
        path: path.to_owned(),
        source,
    })
}

/// The file's text, or `None` where there is no such file.
fn text(path: &Path, bytes_max: u64) -> Result<Option<String>, FolderError> {
    let read = |source| FolderError::Read {
        path: path.to_owned(),
        source,
    };
    // Asked before opening: opening a pipe would wait for its writer.
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read(error)),
    };
    if !metadata.is_file() || metadata.len() > bytes_max {
        return Err(FolderError::NotAFile {
            path: path.to_owned(),
            bytes_max,
        });
    }
    let mut text = String::new();
    let file = File::open(path).map_err(read)?;
    file.take(bytes_max)
        .read_to_string(&mut text)
        .map_err(read)?;
    Ok(Some(text))
}

// === impl Named ===

impl Named {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Added { content: text } => text,
        }
    }
}

// === impl Template ===

impl Template {
    fn default_one(self) -> Option<String> {
        match self {
            Self::One(template) => Some(template),
            Self::Several(all) => all
                .into_iter()
                .find(|it| it.name == "default")
                .map(|it| it.template),
        }
    }
}

// === impl GenerationConfig ===

impl GenerationConfig {
    fn ids(self) -> Vec<u32> {
        match self.eos_token_id {
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Several(ids)) => ids,
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
