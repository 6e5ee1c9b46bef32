//! How far each pair of channels of a head turns from one position to the next.

use crate::config::{ModelConfig, Rope, RopeScaling};

/// Radians, by pair.
#[derive(Clone, Debug)]
pub(crate) struct Frequencies(Vec<f32>);

// === impl Frequencies ===

impl Frequencies {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let pair_count = config.head_dim / 2;
        let plain = (0..pair_count).map(|pair| {
            let exponent = real(2 * pair) / real(config.head_dim);
            1.0 / config.rope.theta.powf(exponent)
        });
        Self(
            plain
                .enumerate()
                .map(|(pair, frequency)| scaled(&config.rope, pair, frequency))
                .collect(),
        )
    }

    /// Pairs of a head.
    pub(crate) fn pair_count(&self) -> usize {
        self.0.len()
    }

    /// How far each pair is turned at `position`, radians.
    pub(crate) fn angles(&self, position: usize) -> impl Iterator<Item = f32> {
        self.0
            .iter()
            .map(move |frequency| real(position) * frequency)
    }
}

/// The frequency of pair number `pair` after stretching its wavelength.
fn scaled(rope: &Rope, pair: usize, frequency: f32) -> f32 {
    match &rope.scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::PerFrequency(factors) => frequency / factors[pair],
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_positions,
        } => {
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            let turns = original_positions / wavelength;
            if turns < *low_freq_factor {
                return frequency / factor;
            }
            if turns > *high_freq_factor {
                return frequency;
            }
            let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            (1.0 - kept) * frequency / factor + kept * frequency
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "positions and widths are below 2^24 in use"
)]
fn real(count: usize) -> f32 {
    count as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(scaling: RopeScaling, theta: f32, expected: &[f32]) {
        let mut config = crate::tiny::config();
        config.head_dim = 2 * expected.len();
        config.rope = Rope { theta, scaling };
        let Frequencies(found) = Frequencies::new(&config);
        let near = found
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs());
        assert!(
            near && found.len() == expected.len(),
            "{found:?} is not {expected:?}"
        );
    }

    #[test]
    fn frequencies_fall_geometrically() {
        check(RopeScaling::None, 10_000.0, &[1.0, 0.1, 0.01, 0.001]);
    }

    #[test]
    fn linear_scaling_divides_them_all() {
        check(
            RopeScaling::Linear { factor: 4.0 },
            10_000.0,
            &[0.25, 0.025, 0.0025, 0.00025],
        );
    }

    #[test]
    fn factors_from_a_file_divide_each() {
        let factors = RopeScaling::PerFrequency(vec![1.0, 1.0, 2.0, 8.0]);
        check(factors, 10_000.0, &[1.0, 0.1, 0.005, 0.000_125]);
    }

    /// Against `_compute_llama3_parameters` of transformers for 8 channels, theta 500,000,
    /// factor 8, low 1, high 4, 8,192 positions.
    #[test]
    fn llama3_scaling_keeps_short_waves_and_stretches_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 8192.0,
        };
        check(scaling, 500_000.0, LLAMA3);
    }

    const LLAMA3: &[f32] = &[1.0, 0.037_606_03, 0.000_524_846, 6.647_869_7e-6];
}
