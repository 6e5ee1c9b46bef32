//! A vocabulary as GGUF carries it, checked, and made into a tokenizer: byte-level BPE or
//! sentencepiece.
//!
//! Everything here comes from a file that somebody else wrote, so every count and length is
//! bounded and every id and merge is checked before a library sees it.

pub(crate) mod pre;
mod sentencepiece;

use std::collections::HashSet;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, NormalizerWrapper};

use crate::bytes::{Alphabet, Entry, TokenBytes};
use crate::tokenizer::{Parts, SpecialTokens, Tokenizer};

/// Largest known vocabularies have about 262,000 tokens; ids above this are damage.
pub(crate) const TOKEN_COUNT_MAX: usize = 1 << 20;
/// The longest tokens in use are runs of a few hundred spaces.
const TOKEN_BYTES_MAX: usize = 4096;
const VOCAB_BYTES_MAX: usize = 64 << 20;
const MERGE_COUNT_MAX: usize = 1 << 21;

/// `tokenizer.ggml.*` of a GGUF file, with `tokenizer.chat_template`.
#[derive(Clone, Debug, Default)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (sentencepiece).
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is cut before merging.
    pub pre: String,
    /// Token texts; the position is the id.
    pub tokens: Vec<String>,
    /// Pairs that merge, best first, each two tokens with a space between.
    pub merges: Vec<String>,
    /// A score for each token; sentencepiece only.
    pub scores: Vec<f32>,
    /// Stands for what has no piece; sentencepiece only.
    pub unknown: Option<u32>,
    /// Whether a text gets a space in front; sentencepiece only, which does where nothing is said.
    pub add_space_prefix: Option<bool>,
    /// GGUF token types, one for each token, or empty where the file has none.
    pub token_types: Vec<i32>,
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of turn (`tokenizer.ggml.eot_token_id`): ends generation as `eos` does.
    pub eot: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Whether encoding puts `bos` first; where the file does not say, `pre` decides.
    pub add_bos: Option<bool>,
    /// Whether encoding puts `eos` last; where the file does not say, it does not.
    pub add_eos: Option<bool>,
    /// Jinja source of the chat template.
    pub chat_template: Option<String>,
}

/// Why a vocabulary of a GGUF file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VocabError {
    /// Neither byte-level BPE nor sentencepiece.
    #[error(
        "tokenizer model {0:?} is not supported: use a file whose tokenizer.ggml.model is gpt2 or \
         llama"
    )]
    Model(String),
    /// A pre-tokenizer we do not know; guessing would give wrong tokens in silence.
    #[error("pre-tokenizer {0:?} is not known; known are {known}", known = pre::NAMES.join(", "))]
    PreTokenizer(String),
    /// Empty, or larger than any real vocabulary.
    #[error("{what} number {count}, allowed are 1 to {count_max}")]
    Count {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        count_max: usize,
    },
    /// Token texts are too long.
    #[error(
        "token {id} makes the vocabulary too large: a token may have {TOKEN_BYTES_MAX} bytes, all together {VOCAB_BYTES_MAX}"
    )]
    TooLarge {
        /// First token that is too much.
        id: usize,
    },
    /// The list of types does not match the list of tokens.
    #[error("{types} token types for {tokens} tokens")]
    TypeCount {
        /// How many types.
        types: usize,
        /// How many tokens.
        tokens: usize,
    },
    /// The list of scores does not match the list of tokens.
    #[error("{scores} scores for {tokens} tokens")]
    ScoreCount {
        /// How many scores.
        scores: usize,
        /// How many tokens.
        tokens: usize,
    },
    /// A special id points outside the vocabulary.
    #[error("{name} token id {id} is outside the vocabulary of {tokens} tokens")]
    SpecialId {
        /// Which one: `bos`, `eos`, `eot`, `pad`.
        name: &'static str,
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        tokens: usize,
    },
    /// A merge that joins something other than two tokens into a third.
    #[error("merge {index} ({text:?}) does not join two tokens into a token")]
    Merge {
        /// Position in the list of merges.
        index: usize,
        /// The merge.
        text: String,
    },
    /// The library refused what passed our own checks.
    #[error("building the tokenizer")]
    Build(#[source] tokenizers::Error),
}

/// GGUF's `token_type` values that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Merged from text.
    Ordinary,
    /// Matched in text before merging, and part of the text.
    UserDefined,
    /// Matched in text before merging, and no part of the text.
    Control,
}

// === impl GgufVocab ===

impl GgufVocab {
    /// Checks the vocabulary and builds its tokenizer.
    pub(crate) fn into_tokenizer(self) -> Result<Tokenizer, VocabError> {
        let has_prefix = self.add_space_prefix.unwrap_or(true);
        let (pre, alphabet) = match self.model.as_str() {
            "gpt2" => {
                let pre = pre::by_name(&self.pre);
                let pre = pre.ok_or_else(|| VocabError::PreTokenizer(self.pre.clone()))?;
                (Some(pre), Alphabet::ByteLevel)
            }
            "llama" => {
                let drops_first_space = has_prefix;
                (None, Alphabet::SentencePiece { drops_first_space })
            }
            _ => return Err(VocabError::Model(self.model)),
        };
        self.check_sizes()?;
        self.check_special_ids()?;
        let bytes = TokenBytes::new(alphabet, self.entries());
        let adds_bos = pre.as_ref().is_none_or(|pre| pre.adds_bos);
        let mut inner = match pre {
            Some(pre) => self.build(pre)?,
            None => sentencepiece::build(&self, has_prefix)?,
        };
        inner
            .add_tokens(self.added_tokens())
            .map_err(VocabError::Build)?;
        Ok(Tokenizer::from_parts(Parts {
            special_tokens: self.special_tokens(),
            bos: self.bos,
            eos: self.eos.into_iter().chain(self.eot).collect(),
            before: self.bos.filter(|_| self.add_bos.unwrap_or(adds_bos)),
            after: self.eos.filter(|_| self.add_eos.unwrap_or(false)),
            bytes,
            alphabet,
            inner,
            chat_template: self.chat_template,
        }))
    }

