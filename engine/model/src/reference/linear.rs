//! A matrix held in chunks of rows, so that threads can share it without changing a sum.

use std::ops::Range;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::product::rows_times;

/// Most rows in a chunk: half a megabyte at 576 inputs, some ten microseconds of one core.
const CHUNK_ROWS_MAX: usize = 256;

/// `(outputs, inputs)`, f32.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `(rows, inputs)` each, contiguous, in order.
    chunks: Vec<Tensor>,
    /// First output of each chunk.
    starts: Vec<usize>,
    output_count: usize,
}

// === impl Linear ===

impl Linear {
    /// From consecutive chunks, as [`chunks`] makes them.
    pub(crate) fn new(chunks: Vec<Tensor>) -> Result<Self> {
        let mut starts = Vec::with_capacity(chunks.len());
        let mut output_count = 0;
        for chunk in &chunks {
            starts.push(output_count);
            output_count += chunk.dim(0)?;
        }
        Ok(Self {
            chunks,
            starts,
            output_count,
        })
    }

    pub(crate) fn output_count(&self) -> usize {
        self.output_count
    }

    /// Every row of `x` times the transposed matrix, each row alone.
    ///
    /// * `x`: `(rows, inputs)`, f32, contiguous. Out: `(rows, outputs)`, contiguous.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let outputs: Vec<Tensor> = self
            .chunks
            .par_iter()
            .map(|chunk| rows_times(x, chunk))
            .collect::<Result<_>>()?;
        Tensor::cat(&outputs, 1)?.contiguous()
    }

    /// One row of the matrix, `(1, inputs)`.
    pub(crate) fn row(&self, index: usize) -> Result<Tensor> {
        let chunk = self.starts.partition_point(|&start| start <= index) - 1;
        self.chunks[chunk].narrow(0, index - self.starts[chunk], 1)
    }
}

/// Cuts `rows` into the chunks that a [`Linear`] holds, each a multiple of `unit` rows.
pub(crate) fn chunks(rows: Range<usize>, unit: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (CHUNK_ROWS_MAX / unit).max(1) * unit;
    let end = rows.end;
    rows.step_by(step)
        .map(move |start| start..(start + step).min(end))
}
