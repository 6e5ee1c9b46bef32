//! What is shown of tokens beside their text.

use super::super::error::ApiError;
use super::super::fields::Fields;
use super::super::reply::Endpoint;
use super::numbers::within;

/// OpenAI's bound, and vLLM's default `--max-logprobs`.
const TOP_LOGPROBS_MAX: usize = 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// How likely each token was.
    pub(crate) logprobs: bool,
    /// And how likely so many of the most likely ones.
    pub(crate) top_logprob_count: usize,
    /// In `logprobs`, tokens are `token_id:7` instead of their text.
    pub(crate) as_ids: bool,
    /// The ids of prompt and output.
    pub(crate) token_ids: bool,
}

// === impl Shown ===

impl Shown {
    pub(super) fn take(fields: &mut Fields, endpoint: Endpoint) -> Result<Self, ApiError> {
        let (logprobs, top_logprob_count) = match endpoint {
            Endpoint::Chat => in_chat(fields)?,
            Endpoint::Completions => {
                let count = within(fields, "logprobs", 0..=TOP_LOGPROBS_MAX)?;
                (count.is_some(), count.unwrap_or(0))
            }
        };
        Ok(Self {
            logprobs,
            top_logprob_count,
            as_ids: fields.take("return_tokens_as_token_ids")?.unwrap_or(false),
            token_ids: fields.take("return_token_ids")?.unwrap_or(false),
        })
    }

    /// Whether a token is shown even where it adds no text.
    pub(crate) fn every_token(&self) -> bool {
        self.logprobs || self.token_ids
    }
}

fn in_chat(fields: &mut Fields) -> Result<(bool, usize), ApiError> {
    let logprobs = fields.take("logprobs")?.unwrap_or(false);
    let count = within(fields, "top_logprobs", 0..=TOP_LOGPROBS_MAX)?.unwrap_or(0);
    if count > 0 && !logprobs {
        let message = "`top_logprobs` needs `logprobs` to be true";
        return Err(ApiError::invalid("top_logprobs", message));
    }
    Ok((logprobs, count))
}
