//! Bucket bounds, as in vLLM's `v1/metrics/loggers.py`.

/// Time to the first token, in seconds.
pub(super) const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

/// Time between tokens, in seconds.
pub(super) const INTER_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];

/// Times of whole requests, in seconds.
pub(super) const REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// Tokens of one step.
pub(super) const STEP_TOKENS: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];

/// Answers that one request asks for.
pub(super) const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// 1, 2, 5, 10, 20, 50 … as far as `most`.
pub(super) fn one_two_five(most: usize) -> Vec<f64> {
    // The last that fits into its type.
    let most = u32::try_from(most).map_or(2_000_000_000, |most| most.min(2_000_000_000));
    let decades = (0..=9).map(|exponent| 10_u32.pow(exponent));
    decades
        .flat_map(|decade| [1, 2, 5].map(|step| decade.saturating_mul(step)))
        .take_while(|bound| *bound <= most)
        .map(f64::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_go_as_far_as_the_model_does() {
        assert_eq!(one_two_five(99), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(one_two_five(1), [1.0]);
        assert_eq!(one_two_five(usize::MAX).last(), Some(&2e9));
    }
}
