//! A matrix held in chunks of rows, multiplied with one row of input at a time.

use std::ops::Range;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

/// Most rows in a chunk. `gemm` computes a product of one row with up to 256 outputs as plain
/// dot products, on the calling thread: no result depends on how many threads there are. A chunk
/// also stays in a core's cache while the rows of a prefill go by.
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
    /// From consecutive chunks, each no longer than [`chunks`] makes them.
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
            .map(|chunk| times_rows(chunk, x))
            .collect::<Result<_>>()?;
        Tensor::cat(&outputs, 1)?.contiguous()
    }

    /// One row of the matrix, `(1, inputs)`.
    pub(crate) fn row(&self, index: usize) -> Result<Tensor> {
        let chunk = self.starts.partition_point(|&start| start <= index) - 1;
        self.chunks[chunk].narrow(0, index - self.starts[chunk], 1)
    }
}

fn times_rows(chunk: &Tensor, x: &Tensor) -> Result<Tensor> {
    let transposed = chunk.t()?;
    let rows: Vec<Tensor> = (0..x.dim(0)?)
        .map(|row| x.narrow(0, row, 1)?.matmul(&transposed))
        .collect::<Result<_>>()?;
    Tensor::cat(&rows, 0)
}

/// Cuts `rows` into the chunks that a [`Linear`] holds, each a multiple of `unit` rows.
pub(crate) fn chunks(rows: Range<usize>, unit: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (CHUNK_ROWS_MAX / unit).max(1) * unit;
    let end = rows.end;
    rows.step_by(step)
        .map(move |start| start..(start + step).min(end))
}
