//! What kernels ask of a set of vector instructions.
//!
//! Kernels are written once over these traits. Every method is inlined into a function that
//! enables the instructions; called from elsewhere it would be undefined.
#![allow(
    unsafe_code,
    reason = "vector instructions and the addresses that they read"
)]

use super::activations::Filled;

/// A vector of f32 sums, one output in each lane.
pub(crate) trait Vector {
    /// The vector.
    type Sums: Copy;
    /// As wide: an i32 for each output, or four codes.
    type Integers: Copy;
    /// Outputs in it.
    const LANES: usize;

    /// # Safety
    /// The CPU has the instructions.
    unsafe fn zero() -> Self::Sums;

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

    /// The same in each lane.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn all(value: i32) -> Self::Integers;

    /// Four activations, the same in each lane.
    ///
    /// # Safety
    /// The CPU has the instructions, and `x` points to four codes.
    #[inline(always)]
    unsafe fn quad(x: *const i8) -> Self::Integers {
        // SAFETY: as the caller promises.
        unsafe { Self::all(x.cast::<i32>().read_unaligned()) }
    }

    /// # Safety
    /// The CPU has the instructions, and `halves` points to an f16 for each lane.
    unsafe fn widen(halves: *const u8) -> Self::Sums;

    /// `sums + dots · (scale · scales)`, the last two steps as one.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn add_scaled(
        sums: Self::Sums,
        dots: Self::Integers,
        scale: f32,
        scales: Self::Sums,
    ) -> Self::Sums;

    /// `sums + minimums · factor` as one step.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn add_minimums(sums: Self::Sums, minimums: Self::Sums, factor: f32) -> Self::Sums;
}

/// A vector's sums.
pub(crate) type Sums<V> = <V as Vector>::Sums;

/// Its integers.
pub(crate) type Integers<V> = <V as Vector>::Integers;

/// Adds products of bf16 pairs to sums.
pub(crate) trait PairLanes {
    /// Of sums.
    type Vector: Vector;
    /// A pair of weights for each output.
    type Weights: Copy;
    /// A pair of activations, the same in each lane.
    type Pair: Copy;
    /// What activations are stored as.
    type Stored: Copy;
    /// How many vectors of sums of one row have room in the registers, by the number of rows that
    /// are computed together: 1, 2, …
    const TILES: &'static [usize];

    /// The activations that these lanes read.
    fn stored<'a>(x: &Filled<'a>) -> &'a [Self::Stored];

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
    unsafe fn add(
        sums: Sums<Self::Vector>,
        weights: Self::Weights,
        pair: Self::Pair,
    ) -> Sums<Self::Vector>;
}

/// Adds exact products of codes to integers, and blocks of those to sums.
pub(crate) trait CodeLanes {
    /// Of sums.
    type Vector: Vector;
    /// Four codes for each output.
    type Codes: Copy;
    /// As [`PairLanes::TILES`].
    const TILES: &'static [usize];
    /// Whether codes of 8 bits are multiplied as they are stored, 128 above their value.
    const BYTES_KEEP_OFFSET: bool;

    /// Codes of 8 bits.
    ///
    /// # Safety
    /// The CPU has the instructions, and `codes` points to four for each lane.
    unsafe fn bytes(codes: *const u8) -> Self::Codes;

    /// Codes of 4 bits: those of the low halves, and those of the high ones.
    ///
    /// # Safety
    /// As [`Self::bytes`].
    unsafe fn halves(codes: *const u8) -> [Self::Codes; 2];

    /// Adds the four products of each lane.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn add(
        dots: Integers<Self::Vector>,
        codes: Self::Codes,
        quad: Integers<Self::Vector>,
    ) -> Integers<Self::Vector>;
}
