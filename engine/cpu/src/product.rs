//! Products of rows of activations with packed weights: `out[r][o] = Σ x[r][i] · w[o][i]`.
//!
//! One arithmetic for each form, the same for every tier, number of rows and number of threads.
//! All of it is f32 with denormals taken for zero, rounded to the nearest, ties to even.
//!
//! * **bf16**: activations are rounded to bf16. One sum for each output starts at +0; for each pair
//!   of inputs in ascending order, first the odd one and then the even one is added:
//!   `sum = fma(x, w, sum)`. A last input without a partner has a zero beside it. (This is what
//!   VDPBF16PS does.)
//! * **codes**: activations are quantised in blocks of 32: with `a` the greatest magnitude,
//!   `scale = a / 127` and `code = round(x · (127 / a))`, ties to even; all zero where `a` is below
//!   2⁻¹¹⁰. For each block in ascending order, with the exact integer `dot` of codes without their
//!   offset: `sum = fma(dot, scale_x · scale_w, sum)`, and in the form with a minimum then
//!   `sum = fma(minimum, scale_x · Σ code_x, sum)`.
#![allow(
    unsafe_code,
    reason = "workers share activations and outputs; stages and pieces keep them apart"
)]

use std::ops::Range;

use crate::matrix::{Form, Matrix, PANEL};
use crate::parts::Parts;
use crate::team::{Piece, Pieces, Stage, Team, Worker};
use crate::tier::Tier;

mod activations;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod chunk;
#[cfg(target_arch = "x86_64")]
mod codes;
mod kernels;
#[cfg(target_arch = "x86_64")]
pub(crate) mod lanes;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod portable;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub use chunk::Tuning;
pub use kernels::{Kernels, KernelsError};

use activations::{Activations, Filled};

/// Outputs that are computed together at least: a worker's share is a number of these.
const STRIP: usize = 16;

/// Computes products with one tier's kernels, and keeps the memory that they need in between.
#[derive(Debug)]
pub struct Products {
    kernels: Kernels,
    activations: Activations,
}

/// A worker's own outputs, in strips.
struct Strips(Range<usize>);

/// Some outputs of one panel, for all rows.
struct Task<'a> {
    tuning: Tuning,
    form: Form,
    inputs: usize,
    rows: usize,
    panel: &'a [u8],
    /// In the panel; a multiple of [`STRIP`].
    first: usize,
    /// Computed, a multiple of [`STRIP`]; those beyond `wanted` have weights that are zero.
    width: usize,
    /// Written.
    wanted: usize,
    x: Filled<'a>,
    out: &'a Parts<'a, f32>,
    /// In `out`, of row 0 and the first output.
    out_start: usize,
    /// In `out`, from one row to the next.
    out_stride: usize,
}

// === impl Products ===

impl Products {
    /// With the kernels of `tier`.
    ///
    /// # Panics
    /// When this machine does not have the tier.
    #[must_use]
    pub fn new(tier: Tier) -> Self {
        Self::with(Kernels::of(tier))
    }

    /// With the kernels that calibration or a flag chose.
    ///
    /// # Panics
    /// When this machine does not have their tiers.
    #[must_use]
    pub fn with(kernels: Kernels) -> Self {
        for tier in [kernels.bf16, kernels.codes] {
            assert!(tier.is_here(), "tier {tier} was checked before it is used");
        }
        Self {
            kernels,
            activations: Activations::default(),
        }
    }

    /// Which kernels are used.
    #[must_use]
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Multiplies each row of `x`, `(rows, inputs)`, with every output of `matrix`, and writes
    /// `out`, `(rows, outputs)`. Both are row-major and contiguous.
    ///
    /// Takes memory only when it never had so many rows and inputs before.
    ///
    /// # Panics
    /// When the lengths of `x` and `out` are not those of the same number of rows.
    pub fn product(&mut self, team: &mut Team, matrix: &Matrix, x: &[f32], out: &mut [f32]) {
        let rows = x.len() / matrix.inputs().max(1);
        assert_eq!(x.len(), rows * matrix.inputs(), "whole rows of activations");
        assert_eq!(out.len(), rows * matrix.outputs(), "room for every output");
        let tier = self.kernels.tier(matrix.form());
        let tuning = self.kernels.tuning;
        let filling = self
            .activations
            .filling(matrix.form(), tier, (rows, matrix.inputs()));
        let out = Parts::of(out);
        let multiply = |piece: Piece| {
            // SAFETY: the stage before this one has filled them; from here on they are only read.
            let filled = unsafe { filling.seen() };
            let strips = Strips::of(piece.of, matrix).nth(piece.index);
            let task = Task {
                tuning,
                ..Task::new(matrix, rows, strips, filled, &out)
            };
            task.compute(tier);
        };
        team.run(&[
            Stage {
                pieces: Pieces::Even(filling.piece_count()),
                work: &|piece| filling.fill(piece.index, x),
            },
            Stage {
                pieces: Pieces::Own(&|worker| Strips::of(worker, matrix).panel_count()),
                work: &multiply,
            },
        ]);
    }
}

