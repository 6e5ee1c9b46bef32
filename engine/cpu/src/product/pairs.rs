//! The bf16 kernel: tiles of some rows by some vectors of outputs, whose sums stay in registers.
//!
//! The panel is the outer loop and rows are the inner one, so that a panel is read from memory
//! once and then from the L2 cache. A panel too long for that is cut into chunks of inputs; sums
//! wait in the result meanwhile, which changes no bit.
#![allow(
    unsafe_code,
    reason = "vector instructions and the addresses that they read"
)]

use super::chunk::{Chunk, Fetch};
use super::lanes::PairLanes;
use super::{STRIP, Task};
use crate::matrix::PANEL;

/// Pairs between two requests for memory.
const GROUP: usize = 4;
/// Of a panel, for each pair of inputs.
const PAIR_BYTES: usize = PANEL * 4;

/// One tile of a task.
#[derive(Clone, Copy)]
struct Tile {
    chunk: Chunk,
    fetch: Fetch,
    row: usize,
    /// The first vector.
    vector: usize,
}

/// Computes a whole task.
///
/// # Safety
/// The CPU has the instructions of `L`, and the caller enables them.
#[inline(always)]
pub(super) unsafe fn compute<L: PairLanes>(task: &Task<'_>) {
    let pairs = task.inputs.div_ceil(2);
    let rows_max = L::TILES.len();
    let tiles = task.rows.div_ceil(rows_max);
    for chunk in task.tuning.chunks(pairs, PAIR_BYTES, GROUP) {
        for index in 0..tiles {
            let row = index * rows_max;
            let chunk_bytes = (chunk.to - chunk.from) * PAIR_BYTES;
            let group_bytes = GROUP * PAIR_BYTES;
            let fetch = if task.width == PANEL {
                task.tuning.fetch((index, tiles), chunk_bytes, group_bytes)
            } else {
                Fetch::NONE
            };
            let tile = Tile {
                chunk,
                fetch,
                row,
                vector: 0,
            };
            // SAFETY: as the caller promises.
            unsafe {
                match rows_max.min(task.rows - row) {
                    1 => strips::<L, 1>(task, tile),
                    2 => strips::<L, 2>(task, tile),
                    3 => strips::<L, 3>(task, tile),
                    4 => strips::<L, 4>(task, tile),
                    5 if const { fits(L::TILES, L::LANES, 5, 2) } => strips::<L, 5>(task, tile),
                    6 if const { fits(L::TILES, L::LANES, 6, 2) } => strips::<L, 6>(task, tile),
                    rows => unreachable!("{rows} rows in a tile"),
                }
            }
        }
    }
}

/// Whether a tile of `rows` by `wide` vectors, which are whole strips, has room in the registers.
pub(super) const fn fits(tiles: &[usize], lanes: usize, rows: usize, wide: usize) -> bool {
    rows <= tiles.len() && wide <= tiles[rows - 1] && (wide * lanes).is_multiple_of(STRIP)
}

/// `ROWS` rows over the whole width of the task.
///
/// # Safety
/// As [`compute`].
#[inline(always)]
unsafe fn strips<L: PairLanes, const ROWS: usize>(task: &Task<'_>, mut tile: Tile) {
    let vectors = task.width / L::LANES;
    while tile.vector < vectors {
        let wide = L::TILES[ROWS - 1].min(vectors - tile.vector);
        // SAFETY: as the caller promises.
        unsafe {
            match wide {
                1 if const { fits(L::TILES, L::LANES, ROWS, 1) } => {
                    sum_up::<L, ROWS, 1>(task, tile);
                }
                2 if const { fits(L::TILES, L::LANES, ROWS, 2) } => {
                    sum_up::<L, ROWS, 2>(task, tile);
                }
                3 if const { fits(L::TILES, L::LANES, ROWS, 3) } => {
                    sum_up::<L, ROWS, 3>(task, tile);
                }
                4 if const { fits(L::TILES, L::LANES, ROWS, 4) } => {
                    sum_up::<L, ROWS, 4>(task, tile);
                }
                6 if const { fits(L::TILES, L::LANES, ROWS, 6) } => {
                    sum_up::<L, ROWS, 6>(task, tile);
                }
                8 if const { fits(L::TILES, L::LANES, ROWS, 8) } => {
                    sum_up::<L, ROWS, 8>(task, tile);
                }
                wide => unreachable!("{wide} vectors in a tile"),
            }
        }
        tile.vector += wide;
        tile.fetch = Fetch::NONE;
    }
}

