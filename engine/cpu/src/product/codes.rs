//! The kernel of 8 and 4 bit codes: one block of 32 inputs after the other.
//!
//! A block's products are added up as integers, exactly, so their order is free; only whole blocks
//! are rounded. Weights that are stored above their value by an offset are multiplied as stored:
//! the integer then starts at minus the offset times the sum of the activations' codes.
#![allow(
    unsafe_code,
    reason = "vector instructions and the addresses that they read"
)]

use std::marker::PhantomData;

use super::Task;
use super::chunk::Chunk;
use super::lanes::{CodeLanes, Integers, Sums, Vector};
use super::tiles::{Kernel, Tile, compute, store, sums_so_far};
use crate::matrix::{BLOCK, Form, PANEL};

/// The kernel on some lanes for codes of `BITS` bits, with or without a minimum.
struct Codes<L, const BITS: u8, const MINIMUM: bool>(PhantomData<L>);

/// One block of a panel and of the rows of a tile.
#[derive(Clone, Copy)]
struct Block<'a> {
    task: &'a Task<'a>,
    /// In a row.
    index: usize,
    /// The tile's first row.
    row: usize,
    /// The activations of that row.
    x: *const i8,
    /// The codes of the tile's first output.
    codes: *const u8,
    /// Its scale.
    scales: *const u8,
}

/// # Safety
/// The CPU has the instructions of `L`, and the caller enables them.
#[inline(always)]
pub(super) unsafe fn compute_codes<L: CodeLanes>(task: &Task<'_>) {
    // SAFETY: as the caller promises.
    unsafe {
        match task.form {
            Form::Int8 => compute::<Codes<L, 8, false>>(task),
            Form::Int4 => compute::<Codes<L, 4, false>>(task),
            Form::Int4Min => compute::<Codes<L, 4, true>>(task),
            Form::Bf16 => unreachable!("bf16 has no codes"),
        }
    }
}

// === impl Codes ===

impl<L: CodeLanes, const BITS: u8, const MINIMUM: bool> Kernel for Codes<L, BITS, MINIMUM> {
    type Vector = L::Vector;
    const TILES: &'static [usize] = L::TILES;
    const GROUP: usize = 1;

    fn unit_bytes(task: &Task<'_>) -> usize {
        task.form.block_bytes()
    }

    fn units(task: &Task<'_>) -> usize {
        task.inputs / BLOCK
    }

    #[inline(always)]
    unsafe fn sum_up<const ROWS: usize, const WIDE: usize>(task: &Task<'_>, tile: Tile) {
        let Chunk { from, to } = tile.chunk;
        let first = task.first + tile.vector * L::Vector::LANES;
        let (block_bytes, code_bytes) = (task.form.block_bytes(), task.form.code_bytes());
        let panel = task.panel[from * block_bytes..to * block_bytes].as_ptr();
        let x = tile.row * task.inputs..(tile.row + ROWS) * task.inputs;
        let x = task.x.codes[x].as_ptr();
        // SAFETY: the slices hold all activations of `ROWS` rows, and the chunk's blocks, in each of
        // which are the codes and scales of 64 outputs, `WIDE` vectors of them from the tile's first
        // on; the instructions are there as the caller promises.
        unsafe {
            let mut sums = sums_so_far::<L::Vector, ROWS, WIDE>(task, tile);
            for index in from..to {
                let start = panel.add((index - from) * block_bytes);
                tile.fetch.ask(start);
                let block = Block {
                    task,
                    index,
                    row: tile.row,
                    x: x.add(index * BLOCK),
                    codes: start.add(first * 4),
                    scales: start.add(code_bytes + first * 2),
                };
                let dots = block.dots::<L, BITS, ROWS, WIDE>();
                block.add::<L, MINIMUM, ROWS, WIDE>(&mut sums, dots);
            }
            store::<L::Vector, ROWS, WIDE>(task, tile, &sums);
        }
    }
}

// === impl Block ===

