//! Root mean square normalisation, with the addition to the residual stream that comes before.

use crate::lanes::{Kernel, Lanes, WIDTH, compute, padded, sum};
use crate::tier::Tier;

/// The normalisation of rows as long as `weight`.
///
/// Squares are added up in sixteen lanes, element `i` in lane `i % 16`, ascending; a row is
/// computed by one thread.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// Whose instructions are used.
    pub tier: Tier,
    /// What each element is multiplied with.
    pub weight: &'a [f32],
    /// Added to the mean of the squares.
    pub eps: f32,
}

// === impl RmsNorm ===

impl RmsNorm<'_> {
    /// Adds `delta` to the residual row `x`, then writes that row, normalised, to `out`.
    ///
    /// # Panics
    /// When they are not as long as the weights.
    pub fn add(&self, x: &mut [f32], delta: &[f32], out: &mut [f32]) {
        let len = self.weight.len();
        assert!(
            x.len() == len && delta.len() == len && out.len() == len,
            "a row, what is added to it and its place are as long as the weights"
        );
        compute(self.tier, Add { x, delta });
        let (scale, weight) = (self.scale(x), self.weight);
        let kernel = Scale {
            x,
            weight,
            scale,
            out,
        };
        compute(self.tier, kernel);
    }

    /// Normalises a row where it is.
    ///
    /// # Panics
    /// When it is not as long as the weights.
    pub fn normalise(&self, x: &mut [f32]) {
        assert_eq!(x.len(), self.weight.len(), "a row as long as the weights");
        let (scale, weight) = (self.scale(x), self.weight);
        compute(self.tier, ScaleOwn { x, weight, scale });
    }

    /// One over the root of the mean square.
    fn scale(&self, x: &[f32]) -> f32 {
        let square_sum = compute(self.tier, SquareSum { x });
        #[expect(clippy::cast_precision_loss, reason = "rows are below 2^20 wide")]
        let len = x.len() as f32;
        1.0 / (square_sum / len + self.eps).sqrt()
    }
}

struct Add<'a> {
    x: &'a mut [f32],
    delta: &'a [f32],
}

struct SquareSum<'a> {
    x: &'a [f32],
}

struct Scale<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    scale: f32,
    out: &'a mut [f32],
}

struct ScaleOwn<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    scale: f32,
}

impl Kernel for Add<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (x, delta) in self.x.iter_mut().zip(self.delta) {
            *x += delta;
        }
    }
}

impl Kernel for SquareSum<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        let (chunks, rest) = self.x.as_chunks::<WIDTH>();
        let mut squares = L::splat(0.0);
        for chunk in chunks {
            let x = L::load(chunk);
            squares = x.mul_add(x, squares);
        }
        let x = L::load(&padded(rest, 0.0));
        sum(x.mul_add(x, squares))
    }
}

impl Kernel for Scale<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        for ((out, x), weight) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = x * self.scale * weight;
        }
    }
}

impl Kernel for ScaleOwn<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (x, weight) in self.x.iter_mut().zip(self.weight) {
            *x = *x * self.scale * weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the formula in f64; every tier the same bits.
        #[test]
        fn a_normalised_row_is_that_of_the_formula_on_every_tier(
            x in prop::collection::vec(-8.0_f32..8.0, 1..200),
            seed in 0_u8..100,
        ) {
            let spread = |index: usize, by: usize| f32::from(u8::try_from((index * by) % 17).unwrap()) / 8.0;
            let delta: Vec<f32> = (0..x.len()).map(|i| spread(i, 5) - f32::from(seed) / 50.0).collect();
            let weight: Vec<f32> = (0..x.len()).map(|i| spread(i, 7)).collect();
            let run = |tier| {
                let (mut x, mut out) = (x.clone(), vec![0.0; x.len()]);
                let norm = RmsNorm { tier, weight: &weight, eps: 1e-5 };
                norm.add(&mut x, &delta, &mut out);
                (x, out)
            };
            let (sums, found) = run(Tier::Portable);
            let mean = sums.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
            for (((found, sum), x), index) in found.iter().zip(&sums).zip(&x).zip(0..) {
                prop_assert_eq!(*sum, x + delta[index]);
                let expected = f64::from(*sum) / (mean + 1e-5).sqrt() * f64::from(weight[index]);
                prop_assert!((f64::from(*found) - expected).abs() <= 1e-5 * expected.abs() + 1e-7);
            }
            for tier in Tier::here() {
                let (tier_sums, tier_found) = run(tier);
                prop_assert!(tier_sums == sums && tier_found == found, "{:?}", tier);
                let mut own = sums.clone();
                RmsNorm { tier, weight: &weight, eps: 1e-5 }.normalise(&mut own);
                prop_assert!(own == found, "{:?} in place", tier);
            }
        }
    }
}
