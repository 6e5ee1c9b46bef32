//! Soft caps: `cap · tanh(x / cap)`, which keeps scores and logits between two bounds.

use crate::exp::exp;
use crate::lanes::{Kernel, Lanes, WIDTH, compute, padded};
use crate::tier::Tier;

/// Caps each value softly: it comes to lie between `-cap` and `cap`.
pub fn soft_cap(tier: Tier, cap: f32, values: &mut [f32]) {
    compute(tier, SoftCap { cap, values });
}

struct SoftCap<'a> {
    cap: f32,
    values: &'a mut [f32],
}

impl Kernel for SoftCap<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (chunks, rest) = self.values.as_chunks_mut::<WIDTH>();
        for chunk in chunks {
            capped(L::load(chunk), self.cap).store(chunk);
        }
        let mut last = padded(rest, 0.0);
        capped(L::load(&last), self.cap).store(&mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// `cap - 2 cap / (exp(2x / cap) + 1)`, within `cap / 2^22` of the true value.
#[inline(always)]
pub(crate) fn capped<L: Lanes>(x: L, cap: f32) -> L {
    let power = exp(x.mul(L::splat(2.0 / cap)));
    let rest = L::splat(2.0 * cap).div(power.add(L::splat(1.0)));
    L::splat(cap).sub(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the formula in f64; every tier the same bits.
        #[test]
        fn capped_values_are_those_of_the_formula_on_every_tier(
            values in prop::collection::vec(-300.0_f32..300.0, 1..70),
            cap in 0.5_f32..60.0,
        ) {
            let run = |tier| {
                let mut values = values.clone();
                soft_cap(tier, cap, &mut values);
                values
            };
            let found = run(Tier::Portable);
            for (found, value) in found.iter().zip(&values) {
                let cap = f64::from(cap);
                let expected = cap * (f64::from(*value) / cap).tanh();
                prop_assert!((f64::from(*found) - expected).abs() <= cap / 1e6);
            }
            for tier in Tier::here() {
                prop_assert!(run(tier) == found, "{:?}", tier);
            }
        }
    }
}
