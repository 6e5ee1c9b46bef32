//! How the next token is chosen from one row of logits.
//!
//! The order is vLLM's (`v1/sample/sampler.py`): log-probabilities are those of the unprocessed
//! logits. Then allowed tokens, bad words, forbidden tokens, bias; penalties for repetition,
//! frequency and presence; greedy, or temperature, min-p, top-k, top-p and a draw.

use std::sync::Arc;

use crate::batch::{SampleRow, Sampled, SequenceId, TokenId};
use draw::draw;
use likely::{best, log_sum_exp, logprob};
pub use penalties::Penalties;
pub use rules::Rules;

mod draw;
mod likely;
mod penalties;
mod random;
mod rules;

#[cfg(test)]
mod tests;

/// Below this temperature the best token is taken, as in vLLM.
const GREEDY_BELOW: f32 = 1e-5;

/// A request's sampling settings, as vLLM names them.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 (below 1e-5) is greedy.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep tokens at least this likely beside the best one; 0 keeps all.
    pub min_p: f32,
    /// What tokens that were there already lose.
    pub penalties: Penalties,
    /// Which tokens may be chosen at all; most requests have none.
    pub rules: Option<Arc<Rules>>,
    /// How many of the most likely tokens are told beside the chosen one.
    pub top_logprob_count: usize,
    /// Seeds the request's own counter-based random stream.
    pub seed: u64,
}

/// A token and how likely the model thought it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: TokenId,
    /// Natural logarithm of its probability under the unprocessed logits.
    pub logprob: f32,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: TokenId,
    /// Natural logarithm of its probability under the unprocessed logits.
    pub logprob: f32,
    /// The most likely tokens, best first; as many as were asked for.
    pub top_logprobs: Vec<TokenLogprob>,
}

/// Chooses one token; `logits` is one row, indexed by token, and is left in disorder.
///
/// Depends on nothing but its arguments. Equal logits go to the lowest token. Where every token
/// is forbidden or not a number, token 0 is chosen.
///
/// # Panics
/// When `logits` is empty or has more entries than there are token ids.
pub fn sample(logits: &mut [f32], row: &SampleRow) -> Choice {
    assert!(!logits.is_empty(), "a vocabulary has tokens");
    logits
        .iter_mut()
        .filter(|logit| logit.is_nan())
        .for_each(|logit| *logit = f32::NEG_INFINITY);
    let log_sum = log_sum_exp(logits);
    let top_logprobs = likely::most_likely(logits, row.sampling.top_logprob_count, log_sum);
    let unprocessed = row.changes_logits().then(|| logits.to_vec());
    process(logits, row);
    let index = if row.sampling.temperature < GREEDY_BELOW {
        best(logits)
    } else {
        draw(logits, &row.sampling, row.output_position)
    };
    let logit = unprocessed.map_or(logits[index], |unprocessed| unprocessed[index]);
    Choice {
        token: likely::token_of(index),
        logprob: logprob(logit, log_sum),
        top_logprobs,
    }
}

/// Everything that comes before greedy or a draw.
fn process(logits: &mut [f32], row: &SampleRow) {
    let Sampling {
        penalties, rules, ..
    } = &row.sampling;
    if let Some(rules) = rules {
        rules.mask(logits, row.output());
    }
    rules::forbid(logits, &row.forbidden);
    if let Some(rules) = rules {
        rules.add_bias(logits);
    }
    penalties.apply(logits, &row.history, row.output());
}

// === impl Choice ===

impl Choice {
    /// As the choice of this sequence.
    #[must_use]
    pub fn of(self, id: SequenceId) -> Sampled {
        let Self {
            token,
            logprob,
            top_logprobs,
        } = self;
        Sampled {
            id,
            token,
            logprob,
            top_logprobs,
        }
    }
}

// === impl Sampling ===

impl Default for Sampling {
    /// What vLLM does when nothing is asked for, with seed 0.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            penalties: Penalties::default(),
            rules: None,
            top_logprob_count: 0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// The settings with which the best token is always taken.
    #[must_use]
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Whether choosing needs the tokens that were there before.
    #[must_use]
    pub fn looks_back(&self) -> bool {
        !self.penalties.are_neutral() || self.rules.as_ref().is_some_and(|rules| rules.looks_back())
    }
}
