//! The bf16 kernel: one pair of inputs after the other.
#![allow(
    unsafe_code,
    reason = "vector instructions and the addresses that they read"
)]

use std::marker::PhantomData;

use super::Task;
use super::chunk::Chunk;
use super::lanes::{PairLanes, Sums, Vector};
use super::tiles::{Kernel, Tile, store, sums_so_far};
use crate::matrix::PANEL;

/// Of a panel, for each pair of inputs.
const PAIR_BYTES: usize = PANEL * 4;

/// The kernel on some lanes.
pub(super) struct Pairs<L>(PhantomData<L>);

// === impl Pairs ===

impl<L: PairLanes> Kernel for Pairs<L> {
    type Vector = L::Vector;
    const TILES: &'static [usize] = L::TILES;
    const GROUP: usize = 4;

    fn unit_bytes(_: &Task<'_>) -> usize {
        PAIR_BYTES
    }

    fn units(task: &Task<'_>) -> usize {
        task.inputs.div_ceil(2)
    }

    #[inline(always)]
    unsafe fn sum_up<const ROWS: usize, const WIDE: usize>(task: &Task<'_>, tile: Tile) {
        let Chunk { from, to } = tile.chunk;
        let stride = task.inputs.next_multiple_of(2);
        let x = &L::stored(&task.x)[tile.row * stride..(tile.row + ROWS) * stride];
        let first = task.first + tile.vector * L::Vector::LANES;
        let weights = &task.panel[from * PAIR_BYTES + first * 4..to * PAIR_BYTES];
        let (x, weights) = (x.as_ptr(), weights.as_ptr().cast::<u32>());
        // SAFETY: the slices hold `ROWS` rows of `stride` activations, and the chunk's pairs of all
        // outputs from the first on, of which there are `WIDE` vectors in the panel; the
        // instructions are there as the caller promises.
        unsafe {
            let mut sums = sums_so_far::<L::Vector, ROWS, WIDE>(task, tile);
            let at = |pair: usize| (weights.add((pair - from) * PANEL), x.add(pair * 2));
            let mut pair = from;
            while pair + Self::GROUP <= to {
                tile.fetch.ask(at(pair).0.cast());
                for next in pair..pair + Self::GROUP {
                    add::<L, ROWS, WIDE>(&mut sums, at(next), stride);
                }
                pair += Self::GROUP;
            }
            for pair in pair..to {
                add::<L, ROWS, WIDE>(&mut sums, at(pair), stride);
            }
            store::<L::Vector, ROWS, WIDE>(task, tile, &sums);
        }
    }
}

/// Adds one pair of inputs to every sum of a tile.
///
/// # Safety
/// The CPU has the instructions of `L`, and the caller enables them; `weights` points to `WIDE`
/// vectors, `x` to two activations in each of `ROWS` rows that are `stride` apart.
#[inline(always)]
unsafe fn add<L: PairLanes, const ROWS: usize, const WIDE: usize>(
    sums: &mut [[Sums<L::Vector>; WIDE]; ROWS],
    (weights, x): (*const u32, *const L::Stored),
    stride: usize,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut loaded = [L::weights(weights); WIDE];
        for (vector, loaded) in loaded.iter_mut().enumerate() {
            *loaded = L::weights(weights.add(vector * L::Vector::LANES));
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let pair = L::pair(x.add(row * stride));
            for (sums, weights) in sums.iter_mut().zip(loaded) {
                *sums = L::add(*sums, weights, pair);
            }
        }
    }
}
