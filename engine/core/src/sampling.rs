//! How the next token is chosen from one row of logits.
//!
//! The order is vLLM's: the log-probability is that of the unprocessed logits; then forbidden
//! tokens go; then greedy, or temperature, top-k, top-p and a draw.

use crate::batch::{SampleRow, TokenId};

mod random;

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
    /// Seeds the request's own counter-based random stream.
    pub seed: u64,
}

/// A token and how likely the model thought it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: TokenId,
    /// Natural logarithm of its probability under the unprocessed logits.
    pub logprob: f32,
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
    let forbidden: Vec<(usize, f32)> = forbid(logits, &row.forbidden);
    let index = if row.sampling.temperature < GREEDY_BELOW {
        best(logits)
    } else {
        draw(logits, &row.sampling, row.output_position)
    };
    let masked = forbidden.iter().find(|(token, _)| *token == index);
    Choice {
        token: TokenId::try_from(index).expect("token ids are 32 bits wide"),
        logprob: logprob(masked.map_or(logits[index], |(_, logit)| *logit), log_sum),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is what is wanted"
)]
fn logprob(logit: f32, log_sum: f64) -> f32 {
    (f64::from(logit) - log_sum) as f32
}

/// Masks tokens; returns what they were.
fn forbid(logits: &mut [f32], tokens: &[TokenId]) -> Vec<(usize, f32)> {
    let mut masked = vec![];
    for token in tokens.iter().map(|token| *token as usize) {
        if let Some(logit) = logits.get_mut(token) {
            masked.push((token, std::mem::replace(logit, f32::NEG_INFINITY)));
        }
    }
    masked
}

/// The lowest index among the greatest.
fn best(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = index;
        }
    }
    best
}

/// Draws by inversion: the kept tokens in order of id share the unit interval by probability.
fn draw(logits: &[f32], sampling: &Sampling, counter: u64) -> usize {
    let greatest = f64::from(logits[best(logits)]);
    if !greatest.is_finite() {
        return best(logits);
    }
    let temperature = f64::from(sampling.temperature);
    let weight = |logit: f32| ((f64::from(logit) - greatest) / temperature).exp();
    let floor = floor_of(logits, sampling, &weight);
    let kept = || {
        logits
            .iter()
            .enumerate()
            .filter(|(_, logit)| **logit >= floor)
    };
    let total: f64 = kept().map(|(_, logit)| weight(*logit)).sum();
    let target = random::uniform(sampling.seed, counter) * total;
    let mut reached = 0.0;
    for (index, logit) in kept() {
        reached += weight(*logit);
        if reached > target {
            return index;
        }
    }
    // Only rounding leads here.
    best(logits)
}

/// The least logit that top-k and top-p keep; tokens as good as the last one kept stay too.
fn floor_of(logits: &[f32], sampling: &Sampling, weight: &impl Fn(f32) -> f64) -> f32 {
    let top_k = sampling.top_k as usize;
    let all = top_k == 0 || top_k >= logits.len();
    if all && sampling.top_p >= 1.0 {
        // Masked tokens weigh nothing and must not be drawn by rounding.
        return f32::MIN;
    }
    let mut sorted: Vec<f32> = logits.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    if !all {
        let last = sorted[top_k - 1];
        sorted.truncate(sorted.partition_point(|logit| *logit >= last));
    }
    nucleus_floor(&sorted, f64::from(sampling.top_p), weight).max(f32::MIN)
}

/// `sorted` is descending and not empty.
fn nucleus_floor(sorted: &[f32], top_p: f64, weight: &impl Fn(f32) -> f64) -> f32 {
    let last = sorted[sorted.len() - 1];
    if top_p >= 1.0 {
        return last;
    }
    let total: f64 = sorted.iter().map(|logit| weight(*logit)).sum();
    let mut reached = 0.0;
    for logit in sorted {
        reached += weight(*logit);
        if reached >= top_p * total {
            return *logit;
        }
    }
    last
}

