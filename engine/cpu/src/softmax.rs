//! Softmax over a few values, as a router of experts needs it.

use crate::exp::exp;
use crate::lanes::{Kernel, Lanes, WIDTH, compute, padded};
use crate::tier::Tier;

/// Replaces values by their softmax: exponentials relative to the greatest, over their sum, which
/// is made one by one in ascending order.
pub fn softmax(tier: Tier, values: &mut [f32]) {
    let greatest = values.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    compute(tier, Exponentials { greatest, values });
    let sum: f32 = values.iter().sum();
    for value in values {
        *value /= sum;
    }
}

struct Exponentials<'a> {
    greatest: f32,
    values: &'a mut [f32],
}

impl Kernel for Exponentials<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let greatest = L::splat(self.greatest);
        let (chunks, rest) = self.values.as_chunks_mut::<WIDTH>();
        for chunk in chunks {
            exp(L::load(chunk).sub(greatest)).store(chunk);
        }
        let mut last = padded(rest, self.greatest);
        exp(L::load(&last).sub(greatest)).store(&mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the formula in f64; every tier the same bits.
        #[test]
        fn it_is_that_of_the_formula_on_every_tier(
            values in prop::collection::vec(-30.0_f32..30.0, 1..130),
        ) {
            let run = |tier| {
                let mut values = values.clone();
                softmax(tier, &mut values);
                values
            };
            let found = run(Tier::Portable);
            let sum: f64 = values.iter().map(|value| f64::from(*value).exp()).sum();
            for (found, value) in found.iter().zip(&values) {
                let expected = f64::from(*value).exp() / sum;
                prop_assert!((f64::from(*found) - expected).abs() <= 1e-5 * expected + 1e-30);
            }
            for tier in Tier::here() {
                prop_assert!(run(tier) == found, "{:?}", tier);
            }
        }
    }
}
