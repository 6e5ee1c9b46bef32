//! Text at both ends of the model: tokenizer, chat template, incremental detokenisation, stop
//! strings.
//!
//! ```text
//! messages ── ChatTemplate::render ──► text ── Tokenizer::encode ──► token ids ──► the model
//!                                                                                    │
//! client  ◄── text deltas ◄── Detokenizer::push (UTF-8 kept whole, stops found) ◄────┘
//! ```
//!
//! Pure code over values in memory; only [`Tokenizer::from_folder`] reads files. It knows no
//! HTTP and no model format: whoever parses GGUF hands over a [`GgufVocab`].

mod bytes;
mod detokenize;
mod folder;
mod template;
mod tokenizer;
mod vocab;

#[cfg(test)]
mod fixtures;

pub use detokenize::Delta;
pub use detokenize::Detokenizer;
pub use detokenize::Options;
pub use detokenize::stop::{StopError, StopMatch, StopStrings};
pub use folder::FolderError;
pub use template::{ChatTemplate, Conversation, RenderError, TemplateError};
pub use tokenizer::{EncodeError, LoadError, SpecialTokens, Tokenizer};
pub use vocab::{GgufVocab, VocabError};
