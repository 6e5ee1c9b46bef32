//! Sixteen f32 side by side, with the same bits on every tier.
//!
//! The kernels here are written once over [`Lanes`] and compiled for each tier. Every operation
//! is the IEEE one, a fused multiply-add is fused everywhere, and sums over lanes are made in one
//! order by one function: so tiers differ in speed only. (A machine without FMA instructions
//! calls the C library for each of them.)

use crate::tier::Tier;

#[cfg(target_arch = "x86_64")]
mod x86;

/// Lanes of a [`Lanes`].
pub(crate) const WIDTH: usize = 16;

/// Sixteen f32.
pub(crate) trait Lanes: Copy {
    /// Queries that attention takes at a time: what fits the registers.
    const QUERIES_AT_ONCE: usize;

    fn splat(value: f32) -> Self;
    fn load(from: &[f32; WIDTH]) -> Self;
    fn store(self, to: &mut [f32; WIDTH]);
    /// `self * by + plus`, rounded once.
    fn mul_add(self, by: Self, plus: Self) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `self` where it is greater, else `other`: also where either is not a number.
    fn max(self, other: Self) -> Self;
    /// `self` where it is less, else `other`.
    fn min(self, other: Self) -> Self;
    /// 2 to the power of the low bits of each lane's pattern, less the bias: see [`crate::exp`].
    fn exp2_of_low_bits(self) -> Self;
    /// Zero where `x` is below `bound`, else `self`.
    fn zero_where_below(self, x: Self, bound: f32) -> Self;
}

/// Something to compute over any [`Lanes`]. `run` must be `#[inline(always)]`, and so must be
/// what it calls: only then are the tier's instructions used.
pub(crate) trait Kernel {
    type Out;
    fn run<L: Lanes>(self) -> Self::Out;
}

/// The lanes of the portable tier.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; WIDTH]);

/// Computes `kernel` with the tier's instructions.
///
/// # Panics
/// When this machine does not have them.
#[inline]
pub(crate) fn compute<K: Kernel>(tier: Tier, kernel: K) -> K::Out {
    match tier {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512Bf16 | Tier::Avx512Vnni | Tier::Avx512 => x86::compute_avx512(kernel),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => x86::compute_avx2(kernel),
        _ => kernel.run::<Portable>(),
    }
}

/// Adds the lanes up: the upper half to the lower half, until one is left.
#[inline(always)]
pub(crate) fn sum<L: Lanes>(lanes: L) -> f32 {
    fold(lanes, |a, b| a + b)
}

/// The greatest lane.
#[inline(always)]
pub(crate) fn max<L: Lanes>(lanes: L) -> f32 {
    fold(lanes, |a, b| if a > b { a } else { b })
}

#[inline(always)]
fn fold<L: Lanes>(lanes: L, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut all = [0.0; WIDTH];
    lanes.store(&mut all);
    let mut width = WIDTH / 2;
    while width > 0 {
        for lane in 0..width {
            all[lane] = join(all[lane], all[lane + width]);
        }
        width /= 2;
    }
    all[0]
}

/// The first elements of a short slice, `fill` behind them.
#[inline(always)]
pub(crate) fn padded(rest: &[f32], fill: f32) -> [f32; WIDTH] {
    let mut all = [fill; WIDTH];
    all[..rest.len()].copy_from_slice(rest);
    all
}

// === impl Portable ===

impl Portable {
    #[inline(always)]
    fn with(self, other: Self, join: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| {
            join(self.0[lane], other.0[lane])
        }))
    }
}

impl Lanes for Portable {
    const QUERIES_AT_ONCE: usize = 2;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; WIDTH])
    }

    #[inline(always)]
    fn load(from: &[f32; WIDTH]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; WIDTH]) {
        *to = self.0;
    }

    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            self.0[lane].mul_add(by.0[lane], plus.0[lane])
        }))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.with(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.with(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.with(other, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.with(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.with(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn exp2_of_low_bits(self) -> Self {
        Self(
            self.0
                .map(|lane| f32::from_bits((lane.to_bits() << 23).wrapping_add(127 << 23))),
        )
    }

    #[inline(always)]
    fn zero_where_below(self, x: Self, bound: f32) -> Self {
        self.with(x, |value, x| if x < bound { 0.0 } else { value })
    }
}
