//! How a task is cut into tiles: some rows by some vectors of outputs, whose sums stay in
//! registers.
//!
//! The panel is the outer loop and rows are the inner one, so that a panel is read from memory
//! once and then from the L2 cache. A panel too long for that is cut into chunks of inputs; sums
//! wait in the result meanwhile, which changes no bit.
#![allow(
    unsafe_code,
    reason = "vector instructions and the addresses that they read"
)]

use super::chunk::{Chunk, Fetch};
use super::lanes::{Sums, Vector};
use super::{STRIP, Task};
use crate::matrix::PANEL;

/// What a form's kernel does with one tile.
pub(super) trait Kernel {
    /// Of sums.
    type Vector: Vector;
    /// How many vectors of sums of one row have room in the registers, by the number of rows.
    const TILES: &'static [usize];
    /// Units of inputs between two requests for memory.
    const GROUP: usize;

    /// What one unit of inputs takes in a panel.
    fn unit_bytes(task: &Task<'_>) -> usize;

    /// Units in a panel.
    fn units(task: &Task<'_>) -> usize;

    /// Computes `ROWS` rows by `WIDE` vectors.
    ///
    /// # Safety
    /// The CPU has the kernel's instructions, and the caller enables them.
    unsafe fn sum_up<const ROWS: usize, const WIDE: usize>(task: &Task<'_>, tile: Tile);
}

/// One tile of a task.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) chunk: Chunk,
    pub(super) fetch: Fetch,
    /// The first row.
    pub(super) row: usize,
    /// The first vector, from the task's first output.
    pub(super) vector: usize,
}

/// Computes a whole task.
///
/// # Safety
/// The CPU has the instructions of `K`, and the caller enables them.
#[inline(always)]
pub(super) unsafe fn compute<K: Kernel>(task: &Task<'_>) {
    let unit_bytes = K::unit_bytes(task);
    let tiles = task.rows.div_ceil(K::TILES.len());
    // Tiles of about equal height: one with few rows would wait for the L2 cache alone.
    let height = task.rows.div_ceil(tiles.max(1));
    for chunk in task.tuning.chunks(K::units(task), unit_bytes, K::GROUP) {
        let chunk_bytes = (chunk.to - chunk.from) * unit_bytes;
        for index in 0..tiles {
            let fetch = task
                .tuning
                .fetch((index, tiles), chunk_bytes, K::GROUP * unit_bytes);
            let tile = Tile {
                chunk,
                // A part of a panel is at a worker's first or last only.
                fetch: if task.width == PANEL {
                    fetch
                } else {
                    Fetch::NONE
                },
                row: index * height,
                vector: 0,
            };
            // SAFETY: as the caller promises.
            unsafe { rows::<K>(task, tile, height.min(task.rows - tile.row)) };
        }
    }
}

/// # Safety
/// As [`compute`].
#[inline(always)]
unsafe fn rows<K: Kernel>(task: &Task<'_>, tile: Tile, count: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        match count {
            1 => strips::<K, 1>(task, tile),
            2 if const { fits::<K>(2, 0) } => strips::<K, 2>(task, tile),
            3 if const { fits::<K>(3, 0) } => strips::<K, 3>(task, tile),
            4 if const { fits::<K>(4, 0) } => strips::<K, 4>(task, tile),
            5 if const { fits::<K>(5, 0) } => strips::<K, 5>(task, tile),
            6 if const { fits::<K>(6, 0) } => strips::<K, 6>(task, tile),
            count => unreachable!("{count} rows in a tile"),
        }
    }
}

/// `ROWS` rows over the whole width of the task.
///
/// # Safety
/// As [`compute`].
#[inline(always)]
unsafe fn strips<K: Kernel, const ROWS: usize>(task: &Task<'_>, mut tile: Tile) {
    let vectors = task.width / K::Vector::LANES;
    while tile.vector < vectors {
        let wide = K::TILES[ROWS - 1].min(vectors - tile.vector);
        // SAFETY: as the caller promises.
        unsafe {
            match wide {
                1 if const { fits::<K>(ROWS, 1) } => K::sum_up::<ROWS, 1>(task, tile),
                2 if const { fits::<K>(ROWS, 2) } => K::sum_up::<ROWS, 2>(task, tile),
                3 if const { fits::<K>(ROWS, 3) } => K::sum_up::<ROWS, 3>(task, tile),
                4 if const { fits::<K>(ROWS, 4) } => K::sum_up::<ROWS, 4>(task, tile),
                6 if const { fits::<K>(ROWS, 6) } => K::sum_up::<ROWS, 6>(task, tile),
                8 if const { fits::<K>(ROWS, 8) } => K::sum_up::<ROWS, 8>(task, tile),
                wide => unreachable!("{wide} vectors in a tile"),
            }
        }
        tile.vector += wide;
        // The first vectors asked for all of them.
        tile.fetch = Fetch::NONE;
    }
}

/// Whether there are tiles of `rows` by `wide` vectors, which are whole strips.
const fn fits<K: Kernel>(rows: usize, wide: usize) -> bool {
    let tiles = K::TILES;
    rows <= tiles.len()
        && wide <= tiles[rows - 1]
        && (wide * K::Vector::LANES).is_multiple_of(STRIP)
}

/// The sums of a tile as the chunk before left them.
///
/// # Safety
/// The CPU has the instructions of `V`, and the caller enables them.
#[inline(always)]
pub(super) unsafe fn sums_so_far<V: Vector, const ROWS: usize, const WIDE: usize>(
    task: &Task<'_>,
    tile: Tile,
) -> [[Sums<V>; WIDE]; ROWS] {
    // SAFETY: as the caller promises.
    let mut sums = [[unsafe { V::zero() }; WIDE]; ROWS];
    if tile.chunk.from > 0 {
        for (row, sums) in sums.iter_mut().enumerate() {
            let out = task.out_of(tile.row + row);
            for (vector, sums) in sums.iter_mut().enumerate() {
                let first = out.len().min((tile.vector + vector) * V::LANES);
                // SAFETY: as the caller promises.
                *sums = unsafe { V::load(&out[first..]) };
            }
        }
    }
    sums
}

/// Writes the sums of a tile.
///
/// # Safety
/// The CPU has the instructions of `V`, and the caller enables them.
#[inline(always)]
pub(super) unsafe fn store<V: Vector, const ROWS: usize, const WIDE: usize>(
    task: &Task<'_>,
    tile: Tile,
    sums: &[[Sums<V>; WIDE]; ROWS],
) {
    for (row, sums) in sums.iter().enumerate() {
        let out = task.out_of(tile.row + row);
        for (vector, sums) in sums.iter().enumerate() {
            let first = out.len().min((tile.vector + vector) * V::LANES);
            // SAFETY: as the caller promises.
            unsafe { V::store(*sums, &mut out[first..]) };
        }
    }
}
