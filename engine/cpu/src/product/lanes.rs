//! What kernels ask of a set of vector instructions.
//!
//! Kernels are written once over these traits. Every method is inlined into a function that
//! enables the instructions; called from elsewhere they would be undefined.
#![allow(
    unsafe_code,
    reason = "vector instructions and the addresses that they read"
)]

use super::activations::Filled;

/// Adds products of bf16 pairs to sums, one output in each lane.
pub(super) trait PairLanes {
    /// One f32 for each output.
    type Sums: Copy;
    /// A pair of weights for each output.
    type Weights: Copy;
    /// A pair of activations, the same in each lane.
    type Pair: Copy;
    /// What activations are stored as.
    type Stored: Copy;
    /// Outputs in a vector.
    const LANES: usize;
    /// Vectors of sums that fit the registers beside what else is needed, for tiles of 1, 2, … rows
    /// by so many vectors; as many rows as there are entries are computed together.
    const TILES: &'static [usize];

    /// The activations that these lanes read.
    fn stored<'a>(x: &Filled<'a>) -> &'a [Self::Stored];

    /// # Safety
    /// The CPU has the instructions.
    unsafe fn zero() -> Self::Sums;

    /// # Safety
    /// The CPU has the instructions, and `weights` points to a pair for each lane.
    unsafe fn weights(weights: *const u32) -> Self::Weights;

    /// # Safety
    /// The CPU has the instructions, and `x` points to two activations.
    unsafe fn pair(x: *const Self::Stored) -> Self::Pair;

    /// Adds the odd product, then the even one.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn add(sums: Self::Sums, weights: Self::Weights, pair: Self::Pair) -> Self::Sums;

    /// Fewer than there are lanes are the first ones.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn load(from: &[f32]) -> Self::Sums;

    /// Fewer than there are lanes are the first ones.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn store(sums: Self::Sums, into: &mut [f32]);
}
