//! One exponential for all tiers: within 2 units in the last place of the true value.
//!
//! `exp(x) = 2^n · exp(r)` with `n` the whole number next to `x / ln 2` and `|r| ≤ ln 2 / 2`;
//! `exp(r)` is a polynomial of degree 6 whose coefficients are those of Cephes' `expf`.

use crate::lanes::Lanes;

/// Below this the result would not be a normal number: it is zero then.
pub(crate) const LEAST: f32 = -87.336_54;
/// Above this 2^128 would be needed: what is greater counts as this.
const GREATEST: f32 = 88.376_26;
/// 1.5 · 2^23: adding it leaves the whole number next to a small value in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts: products of the first with whole numbers up to 128 are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
const COEFFICIENTS: [f32; 6] = [
    1.987_569_1e-4,
    1.398_2e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    0.5,
];

/// e to the power of each lane. What is not a number stays so; minus infinity gives zero.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(x: L) -> L {
    // This way round, what is not a number goes through.
    let bounded = L::splat(GREATEST).min(L::splat(LEAST).max(x));
    let shifted = bounded.mul_add(L::splat(std::f32::consts::LOG2_E), L::splat(ROUND));
    let whole = shifted.sub(L::splat(ROUND));
    let rest = whole.mul_add(L::splat(-LN_2_HIGH), bounded);
    let rest = whole.mul_add(L::splat(-LN_2_LOW), rest);
    let mut sum = L::splat(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        sum = sum.mul_add(rest, L::splat(*coefficient));
    }
    let power = sum.mul_add(rest.mul(rest), rest).add(L::splat(1.0));
    power
        .mul(shifted.exp2_of_low_bits())
        .zero_where_below(x, LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::{Kernel, WIDTH, compute};
    use crate::tier::Tier;

    struct Exp([f32; WIDTH]);

    impl Kernel for Exp {
        type Out = [f32; WIDTH];

        #[inline(always)]
        fn run<L: Lanes>(self) -> [f32; WIDTH] {
            let mut out = [0.0; WIDTH];
            exp(L::load(&self.0)).store(&mut out);
            out
        }
    }

    fn of(tier: Tier, x: f32) -> f32 {
        compute(tier, Exp([x; WIDTH]))[3]
    }

    /// Numbers over the whole range, many near zero.
    fn samples() -> impl Iterator<Item = f32> {
        let even = (-8_736..8_830_i16).map(|hundredth| f32::from(hundredth) / 100.0 + 0.003_7);
        let small = (1..4_000_i16).map(|step| -f32::from(step) / 3_001.0);
        even.chain(small).filter(|x| *x >= LEAST)
    }

    #[test]
    fn it_is_within_two_units_in_the_last_place() {
        for x in samples() {
            let true_value = f64::from(x).exp();
            let found = of(Tier::Portable, x);
            let unit = f64::from(found.next_up()) - f64::from(found);
            let error = (f64::from(found) - true_value).abs() / unit;
            assert!(error <= 2.0, "exp({x}) is off by {error} units: {found}");
        }
    }

    #[test]
    fn all_tiers_agree_to_the_bit() {
        for tier in Tier::here() {
            for x in samples() {
                assert_eq!(
                    of(tier, x).to_bits(),
                    of(Tier::Portable, x).to_bits(),
                    "{tier:?}: exp({x})"
                );
            }
        }
    }

    #[test]
    fn the_ends_are_zero_one_and_not_a_number() {
        for tier in Tier::here() {
            assert_eq!(of(tier, f32::NEG_INFINITY), 0.0);
            assert_eq!(of(tier, -1e30), 0.0);
            assert_eq!(of(tier, 0.0), 1.0);
            assert!(of(tier, 1e30) > 2e38);
            assert!(of(tier, f32::NAN).is_nan(), "{tier:?}");
        }
    }
}
