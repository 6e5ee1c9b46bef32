//! What tokens lose that were there already.

use std::collections::{BTreeMap, BTreeSet};

use crate::batch::TokenId;

/// As vLLM names them; the defaults change nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// Logits of tokens of prompt or output are divided by it, negative ones multiplied; 1 is none.
    pub repetition: f32,
    /// Taken off once for each time that the output has the token; 0 is none.
    pub frequency: f32,
    /// Taken off when the output has the token; 0 is none.
    pub presence: f32,
}

// === impl Penalties ===

impl Default for Penalties {
    fn default() -> Self {
        Self {
            repetition: 1.0,
            frequency: 0.0,
            presence: 0.0,
        }
    }
}

impl Penalties {
    pub(super) fn are_neutral(&self) -> bool {
        *self == Self::default()
    }

    /// `history` is prompt and output, of which `output` is the end.
    pub(super) fn apply(&self, logits: &mut [f32], history: &[TokenId], output: &[TokenId]) {
        if self.repetition != 1.0 {
            self.apply_repetition(logits, history);
        }
        if self.frequency != 0.0 || self.presence != 0.0 {
            self.apply_counts(logits, output);
        }
    }

    fn apply_repetition(&self, logits: &mut [f32], history: &[TokenId]) {
        let seen: BTreeSet<&TokenId> = history.iter().collect();
        for token in seen {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit = if *logit > 0.0 {
                    *logit / self.repetition
                } else {
                    *logit * self.repetition
                };
            }
        }
    }

    fn apply_counts(&self, logits: &mut [f32], output: &[TokenId]) {
        let mut counts: BTreeMap<TokenId, u32> = BTreeMap::new();
        for token in output {
            *counts.entry(*token).or_default() += 1;
        }
        for (token, count) in counts {
            if let Some(logit) = logits.get_mut(token as usize) {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a context is far shorter than 2^24 tokens"
                )]
                let count = count as f32;
                *logit -= self.frequency * count;
                *logit -= self.presence;
            }
        }
    }
}
