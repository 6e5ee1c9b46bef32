//! The gated activation of the feed-forward block: `silu(gate) · up`.

use crate::exp::exp;
use crate::lanes::{Kernel, Lanes, WIDTH, compute, padded};
use crate::tier::Tier;

/// Writes `gate / (1 + exp(-gate)) · up` to `out`. All have the same length.
pub fn silu_mul(tier: Tier, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(
        gate.len() == up.len() && gate.len() == out.len(),
        "gate, up and their product are of one length"
    );
    compute(tier, SiluMul { gate, up, out });
}

struct SiluMul<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for SiluMul<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (gates, gate_rest) = self.gate.as_chunks::<WIDTH>();
        let (ups, up_rest) = self.up.as_chunks::<WIDTH>();
        let (outs, out_rest) = self.out.as_chunks_mut::<WIDTH>();
        for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
            lanes(L::load(gate), L::load(up)).store(out);
        }
        let (gate, up) = (padded(gate_rest, 0.0), padded(up_rest, 0.0));
        let mut rest = [0.0; WIDTH];
        lanes(L::load(&gate), L::load(&up)).store(&mut rest);
        out_rest.copy_from_slice(&rest[..out_rest.len()]);
    }
}

#[inline(always)]
fn lanes<L: Lanes>(gate: L, up: L) -> L {
    let one = L::splat(1.0);
    let away = exp(L::splat(0.0).sub(gate));
    gate.div(one.add(away)).mul(up)
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
            let run = |tier| {
                let mut out = vec![f32::NAN; gate.len()];
                silu_mul(tier, &gate, &up, &mut out);
                out
            };
            let found = run(Tier::Portable);
            for ((found, gate), up) in found.iter().zip(&gate).zip(&up) {
                let (gate, up) = (f64::from(*gate), f64::from(*up));
                let expected = gate / (1.0 + (-gate).exp()) * up;
                prop_assert!((f64::from(*found) - expected).abs() <= 1e-6 * expected.abs() + 1e-30);
            }
            for tier in Tier::here() {
                prop_assert!(run(tier) == found, "{:?}", tier);
            }
        }
    }
}