// === impl Strips ===

impl Strips {
    const IN_PANEL: usize = PANEL / STRIP;

    fn of(worker: Worker, matrix: &Matrix) -> Self {
        Self(worker.share(matrix.outputs().div_ceil(STRIP)))
    }

    /// Panels that they are of.
    fn panel_count(&self) -> usize {
        if self.0.is_empty() {
            return 0;
        }
        self.0.end.div_ceil(Self::IN_PANEL) - self.0.start / Self::IN_PANEL
    }

    /// One of these panels, and the strips of it.
    fn nth(&self, index: usize) -> (usize, Range<usize>) {
        let panel = self.0.start / Self::IN_PANEL + index;
        let start = panel * Self::IN_PANEL;
        let first = self.0.start.max(start);
        let end = self.0.end.min(start + Self::IN_PANEL);
        (panel, first - start..end - start)
    }
}

// === impl Task ===

impl<'a> Task<'a> {
    fn new(
        matrix: &'a Matrix,
        rows: usize,
        (panel, strips): (usize, Range<usize>),
        x: Filled<'a>,
        out: &'a Parts<'a, f32>,
    ) -> Self {
        let panel_bytes = matrix.form().panel_bytes(matrix.inputs());
        let (first, width) = (strips.start * STRIP, strips.len() * STRIP);
        let out_start = panel * PANEL + first;
        Self {
            tuning: Tuning::default(),
            form: matrix.form(),
            inputs: matrix.inputs(),
            rows,
            panel: &matrix.panels()[panel * panel_bytes..(panel + 1) * panel_bytes],
            first,
            width,
            wanted: width.min(matrix.outputs() - out_start),
            x,
            out,
            out_start,
            out_stride: matrix.outputs(),
        }
    }

    fn compute(&self, tier: Tier) {
        match self.form {
            Form::Bf16 => self.compute_bf16(tier),
            Form::Int8 | Form::Int4 | Form::Int4Min => self.compute_codes(tier),
        }
    }

    fn compute_bf16(&self, tier: Tier) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Products` is only made of a tier that the CPU has.
        unsafe {
            match tier {
                Tier::Avx512Bf16 => return avx512::bf16_dot(self),
                Tier::Avx512Vnni | Tier::Avx512 => return avx512::bf16_fused(self),
                Tier::Avx2 => return avx2::bf16(self),
                Tier::Portable => {}
            }
        }
        debug_assert_eq!(tier, Tier::Portable);
        portable::bf16(self);
    }

    fn compute_codes(&self, tier: Tier) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Products` is only made of a tier that the CPU has.
        unsafe {
            match tier {
                Tier::Avx512Bf16 | Tier::Avx512Vnni => return avx512::codes_vnni(self),
                Tier::Avx512 => return avx512::codes_pairwise(self),
                Tier::Avx2 => return avx2::codes(self),
                Tier::Portable => {}
            }
        }
        debug_assert_eq!(tier, Tier::Portable);
        portable::codes(self);
    }

    /// Where the outputs of `row` go.
    #[expect(
        clippy::mut_from_ref,
        reason = "each row of a task is another part of the result"
    )]
    fn out_of(&self, row: usize) -> &mut [f32] {
        let start = self.out_start + row * self.out_stride;
        // SAFETY: shares of the outputs do not overlap, and a task writes one row after another.
        unsafe { self.out.part(start..start + self.wanted) }
    }
}

#[cfg(test)]
mod tests;