fn log_sum_exp(logits: &[f32]) -> f64 {
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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn row(sampling: Sampling, forbidden: &[TokenId]) -> SampleRow {
        SampleRow {
            sampling,
            output_position: 0,
            forbidden: forbidden.to_vec(),
        }
    }

    fn warm(temperature: f32, top_k: u32, top_p: f32) -> Sampling {
        Sampling {
            temperature,
            top_p,
            top_k,
            seed: 11,
        }
    }

    /// Which tokens 500 draws give.
    #[track_caller]
    fn check_drawn(logits: &[f32], sampling: &Sampling, forbidden: &[TokenId], expected: &[u32]) {
        let mut drawn: Vec<TokenId> = (0..500)
            .map(|output_position| {
                let row = SampleRow {
                    output_position,
                    ..row(sampling.clone(), forbidden)
                };
                sample(&mut logits.to_vec(), &row).token
            })
            .collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, expected);
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        let choice = sample(&mut [1.0, 3.0, 3.0, 2.0], &row(warm(0.0, 0, 1.0), &[]));
        assert_eq!(choice.token, 1);
    }

    #[test]
    fn greedy_passes_over_forbidden_tokens_and_tokens_outside_the_vocabulary() {
        let choice = sample(&mut [1.0, 3.0, 2.0], &row(warm(0.0, 0, 1.0), &[1, 99]));
        assert_eq!(choice.token, 2);
    }

    #[test]
    fn the_logprob_is_that_of_the_unprocessed_logits() {
        let logits = [2.0_f32.ln(), 3.0_f32.ln(), 5.0_f32.ln()];
        let choice = sample(&mut logits.clone(), &row(warm(0.1, 1, 0.5), &[2]));
        assert_eq!(choice.token, 1);
        assert!(
            (choice.logprob - 0.3_f32.ln()).abs() < 1e-6,
            "{}",
            choice.logprob
        );
    }

    #[test]
    fn logits_that_are_no_numbers_are_never_chosen() {
        check_drawn(
            &[f32::NAN, 1.0, f32::NEG_INFINITY, 1.0],
            &warm(1.0, 0, 1.0),
            &[],
            &[1, 3],
        );
    }

    #[test]
    fn a_row_without_a_number_gives_token_zero() {
        let choice = sample(&mut [f32::NAN; 4], &row(warm(1.0, 2, 0.5), &[]));
        assert_eq!(choice.token, 0);
    }

    #[test]
    fn top_k_top_p_and_forbidden_bound_what_is_drawn() {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits = [0.5_f32.ln(), 0.25_f32.ln(), 0.125_f32.ln(), 0.125_f32.ln()];
        check_drawn(&logits, &warm(1.0, 0, 1.0), &[], &[0, 1, 2, 3]);
        check_drawn(&logits, &warm(1.0, 2, 1.0), &[], &[0, 1]);
        check_drawn(&logits, &warm(1.0, 3, 1.0), &[], &[0, 1, 2, 3]);
        check_drawn(&logits, &warm(1.0, 0, 0.7), &[], &[0, 1]);
        check_drawn(&logits, &warm(1.0, 0, 0.4), &[], &[0]);
        check_drawn(&logits, &warm(1.0, 2, 1.0), &[0], &[1, 2, 3]);
        check_drawn(&logits, &warm(1.0, 99, 1.0), &[0, 2, 3], &[1]);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.75_f32.ln(), 0.25_f32.ln()];
        let hits = (0..4000)
            .filter(|position| {
                let row = SampleRow {
                    output_position: *position,
                    ..row(warm(1.0, 0, 1.0), &[])
                };
                sample(&mut logits.clone(), &row).token == 1
            })
            .count();
        assert!((900..1100).contains(&hits), "{hits} of 4000, 1000 expected");
    }

    proptest! {
        /// A draw is a function of (logits, settings, seed, position), and in the vocabulary.
        #[test]
        fn the_same_row_gives_the_same_token(
            logits in vec(-20.0_f32..20.0, 1..50),
            temperature in 0.0_f32..3.0,
            top_k in 0_u32..60,
            top_p in 0.01_f32..1.0,
            seed: u64,
            output_position: u64,
        ) {
            let sampling = Sampling { temperature, top_p, top_k, seed };
            let row = SampleRow { sampling, output_position, forbidden: vec![] };
            let first = sample(&mut logits.clone(), &row);
            prop_assert_eq!(first, sample(&mut logits.clone(), &row));
            prop_assert!((first.token as usize) < logits.len());
            prop_assert!(first.logprob <= 1e-3);
        }
    }
}
