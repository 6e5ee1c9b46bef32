//! The gated activation of the feed-forward block: `silu(gate) · up`, or `gelu(gate) · up`.

use std::marker::PhantomData;

use crate::exp::exp;
use crate::lanes::{Kernel, Lanes, WIDTH, compute, padded};
use crate::tier::Tier;

/// √(2/π), of the approximation of GELU by tanh.
const ROOT: f32 = 0.797_884_6;
/// Its cubic term.
const CUBIC: f32 = 0.044_715;

/// Writes `gate / (1 + exp(-gate)) · up` to `out`. All have the same length.
pub fn silu_mul(tier: Tier, gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated::<Silu>(tier, gate, up, out);
}

/// Writes `gelu(gate) · up` to `out`, with GELU by its approximation with tanh:
/// `x / 2 · (1 + tanh(u)) = x / (1 + exp(-2u))` with `u = √(2/π) · (x + 0.044715 x³)`. All have
/// the same length.
pub fn gelu_tanh_mul(tier: Tier, gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated::<GeluTanh>(tier, gate, up, out);
}

/// What an activation divides by: `x / (1 + exp(of x))`.
trait Exponent {
    fn of<L: Lanes>(x: L) -> L;
}

struct Silu;

struct GeluTanh;

struct Gated<'a, E> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
    exponent: PhantomData<E>,
}

impl Exponent for Silu {
    #[inline(always)]
    fn of<L: Lanes>(x: L) -> L {
        L::splat(0.0).sub(x)
    }
}

impl Exponent for GeluTanh {
    #[inline(always)]
    fn of<L: Lanes>(x: L) -> L {
        let factor = x
            .mul(x)
            .mul_add(L::splat(-2.0 * ROOT * CUBIC), L::splat(-2.0 * ROOT));
        factor.mul(x)
    }
}

fn gated<E: Exponent>(tier: Tier, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(
        gate.len() == up.len() && gate.len() == out.len(),
        "gate, up and their product are of one length"
    );
    let exponent = PhantomData::<E>;
    let kernel = Gated {
        gate,
        up,
        out,
        exponent,
    };
    compute(tier, kernel);
}

impl<E: Exponent> Kernel for Gated<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (gates, gate_rest) = self.gate.as_chunks::<WIDTH>();
        let (ups, up_rest) = self.up.as_chunks::<WIDTH>();
        let (outs, out_rest) = self.out.as_chunks_mut::<WIDTH>();
        for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
            lanes::<L, E>(L::load(gate), L::load(up)).store(out);
        }
        let (gate, up) = (padded(gate_rest, 0.0), padded(up_rest, 0.0));
        let mut rest = [0.0; WIDTH];
        lanes::<L, E>(L::load(&gate), L::load(&up)).store(&mut rest);
        out_rest.copy_from_slice(&rest[..out_rest.len()]);
    }
}

#[inline(always)]
fn lanes<L: Lanes, E: Exponent>(gate: L, up: L) -> L {
    let one = L::splat(1.0);
    gate.div(one.add(exp(E::of(gate)))).mul(up)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the formula in f64; every tier the same bits.
        #[test]
        fn gated_values_are_those_of_the_formula_on_every_tier(
            pairs in prop::collection::vec((-100.0_f32..100.0, -4.0_f32..4.0), 1..70),
        ) {
            let (gate, up): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let gelu = |x: f64| {
                let inner = f64::from(ROOT) * (x + f64::from(CUBIC) * x.powi(3));
                x / (1.0 + (-2.0 * inner).exp())
            };
            check(silu_mul, |x| x / (1.0 + (-x).exp()), &gate, &up);
            check(gelu_tanh_mul, gelu, &gate, &up);
        }
    }

    #[track_caller]
    fn check(
        kernel: fn(Tier, &[f32], &[f32], &mut [f32]),
        formula: impl Fn(f64) -> f64,
        gate: &[f32],
        up: &[f32],
    ) {
        let run = |tier| {
            let mut out = vec![f32::NAN; gate.len()];
            kernel(tier, gate, up, &mut out);
            out
        };
        let found = run(Tier::Portable);
        for ((found, gate), up) in found.iter().zip(gate).zip(up) {
            let expected = formula(f64::from(*gate)) * f64::from(*up);
            // The exponent's own rounding counts: it is up to 88 in magnitude.
            let allowed = 1e-5 * expected.abs() + 1e-30;
            assert!(
                (f64::from(*found) - expected).abs() <= allowed,
                "{gate}, {up}: {found} is not {expected}"
            );
        }
        for tier in Tier::here() {
            assert!(run(tier) == found, "{tier:?}");
        }
    }
}
