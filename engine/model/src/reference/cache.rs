//! One part's paged keys and values in one layer.

use berth_engine_core::batch::BlockCopy;
use candle_core::{DType, Device, Result, Tensor};

use super::plan::Rows;
use crate::backend::CacheShape;

/// Keys and values by block and slot: `(blocks * block_size, head_dim)` each, f32, contiguous.
#[derive(Debug)]
pub(crate) struct PartCache {
    keys: Tensor,
    values: Tensor,
    shape: CacheShape,
}

/// One sequence's keys and values in the order of positions: `(slots, head_dim)` each. What is
/// past the last position is whatever its block holds.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

// === impl PartCache ===

impl PartCache {
    pub(crate) fn new(shape: CacheShape, head_dim: usize) -> Result<Self> {
        let zeros = || {
            let slots = shape.block_count * shape.block_size;
            Tensor::zeros((slots, head_dim), DType::F32, &Device::Cpu)
        };
        Ok(Self {
            keys: zeros()?,
            values: zeros()?,
            shape,
        })
    }

    /// Writes the rows of one sequence. `keys` and `values`: `(rows of the step, head_dim)`.
    pub(crate) fn write(&self, rows: &Rows, keys: &Tensor, values: &Tensor) -> Result<()> {
        let block_size = self.shape.block_size;
        let mut done = 0;
        while done < rows.count {
            let position = rows.first_position + done;
            let in_block = position % block_size;
            let run = (block_size - in_block).min(rows.count - done);
            let slot = rows.blocks[position / block_size] * block_size + in_block;
            let from = rows.first_row + done;
            self.keys
                .slice_set(&keys.narrow(0, from, run)?.contiguous()?, 0, slot)?;
            self.values
                .slice_set(&values.narrow(0, from, run)?.contiguous()?, 0, slot)?;
            done += run;
        }
        Ok(())
    }

    /// Writes one block's keys and values to another one.
    pub(crate) fn copy(&self, BlockCopy { from, to }: BlockCopy) -> Result<()> {
        let size = self.shape.block_size;
        let (from, to) = (from.0 as usize * size, to.0 as usize * size);
        for cache in [&self.keys, &self.values] {
            // A part of a tensor shares its memory, which cannot be written to itself.
            cache.slice_set(&cache.narrow(0, from, size)?.copy()?, 0, to)?;
        }
        Ok(())
    }

    /// Copies one sequence's blocks together.
    pub(crate) fn context(&self, rows: &Rows) -> Result<Context> {
        let gather = |cache: &Tensor| {
            let (slots, head_dim) = cache.dims2()?;
            let block_size = self.shape.block_size;
            let by_block = cache.reshape((slots / block_size, block_size * head_dim))?;
            let together = by_block.index_select(&rows.block_ids, 0)?;
            together.reshape((rows.blocks.len() * block_size, head_dim))
        };
        Ok(Context {
            keys: gather(&self.keys)?,
            values: gather(&self.values)?,
        })
    }
}