    fn check_sizes(&self) -> Result<(), VocabError> {
        let (tokens, types) = (self.tokens.len(), self.token_types.len());
        if tokens == 0 || tokens > TOKEN_COUNT_MAX {
            let count_max = TOKEN_COUNT_MAX;
            return Err(VocabError::Count {
                what: "tokens",
                count: tokens,
                count_max,
            });
        }
        if self.merges.len() > MERGE_COUNT_MAX {
            let (count, count_max) = (self.merges.len(), MERGE_COUNT_MAX);
            return Err(VocabError::Count {
                what: "merges",
                count,
                count_max,
            });
        }
        if types != 0 && types != tokens {
            return Err(VocabError::TypeCount { types, tokens });
        }
        let mut total = 0_usize;
        for (id, token) in self.tokens.iter().enumerate() {
            total = total.saturating_add(token.len());
            if token.len() > TOKEN_BYTES_MAX || total > VOCAB_BYTES_MAX {
                return Err(VocabError::TooLarge { id });
            }
        }
        Ok(())
    }

    fn check_special_ids(&self) -> Result<(), VocabError> {
        let named = [
            ("bos", self.bos),
            ("eos", self.eos),
            ("eot", self.eot),
            ("pad", self.pad),
        ];
        for (name, id) in named {
            if let Some(id) = id
                && self.text(id).is_none()
            {
                return Err(VocabError::SpecialId {
                    name,
                    id,
                    tokens: self.tokens.len(),
                });
            }
        }
        Ok(())
    }

    fn build(&self, pre: pre::PreTokenization) -> Result<tokenizers::Tokenizer, VocabError> {
        let model = BPE::builder()
            .vocab_and_merges(self.ids_by_text(), self.merge_pairs()?)
            .ignore_merges(pre.ignores_merges)
            .build()
            .map_err(VocabError::Build)?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(pre.pre_tokenizer));
        if pre.composes {
            let nfc = NormalizerWrapper::NFC(tokenizers::normalizers::NFC);
            tokenizer
                .with_normalizer(Some(nfc))
                .map_err(VocabError::Build)?;
        }
        Ok(tokenizer)
    }

    /// The later of two tokens with one text is the one that text becomes.
    fn ids_by_text(&self) -> Vocab {
        self.tokens.iter().cloned().zip(0_u32..).collect()
    }

    /// Checked here because the library indexes without looking.
    fn merge_pairs(&self) -> Result<Merges, VocabError> {
        let known: HashSet<&str> = self.tokens.iter().map(String::as_str).collect();
        let pair = |(index, text): (usize, &String)| {
            split_merge(text, &known).ok_or_else(|| VocabError::Merge {
                index,
                text: text.chars().take(80).collect(),
            })
        };
        self.merges.iter().enumerate().map(pair).collect()
    }

    fn added_tokens(&self) -> Vec<AddedToken> {
        let added = |(id, token): (usize, &String)| match self.kind(id) {
            Kind::Ordinary => None,
            kind => Some(AddedToken::from(token.clone(), kind == Kind::Control).normalized(false)),
        };
        self.tokens.iter().enumerate().filter_map(added).collect()
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.tokens
            .iter()
            .zip(0_u32..)
            .enumerate()
            .map(|(index, (text, id))| {
                let kind = self.kind(index);
                let is_special = kind == Kind::Control;
                Entry {
                    id,
                    text,
                    is_added: kind != Kind::Ordinary,
                    is_special,
                }
            })
    }

    /// GGUF: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    fn kind(&self, index: usize) -> Kind {
        match self.token_types.get(index) {
            Some(2 | 3) => Kind::Control,
            Some(4) => Kind::UserDefined,
            _ => Kind::Ordinary,
        }
    }

    fn special_tokens(&self) -> SpecialTokens {
        let text = |id: Option<u32>| self.text(id?).map(str::to_owned);
        SpecialTokens {
            bos: text(self.bos),
            eos: text(self.eos),
            pad: text(self.pad),
            unk: None,
        }
    }

    fn text(&self, id: u32) -> Option<&str> {
        self.tokens
            .get(usize::try_from(id).ok()?)
            .map(String::as_str)
    }
}

fn split_merge(text: &str, known: &HashSet<&str>) -> Option<(String, String)> {
    let (left, right) = text.split_once(' ')?;
    let joined = format!("{left}{right}");
    let all = [left, right, &joined];
    all.iter()
        .all(|part| known.contains(part))
        .then(|| (left.to_owned(), right.to_owned()))
}

#[cfg(test)]
mod tests;
