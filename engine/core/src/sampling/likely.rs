//! How likely the model thought each token, from unprocessed logits.

use super::TokenLogprob;
use crate::batch::TokenId;

/// The lowest index among the greatest.
pub(super) fn best(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = index;
        }
    }
    best
}

/// The `count` greatest, best first; of equals the lowest token.
pub(super) fn most_likely(logits: &[f32], count: usize, log_sum: f64) -> Vec<TokenLogprob> {
    let count = count.min(logits.len());
    let mut kept: Vec<usize> = Vec::with_capacity(count);
    if count == 0 {
        return vec![];
    }
    for (index, logit) in logits.iter().enumerate() {
        if kept.len() == count {
            if kept.last().is_some_and(|last| *logit <= logits[*last]) {
                continue;
            }
            kept.pop();
        }
        let place = kept.partition_point(|other| logits[*other] >= *logit);
        kept.insert(place, index);
    }
    let told = |index: usize| TokenLogprob {
        token: token_of(index),
        logprob: logprob(logits[index], log_sum),
    };
    kept.into_iter().map(told).collect()
}

pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let greatest = f64::from(logits[best(logits)]);
    if !greatest.is_finite() {
        return greatest;
    }
    let sum: f64 = logits
        .iter()
        .map(|logit| (f64::from(*logit) - greatest).exp())
        .sum();
    greatest + sum.ln()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is what is wanted"
)]
pub(super) fn logprob(logit: f32, log_sum: f64) -> f32 {
    (f64::from(logit) - log_sum) as f32
}

pub(super) fn token_of(index: usize) -> TokenId {
    TokenId::try_from(index).expect("token ids are 32 bits wide")
}
