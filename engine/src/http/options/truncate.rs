//! `truncate_prompt_tokens`: how much of a prompt is kept.

use berth_engine_core::batch::TokenId;

use super::super::error::ApiError;
use super::super::fields::Fields;

/// The end of a prompt is kept, as in vLLM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truncate {
    /// A prompt that is too long is refused.
    No,
    /// What leaves room for the answer.
    ToFit,
    /// So many tokens.
    To(usize),
}

// === impl Truncate ===

impl Truncate {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let name = "truncate_prompt_tokens";
        match fields.take::<i64>(name)? {
            None => Ok(Self::No),
            Some(-1) => Ok(Self::ToFit),
            Some(count) => match usize::try_from(count) {
                Ok(count @ 1..) => Ok(Self::To(count)),
                _ => Err(ApiError::invalid(
                    name,
                    "`truncate_prompt_tokens` must be -1 or at least 1",
                )),
            },
        }
    }

    /// Cuts off the beginning of `tokens`, which may have `room` at most.
    pub(super) fn apply(self, tokens: &mut Vec<TokenId>, room: usize) {
        let kept = match self {
            Self::No => return,
            Self::ToFit => room.max(1),
            Self::To(count) => count,
        };
        let surplus = tokens.len().saturating_sub(kept);
        tokens.drain(..surplus);
    }
}
