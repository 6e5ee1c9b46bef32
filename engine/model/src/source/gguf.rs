//! A GGUF file: its header, the decoder that it describes, its tokenizer.
//!
//! The format: `docs/gguf.md` of ggml-org/ggml.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use berth_engine_core::batch::TokenId;

use super::store::TensorStore;
use super::{Flaw, ModelSource, OpenError, TokenizerFiles};
use config::Stretches;
use header::Header;

mod bounded;
mod config;
mod header;
mod metadata;

/// The tokenizer that a GGUF file carries, as the file tells it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`: `gpt2` is byte-level BPE, `llama` SentencePiece.
    pub model: String,
    /// `tokenizer.ggml.pre`: which regular expression splits text before BPE.
    pub pre: Option<String>,
    /// Every token's text, by id.
    pub tokens: Vec<String>,
    /// Every token's kind, by id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// Pairs `left right` in order of preference.
    pub merges: Vec<String>,
    /// Every token's score, by id; SentencePiece only.
    pub scores: Vec<f32>,
    /// Starts a text.
    pub bos: Option<TokenId>,
    /// Ends an answer.
    pub eos: Option<TokenId>,
    /// Ends a turn, and so an answer too.
    pub eot: Option<TokenId>,
    /// Stands for what has no token.
    pub unknown: Option<TokenId>,
    /// Fills up a batch; never generated.
    pub padding: Option<TokenId>,
    /// Whether texts are encoded with `bos` in front; absent where the file does not say.
    pub add_bos: Option<bool>,
    /// A space is put in front of a text; absent where the file does not say.
    pub add_space_prefix: Option<bool>,
    /// Jinja source of the chat template.
    pub chat_template: Option<String>,
}

/// Opens the file; the config and weights are checked by the caller.
pub(crate) fn open(path: &Path) -> Result<ModelSource, OpenError> {
    let file = File::open(path).map_err(|error| Flaw::Io(error).of(path))?;
    read(path, file).map_err(|flaw| flaw.of(path))
}

fn read(path: &Path, file: File) -> Result<ModelSource, Flaw> {
    let length = file.metadata()?.len();
    let header = Header::read(BufReader::new(&file), length)?;
    let tokenizer = tokenizer(&header)?;
    let mut store = TensorStore::default();
    let (mut config, naming) = config::config(path, &header)?;
    let tensors = header.tensors.clone();
    store
        .add(path.to_path_buf(), file, tensors)
        .map_err(|name| Flaw::malformed(format!("tensor {name}"), "is there twice"))?;
    let stretches = Stretches {
        always: factors(&store, "rope_freqs.weight")?,
        short: factors(&store, "rope_factors_short.weight")?,
        long: factors(&store, "rope_factors_long.weight")?,
    };
    config::stretch(&mut config, &header, stretches)?;
    Ok(ModelSource {
        path: path.to_path_buf(),
        config,
        tokenizer: TokenizerFiles::Gguf(Box::new(tokenizer)),
        store,
        naming,
        quantization: None,
    })
}

/// The stretches of tensor `name`, where the file has one.
fn factors(store: &TensorStore, name: &str) -> Result<Option<Vec<f32>>, Flaw> {
    let Some(shape) = store.shape(name) else {
        return Ok(None);
    };
    // No head is wider than this; it bounds what is read before the config is checked.
    if shape.len() != 1 || shape[0] > 1 << 16 {
        return Err(Flaw::malformed(
            format!("tensor {name}"),
            format!("has shape {shape:?}"),
        ));
    }
    let read = |error: &dyn std::error::Error| Flaw::malformed("rope factors", error.to_string());
    let factors = store.rows(name, 0..1).map_err(|error| read(&error))?;
    factors
        .flatten_all()
        .and_then(|all| all.to_vec1())
        .map(Some)
        .map_err(|error| read(&error))
}

fn tokenizer(header: &Header) -> Result<GgufTokenizer, Flaw> {
    let meta = &header.metadata;
    Ok(GgufTokenizer {
        model: meta.text("tokenizer.ggml.model")?.unwrap_or_default(),
        pre: meta.text("tokenizer.ggml.pre")?,
        tokens: meta.texts("tokenizer.ggml.tokens")?,
        token_types: meta.integers("tokenizer.ggml.token_type")?,
        merges: meta.texts("tokenizer.ggml.merges")?,
        scores: meta.numbers("tokenizer.ggml.scores")?,
        bos: meta.token("tokenizer.ggml.bos_token_id")?,
        eos: meta.token("tokenizer.ggml.eos_token_id")?,
        eot: meta.token("tokenizer.ggml.eot_token_id")?,
        unknown: meta.token("tokenizer.ggml.unknown_token_id")?,
        padding: meta.token("tokenizer.ggml.padding_token_id")?,
        add_bos: meta.flag("tokenizer.ggml.add_bos_token")?,
        add_space_prefix: meta.flag("tokenizer.ggml.add_space_prefix")?,
        chat_template: meta.text("tokenizer.chat_template")?,
    })
}

#[cfg(test)]
mod tests;
