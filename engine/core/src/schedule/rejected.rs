//! Why a request is not accepted.

use std::fmt;

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// As many requests wait as are allowed to; try again later.
    QueueFull {
        /// The bound.
        max_waiting: usize,
    },
    /// There is nothing to continue.
    EmptyPrompt,
    /// `max_tokens` is 0.
    NoOutputWanted,
    /// The prompt leaves no room for one output token.
    PromptTooLong {
        /// Tokens in the prompt.
        prompt_count: usize,
        /// The bound on prompt and output together, in tokens.
        max_model_len: usize,
    },
    /// Not even an empty cache could hold the sequence to its end.
    NeverFits {
        /// Blocks that it could need.
        needed: usize,
        /// Blocks that exist.
        block_count: usize,
    },
}

// === impl Rejected ===

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueFull { max_waiting } => {
                write!(f, "{max_waiting} requests are waiting already")
            }
            Self::EmptyPrompt => write!(f, "the prompt has no tokens"),
            Self::NoOutputWanted => write!(f, "max_tokens is 0, at least 1 is needed"),
            Self::PromptTooLong {
                prompt_count,
                max_model_len,
            } => write!(
                f,
                "the prompt has {prompt_count} tokens, but prompt and output together may have \
                 {max_model_len}"
            ),
            Self::NeverFits {
                needed,
                block_count,
            } => {
                write!(
                    f,
                    "the request may need {needed} KV blocks, but there are {block_count}"
                )
            }
        }
    }
}

impl std::error::Error for Rejected {}
