//! Text to token ids and back.
//!
//! Ids are plain `u32`: this crate knows no sequence and no batch.

use std::fmt;
use std::path::Path;

use tokenizers::tokenizer::{AddedVocabulary, Encoding, Model, OffsetType, PreTokenizer};

use crate::bytes::{Alphabet, TokenBytes};
use crate::folder::{self, FolderError};
use crate::vocab::{GgufVocab, VocabError};

/// A context of 131,072 tokens is about half a megabyte of text; this leaves room for rare bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 4 << 20;

/// A loaded vocabulary. Immutable; share it behind an `Arc`.
///
/// Encoding is work for a thread that may block: long prompts take milliseconds.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The added tokens of `inner`, with the special ones read as ordinary text.
    plain: AddedVocabulary,
    bytes: TokenBytes,
    alphabet: Alphabet,
    bos: Option<u32>,
    eos: Vec<u32>,
    before: Option<u32>,
    after: Option<u32>,
    special_tokens: SpecialTokens,
    chat_template: Option<String>,
}

/// What the two loaders find out.
pub(crate) struct Parts {
    pub(crate) inner: tokenizers::Tokenizer,
    pub(crate) bytes: TokenBytes,
    pub(crate) alphabet: Alphabet,
    pub(crate) bos: Option<u32>,
    /// May repeat.
    pub(crate) eos: Vec<u32>,
    /// Put first by `add_special`, beside what the tokenizer's own post-processor adds.
    pub(crate) before: Option<u32>,
    /// Put last by `add_special`.
    pub(crate) after: Option<u32>,
    pub(crate) special_tokens: SpecialTokens,
    pub(crate) chat_template: Option<String>,
}

/// Texts of the special tokens, as chat templates name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `bos_token`.
    pub bos: Option<String>,
    /// `eos_token`.
    pub eos: Option<String>,
    /// `pad_token`.
    pub pad: Option<String>,
    /// `unk_token`.
    pub unk: Option<String>,
}

/// Why a tokenizer could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// In a GGUF file.
    #[error("loading the vocabulary of the GGUF file")]
    Gguf(#[from] VocabError),
    /// In a Hugging Face folder.
    #[error("loading the tokenizer of the model folder")]
    Folder(#[from] FolderError),
}

/// Why a text could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Longer than any context.
    #[error("text of {bytes} bytes is too long to encode: {bytes_max} are allowed")]
    TooLong {
        /// Length of the text.
        bytes: usize,
        /// Longest allowed.
        bytes_max: usize,
    },
    /// The vocabulary cannot express the text.
    #[error("encoding a text of {bytes} bytes")]
    Tokenize {
        /// Length of the text.
        bytes: usize,
        /// What the library says.
        #[source]
        source: tokenizers::Error,
    },
}

// === impl Tokenizer ===

impl Tokenizer {
    /// From the vocabulary that a GGUF file carries.
    ///
    /// # Errors
    ///
    /// Where the vocabulary is damaged, or of a kind that is not supported.
    pub fn from_gguf(vocab: GgufVocab) -> Result<Self, LoadError> {
        Ok(vocab.into_tokenizer()?)
    }

    /// From `tokenizer.json` and its companions in a Hugging Face model folder.
    ///
    /// # Errors
    ///
    /// Where a file cannot be read, is too large, or is of a kind that is not supported.
    pub fn from_folder(folder: &Path) -> Result<Self, LoadError> {
        Ok(folder::load(folder)?)
    }

    pub(crate) fn from_parts(parts: Parts) -> Self {
        let mut plain = parts.inner.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        let mut eos: Vec<u32> = Vec::with_capacity(parts.eos.len());
        for id in parts.eos {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        Self {
            inner: parts.inner,
            plain,
            bytes: parts.bytes,
            alphabet: parts.alphabet,
            bos: parts.bos,
            eos,
            before: parts.before,
            after: parts.after,
            special_tokens: parts.special_tokens,
            chat_template: parts.chat_template,
        }
    }

    /// Token ids of `text`; names of special tokens in it become those tokens.
    ///
    /// `add_special` adds what the model wants around a text (a first token, for some), but never
    /// a second begin of sequence. A rendered chat template brings its own: encode it without.
    ///
    /// # Errors
    ///
    /// Where the text is too long, or the vocabulary cannot express it.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EncodeError> {
        self.encode_with(text, add_special, self.inner.get_added_vocabulary())
    }

    /// Like [`encode`](Self::encode), but names of special tokens stay ordinary text.
    ///
    /// # Errors
    ///
    /// As for [`encode`](Self::encode).
    pub fn encode_plain(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EncodeError> {
        self.encode_with(text, add_special, &self.plain)
    }

    fn encode_with(
        &self,
        text: &str,
        add_special: bool,
        added: &AddedVocabulary,
    ) -> Result<Vec<u32>, EncodeError> {
        let bytes = text.len();
        if bytes > TEXT_BYTES_MAX {
            return Err(EncodeError::TooLong {
                bytes,
                bytes_max: TEXT_BYTES_MAX,
            });
        }
        let tokenize = |source| EncodeError::Tokenize { bytes, source };
        let encoding = self.pieces(text, added).map_err(tokenize)?;
        if !add_special {
            return Ok(encoding.get_ids().to_vec());
        }
        let encoding = self
            .inner
            .post_process(encoding, None, true)
            .map_err(tokenize)?;
        Ok(self.surrounded(encoding.get_ids()))
    }

    fn pieces(&self, text: &str, added: &AddedVocabulary) -> tokenizers::Result<Encoding> {
        let mut pieces = added.extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        let model = self.inner.get_model();
        pieces.tokenize(|piece| model.tokenize(piece.get()))?;
        pieces.into_encoding(None, 0, OffsetType::None)
    }

    fn surrounded(&self, ids: &[u32]) -> Vec<u32> {
        let is_doubled = matches!(ids, [first, second, ..]
            if Some(*first) == self.bos && first == second);
        let ids = if is_doubled { &ids[1..] } else { ids };
        let before = self.before.filter(|id| ids.first() != Some(id));
        let after = self.after.filter(|id| ids.last() != Some(id));
        before
            .into_iter()
            .chain(ids.iter().copied())
            .chain(after)
            .collect()
    }

    /// The text of `ids`. What is not UTF-8 becomes U+FFFD; unknown ids are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let kept = ids
            .iter()
            .filter(|id| !(skip_special && self.is_special(**id)));
        let bytes: Vec<u8> = kept
            .filter_map(|id| self.bytes.get(*id))
            .flatten()
            .copied()
            .collect();
        let text = String::from_utf8_lossy(&bytes);
        let drops = Alphabet::SentencePiece {
            drops_first_space: true,
        };
        match text.strip_prefix(' ') {
            Some(rest) if self.alphabet == drops => rest.to_owned(),
            _ => text.into_owned(),
        }
    }

    /// Bytes that a token stands for, perhaps a part of a character; `None` for an unknown id.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(id)
    }

    /// Whether the token is left out of text (control tokens).
    pub fn is_special(&self, id: u32) -> bool {
        self.bytes.is_special(id)
    }

    /// The id of a token by its text in the vocabulary, such as `<|im_end|>`.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Highest id plus one. The model's own vocabulary may be padded beyond it.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// Begin of sequence.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Ids that end generation, the main one first, none twice.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// Texts of the special tokens.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special_tokens
    }

    /// Jinja source of the chat template that came with the vocabulary.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
