//! How far each pair of channels of a head turns from one position to the next.

use crate::config::{LongRope, ModelConfig, Rope, RopeScaling, Yarn};

/// The turns of one kind of layer.
#[derive(Clone, Debug)]
pub(crate) struct Frequencies {
    /// Radians, by pair.
    by_pair: Vec<f32>,
    magnitude: f32,
}

// === impl Frequencies ===

impl Frequencies {
    /// For layers that see all positions.
    pub(crate) fn new(config: &ModelConfig) -> Self {
        Self::of(&config.rope, config.position_count_max)
    }

    /// Of a model that is served with at most `position_count` positions.
    pub(crate) fn of(rope: &Rope, position_count: usize) -> Self {
        let frequency = |pair| {
            let exponent = real(2 * pair) / real(rope.rotated);
            let plain = 1.0 / rope.theta.powf(exponent);
            scaled(rope, position_count, pair, plain)
        };
        Self {
            by_pair: (0..rope.rotated / 2).map(frequency).collect(),
            magnitude: match &rope.scaling {
                RopeScaling::Yarn(yarn) => yarn.magnitude,
                RopeScaling::LongRope(long) => long.magnitude,
                _ => 1.0,
            },
        }
    }

    /// Pairs of a head that are turned.
    pub(crate) fn pair_count(&self) -> usize {
        self.by_pair.len()
    }

    /// What turned channels are multiplied with.
    pub(crate) fn magnitude(&self) -> f32 {
        self.magnitude
    }

    /// How far each pair is turned at `position`, radians.
    pub(crate) fn angles(&self, position: usize) -> impl Iterator<Item = f32> {
        self.by_pair
            .iter()
            .map(move |frequency| real(position) * frequency)
    }
}

/// The frequency of pair number `pair` after stretching its wavelength.
fn scaled(rope: &Rope, position_count: usize, pair: usize, frequency: f32) -> f32 {
    match &rope.scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::PerFrequency(factors) => frequency / factors[pair],
        RopeScaling::LongRope(LongRope {
            short,
            long,
            original_positions,
            ..
        }) => {
            let is_long = real(position_count) > *original_positions;
            frequency / if is_long { long[pair] } else { short[pair] }
        }
        RopeScaling::Yarn(yarn) => {
            let kept = kept_by_yarn(yarn, rope, pair);
            frequency / yarn.factor * (1.0 - kept) + frequency * kept
        }
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

/// How much of a pair's frequency is kept: 1 for the first pairs, 0 for the last ones.
fn kept_by_yarn(yarn: &Yarn, rope: &Rope, pair: usize) -> f32 {
    let rotated = real(rope.rotated);
    let pair_that_turns = |count: f32| {
        let wavelength = yarn.original_positions / (count * 2.0 * std::f32::consts::PI);
        rotated * wavelength.ln() / (2.0 * rope.theta.ln())
    };
    let (mut first, mut last) = (
        pair_that_turns(yarn.beta_fast),
        pair_that_turns(yarn.beta_slow),
    );
    if yarn.is_truncated {
        (first, last) = (first.floor(), last.ceil());
    }
    (first, last) = (first.max(0.0), last.min(rotated - 1.0));
    // Transformers avoids dividing by zero so.
    let width = if first == last { 0.001 } else { last - first };
    1.0 - ((real(pair) - first) / width).clamp(0.0, 1.0)
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
        let rotated = 2 * expected.len();
        let rope = Rope {
            theta,
            rotated,
            scaling,
        };
        let found = Frequencies::of(&rope, 128).by_pair;
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

    /// Against `_compute_yarn_parameters` of transformers for 16 channels, theta 10,000, factor 4,
    /// 256 positions.
    #[test]
    fn yarn_blends_between_the_pairs_that_turn_fast_and_slowly() {
        let scaling = RopeScaling::Yarn(Yarn {
            factor: 4.0,
            original_positions: 256.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            is_truncated: true,
            magnitude: 1.138_629_4,
        });
        check(scaling, 10_000.0, YARN);
    }

    #[test]
    fn longrope_has_factors_for_short_and_for_long_contexts() {
        let scaling = |original_positions| {
            RopeScaling::LongRope(LongRope {
                short: vec![1.0, 1.0, 1.0, 2.0],
                long: vec![1.0, 2.0, 4.0, 8.0],
                original_positions,
                magnitude: 1.2,
            })
        };
        check(scaling(128.0), 10_000.0, &[1.0, 0.1, 0.01, 0.000_5]);
        check(scaling(127.0), 10_000.0, &[1.0, 0.05, 0.0025, 0.000_125]);
    }

    const YARN: &[f32] = &[
        1.0,
        0.256_935_06,
        0.062_5,
        0.013_834_965,
        0.002_5,
        0.000_790_569_5,
        0.000_25,
        7.905_694e-5,
    ];
    const LLAMA3: &[f32] = &[1.0, 0.037_606_03, 0.000_524_846, 6.647_869_7e-6];
}
