//! The sampler: what each setting leaves, and that a draw is a function of its arguments.

use proptest::{collection::vec, prelude::*};

use super::*;

fn row(sampling: Sampling, forbidden: &[TokenId]) -> SampleRow {
    SampleRow {
        sampling,
        output_position: 0,
        forbidden: forbidden.to_vec(),
        ..SampleRow::default()
    }
}

fn warm(temperature: f32, top_k: u32, top_p: f32) -> Sampling {
    Sampling {
        temperature,
        top_p,
        top_k,
        seed: 11,
        ..Sampling::default()
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

/// Greedy with these settings, after `prompt` and `output`.
#[track_caller]
fn check_greedy(logits: &[f32], sampling: Sampling, context: [&[TokenId]; 2], expected: TokenId) {
    let sampling = Sampling {
        temperature: 0.0,
        ..sampling
    };
    let row = SampleRow {
        sampling,
        output_position: context[1].len() as u64,
        forbidden: vec![],
        history: context.concat(),
    };
    assert_eq!(sample(&mut logits.to_vec(), &row).token, expected);
}

fn penalised(repetition: f32, frequency: f32, presence: f32) -> Sampling {
    Sampling {
        penalties: Penalties {
            repetition,
            frequency,
            presence,
        },
        ..Sampling::default()
    }
}

#[test]
fn repetition_counts_in_the_prompt_too_and_divides_or_multiplies() {
    let logits = [2.0, 1.5, -1.0];
    check_greedy(&logits, penalised(1.0, 0.0, 0.0), [&[0], &[]], 0);
    check_greedy(&logits, penalised(2.0, 0.0, 0.0), [&[0], &[]], 1);
    check_greedy(&[-1.0, -1.5], penalised(2.0, 0.0, 0.0), [&[0], &[]], 1);
    check_greedy(&[-1.0, -1.5], penalised(2.0, 0.0, 0.0), [&[], &[0, 0]], 1);
}

#[test]
fn frequency_and_presence_count_in_the_output_only() {
    let logits = [2.0, 1.5, 1.0];
    check_greedy(&logits, penalised(1.0, 0.3, 0.0), [&[0, 0, 0], &[0]], 0);
    check_greedy(&logits, penalised(1.0, 0.3, 0.0), [&[], &[0, 0]], 1);
    check_greedy(&logits, penalised(1.0, 0.0, 0.6), [&[], &[0]], 1);
    check_greedy(&logits, penalised(1.0, 0.0, 0.3), [&[], &[0, 0]], 0);
    check_greedy(&logits, penalised(1.0, 0.0, -0.6), [&[], &[1]], 1);
}

fn ruled(rules: Rules) -> Sampling {
    Sampling {
        rules: Some(Arc::new(rules)),
        ..Sampling::default()
    }
}

#[test]
fn only_allowed_tokens_are_chosen_and_bias_moves_them() {
    let logits = [3.0, 2.0, 1.0];
    let allowed = |tokens: &[TokenId]| {
        ruled(Rules {
            allowed: Some(tokens.to_vec()),
            ..Rules::default()
        })
    };
    check_greedy(&logits, allowed(&[2, 1, 77]), [&[], &[]], 1);
    let bias = ruled(Rules {
        bias: vec![(2, 2.5), (77, 9.0)],
        ..Rules::default()
    });
    check_greedy(&logits, bias, [&[], &[]], 2);
    let both = ruled(Rules {
        allowed: Some(vec![1, 2]),
        bias: vec![(0, 100.0)],
        ..Rules::default()
    });
    check_greedy(&logits, both, [&[], &[]], 1);
}

#[test]
fn a_bad_word_is_stopped_at_its_last_token_and_only_there() {
    let logits = [3.0, 2.0, 1.0];
    let words = |words: &[&[TokenId]]| {
        ruled(Rules {
            bad_words: words.iter().map(|word| word.to_vec()).collect(),
            ..Rules::default()
        })
    };
    check_greedy(&logits, words(&[&[0]]), [&[], &[]], 1);
    check_greedy(&logits, words(&[&[1, 2, 0]]), [&[], &[1, 2]], 1);
    check_greedy(&logits, words(&[&[1, 2, 0]]), [&[], &[2, 2]], 0);
    // The prompt may have it.
    check_greedy(&logits, words(&[&[1, 2, 0]]), [&[1], &[2]], 0);
}

#[test]
fn min_p_leaves_what_is_likely_enough_beside_the_best() {
    // Probabilities 0.5, 0.25, 0.125, 0.125.
    let logits = [0.5_f32.ln(), 0.25_f32.ln(), 0.125_f32.ln(), 0.125_f32.ln()];
    let min_p = |min_p| Sampling {
        min_p,
        ..warm(1.0, 0, 1.0)
    };
    check_drawn(&logits, &min_p(0.4), &[], &[0, 1]);
    check_drawn(&logits, &min_p(0.2), &[], &[0, 1, 2, 3]);
    check_drawn(&logits, &min_p(1.0), &[], &[0]);
    let hot = Sampling {
        temperature: 2.0,
        ..min_p(0.6)
    };
    check_drawn(&logits, &hot, &[], &[0, 1]);
}

#[test]
fn the_most_likely_tokens_are_told_as_the_model_saw_them() {
    let logits = [0.125_f32.ln(), 0.5_f32.ln(), 0.125_f32.ln(), 0.25_f32.ln()];
    let told = |count| {
        let sampling = Sampling {
            top_logprob_count: count,
            ..penalised(5.0, 0.0, 0.0)
        };
        let row = SampleRow {
            history: vec![1],
            ..row(sampling, &[3])
        };
        let top = sample(&mut logits.to_vec(), &row).top_logprobs;
        top.iter()
            .map(|top| (top.token, (top.logprob.exp() * 1000.0).round()))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(0), []);
    assert_eq!(told(3), [(1, 500.0), (3, 250.0), (0, 125.0)]);
    assert_eq!(told(9).len(), 4);
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
        let sampling = Sampling { temperature, top_p, top_k, seed, ..Sampling::default() };
        let row = SampleRow { sampling, output_position, ..SampleRow::default() };
        let first = sample(&mut logits.clone(), &row);
        prop_assert_eq!(&first, &sample(&mut logits.clone(), &row));
        prop_assert!((first.token as usize) < logits.len());
        prop_assert!(first.logprob <= 1e-3);
    }
}