/// `ROWS` rows by `WIDE` vectors.
///
/// # Safety
/// As [`compute`].
#[inline(always)]
unsafe fn sum_up<L: PairLanes, const ROWS: usize, const WIDE: usize>(task: &Task<'_>, tile: Tile) {
    let Chunk { from, to } = tile.chunk;
    let stride = task.inputs.next_multiple_of(2);
    let x = &L::stored(&task.x)[tile.row * stride..(tile.row + ROWS) * stride];
    let first = task.first + tile.vector * L::LANES;
    let weights = &task.panel[from * PAIR_BYTES + first * 4..to * PAIR_BYTES];
    let (x, weights) = (x.as_ptr(), weights.as_ptr().cast::<u32>());
    // SAFETY: the slices above hold `ROWS` rows of `stride` activations and the chunk's pairs of
    // all outputs from the first on, of which there are `WIDE` vectors in the panel; the
    // instructions are there as the caller promises.
    unsafe {
        let mut sums = [[L::zero(); WIDE]; ROWS];
        if from > 0 {
            load::<L, ROWS, WIDE>(task, tile, &mut sums);
        }
        let at = |pair: usize| (weights.add((pair - from) * PANEL), x.add(pair * 2));
        let mut pair = from;
        while pair + GROUP <= to {
            tile.fetch.ask(at(pair).0.cast());
            for next in pair..pair + GROUP {
                add::<L, ROWS, WIDE>(&mut sums, at(next), stride);
            }
            pair += GROUP;
        }
        for pair in pair..to {
            add::<L, ROWS, WIDE>(&mut sums, at(pair), stride);
        }
        store::<L, ROWS, WIDE>(task, tile, &sums);
    }
}

/// Adds one pair of inputs to every sum of a tile.
///
/// # Safety
/// As [`compute`]; `weights` points to `WIDE` vectors, `x` to two activations in each of `ROWS`
/// rows that are `stride` apart.
#[inline(always)]
unsafe fn add<L: PairLanes, const ROWS: usize, const WIDE: usize>(
    sums: &mut [[L::Sums; WIDE]; ROWS],
    (weights, x): (*const u32, *const L::Stored),
    stride: usize,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut loaded = [L::weights(weights); WIDE];
        for (vector, loaded) in loaded.iter_mut().enumerate() {
            *loaded = L::weights(weights.add(vector * L::LANES));
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let pair = L::pair(x.add(row * stride));
            for (sums, weights) in sums.iter_mut().zip(loaded) {
                *sums = L::add(*sums, weights, pair);
            }
        }
    }
}

/// # Safety
/// As [`compute`].
#[inline(always)]
unsafe fn load<L: PairLanes, const ROWS: usize, const WIDE: usize>(
    task: &Task<'_>,
    tile: Tile,
    sums: &mut [[L::Sums; WIDE]; ROWS],
) {
    for (row, sums) in sums.iter_mut().enumerate() {
        let out = task.out_of(tile.row + row);
        for (vector, sums) in sums.iter_mut().enumerate() {
            let first = out.len().min((tile.vector + vector) * L::LANES);
            // SAFETY: as the caller promises.
            *sums = unsafe { L::load(&out[first..]) };
        }
    }
}

/// # Safety
/// As [`compute`].
#[inline(always)]
unsafe fn store<L: PairLanes, const ROWS: usize, const WIDE: usize>(
    task: &Task<'_>,
    tile: Tile,
    sums: &[[L::Sums; WIDE]; ROWS],
) {
    for (row, sums) in sums.iter().enumerate() {
        let out = task.out_of(tile.row + row);
        for (vector, sums) in sums.iter().enumerate() {
            let first = out.len().min((tile.vector + vector) * L::LANES);
            // SAFETY: as the caller promises.
            unsafe { L::store(*sums, &mut out[first..]) };
        }
    }
}