impl Block<'_> {
    /// Counted over all rows.
    #[inline(always)]
    fn of_row(&self, row: usize) -> usize {
        (self.row + row) * (self.task.inputs / BLOCK) + self.index
    }

    /// The integer sums of products.
    ///
    /// # Safety
    /// The CPU has the instructions of `L`, and the caller enables them; there are `ROWS` rows and
    /// `WIDE` vectors.
    #[inline(always)]
    unsafe fn dots<L: CodeLanes, const BITS: u8, const ROWS: usize, const WIDE: usize>(
        &self,
    ) -> [[Integers<L::Vector>; WIDE]; ROWS] {
        let keeps_offset = BITS == 4 || L::BYTES_KEEP_OFFSET;
        let offset = if keeps_offset {
            self.task.form.offset()
        } else {
            0
        };
        // SAFETY: as the caller promises; a block of a panel has eight groups of four codes for each
        // output, two of them in each byte where codes have 4 bits.
        unsafe {
            let mut dots = [[L::Vector::all(0); WIDE]; ROWS];
            for (row, dots) in dots.iter_mut().enumerate() {
                *dots = [L::Vector::all(-offset * self.task.x.sums[self.of_row(row)]); WIDE];
            }
            if BITS == 4 {
                for group in 0..4 {
                    self.add_halves::<L, ROWS, WIDE>(group, &mut dots);
                    if ROWS == 1 {
                        keep_order();
                    }
                }
            } else {
                for group in 0..8 {
                    self.add_bytes::<L, ROWS, WIDE>(group, &mut dots);
                    if ROWS == 1 {
                        keep_order();
                    }
                }
            }
            dots
        }
    }

    /// # Safety
    /// As [`Self::dots`].
    #[inline(always)]
    unsafe fn add_bytes<L: CodeLanes, const ROWS: usize, const WIDE: usize>(
        &self,
        group: usize,
        dots: &mut [[Integers<L::Vector>; WIDE]; ROWS],
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            let from = self.codes.add(group * PANEL * 4);
            let mut codes = [L::bytes(from); WIDE];
            for (vector, codes) in codes.iter_mut().enumerate() {
                *codes = L::bytes(from.add(vector * L::Vector::LANES * 4));
            }
            for (row, dots) in dots.iter_mut().enumerate() {
                let quad = L::Vector::quad(self.x.add(row * self.task.inputs + group * 4));
                for (dots, codes) in dots.iter_mut().zip(codes) {
                    *dots = L::add(*dots, codes, quad);
                }
            }
        }
    }

    /// # Safety
    /// As [`Self::dots`].
    #[inline(always)]
    unsafe fn add_halves<L: CodeLanes, const ROWS: usize, const WIDE: usize>(
        &self,
        group: usize,
        dots: &mut [[Integers<L::Vector>; WIDE]; ROWS],
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            let from = self.codes.add(group * PANEL * 4);
            let mut codes = [L::halves(from); WIDE];
            for (vector, codes) in codes.iter_mut().enumerate() {
                *codes = L::halves(from.add(vector * L::Vector::LANES * 4));
            }
            for (row, dots) in dots.iter_mut().enumerate() {
                let x = self.x.add(row * self.task.inputs + group * 4);
                let (low, high) = (L::Vector::quad(x), L::Vector::quad(x.add(BLOCK / 2)));
                for (dots, codes) in dots.iter_mut().zip(codes) {
                    *dots = L::add(L::add(*dots, codes[0], low), codes[1], high);
                }
            }
        }
    }

    /// Adds the block to the sums.
    ///
    /// # Safety
    /// As [`Self::dots`].
    #[inline(always)]
    unsafe fn add<L: CodeLanes, const MINIMUM: bool, const ROWS: usize, const WIDE: usize>(
        &self,
        sums: &mut [[Sums<L::Vector>; WIDE]; ROWS],
        dots: [[Integers<L::Vector>; WIDE]; ROWS],
    ) {
        let x = &self.task.x;
        let (mut scales_x, mut factors) = ([0.0; ROWS], [0.0; ROWS]);
        for row in 0..ROWS {
            scales_x[row] = x.scales[self.of_row(row)];
            if MINIMUM {
                factors[row] = x.scaled_sums[self.of_row(row)];
            }
        }
        for vector in 0..WIDE {
            // SAFETY: as the caller promises; minimums come after the scales of 64 outputs.
            unsafe {
                let halves = self.scales.add(vector * L::Vector::LANES * 2);
                let scales = L::Vector::widen(halves);
                for row in 0..ROWS {
                    let (sums, dots) = (&mut sums[row][vector], dots[row][vector]);
                    *sums = L::Vector::add_scaled(*sums, dots, scales_x[row], scales);
                }
                if MINIMUM {
                    let minimums = L::Vector::widen(halves.add(PANEL * 2));
                    for row in 0..ROWS {
                        let sums = &mut sums[row][vector];
                        *sums = L::Vector::add_minimums(*sums, minimums, factors[row]);
                    }
                }
            }
        }
    }
}

/// Weights are read in the order in which they lie: the compiler would take one vector's after the
/// other's, in strides that the hardware does not foresee (one row of int8: 0.45 of the read
/// bandwidth instead of 0.97). More rows read from the cache, and are slower with it.
#[inline(always)]
fn keep_order() {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("", options(nostack, preserves_flags)) };
}
