//! The sampler against Hugging Face's LogitsProcessors: `golden/sampler.json`, made by
//! `golden/make_sampler.py`.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: clippy allows it in test functions only"
)]

use std::sync::Arc;

use berth_engine_core::batch::{SampleRow, TokenId};
use berth_engine_core::sampling::{Penalties, Rules, Sampling, sample};
use serde::Deserialize;

/// Each draw has a seed of its own.
const DRAWS: u32 = 4000;

#[derive(Deserialize)]
struct Golden {
    eos: TokenId,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    temperature: f32,
    top_p: f32,
    top_k: u32,
    min_p: f32,
    repetition_penalty: f32,
    bad_words: Vec<Vec<TokenId>>,
    logit_bias: Vec<(TokenId, f32)>,
    min_tokens: usize,
    logits: Vec<f32>,
    prompt: Vec<TokenId>,
    output: Vec<TokenId>,
    /// Of the unprocessed logits.
    logprobs: Vec<f32>,
    greedy: TokenId,
    /// What all processors leave.
    probabilities: Vec<f64>,
}

// === impl Case ===

impl Case {
    fn row(&self, temperature: f32, seed: u64, eos: TokenId) -> SampleRow {
        let rules = Rules {
            bad_words: self.bad_words.clone(),
            bias: self.logit_bias.clone(),
            ..Rules::default()
        };
        let penalties = Penalties {
            repetition: self.repetition_penalty,
            ..Penalties::default()
        };
        let is_early = self.output.len() < self.min_tokens;
        SampleRow {
            sampling: Sampling {
                temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                min_p: self.min_p,
                penalties,
                rules: Some(Arc::new(rules)),
                top_logprob_count: 3,
                seed,
            },
            output_position: self.output.len() as u64,
            forbidden: is_early.then_some(eos).into_iter().collect(),
            history: [self.prompt.as_slice(), &self.output].concat(),
        }
    }

    /// How often each token was drawn.
    fn frequencies(&self, eos: TokenId) -> Vec<f64> {
        let mut counts = vec![0_u32; self.logits.len()];
        for seed in 0..u64::from(DRAWS) {
            let row = self.row(self.temperature, seed, eos);
            counts[sample(&mut self.logits.clone(), &row).token as usize] += 1;
        }
        let share = |count| f64::from(count) / f64::from(DRAWS);
        counts.into_iter().map(share).collect()
    }
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/sampler.json")).unwrap()
}

#[test]
fn greedy_takes_what_the_processors_leave_on_top_and_tells_how_likely_it_was() {
    let golden = golden();
    for (index, case) in golden.cases.iter().enumerate() {
        let choice = sample(&mut case.logits.clone(), &case.row(0.0, 0, golden.eos));
        assert_eq!(choice.token, case.greedy, "case {index}");
        let expected = case.logprobs[case.greedy as usize];
        assert!((choice.logprob - expected).abs() < 2e-5, "case {index}");
        let mut ranked: Vec<usize> = (0..case.logprobs.len()).collect();
        ranked.sort_by(|a, b| case.logprobs[*b].total_cmp(&case.logprobs[*a]));
        let told = choice.top_logprobs.iter().map(|top| top.token as usize);
        assert!(told.eq(ranked[..3].iter().copied()), "case {index}");
    }
}

/// A token that the processors take away is never drawn; the others as often as they leave them, within
/// five standard deviations. The seeds are fixed, so the outcome is.
#[test]
fn draws_follow_what_the_processors_leave() {
    let golden = golden();
    for (index, case) in golden.cases.iter().enumerate() {
        let found = case.frequencies(golden.eos);
        for (token, (found, expected)) in found.iter().zip(&case.probabilities).enumerate() {
            let deviation = (expected * (1.0 - expected) / f64::from(DRAWS)).sqrt();
            let near = (found - expected).abs() <= 5.0 * deviation + 1e-4;
            let taken_away = *expected == 0.0 && *found > 0.0;
            assert!(
                near && !taken_away,
                "case {index}, token {token}: {found}, not {expected}"
            );
        }
    }
}
