//! Rotary position embedding: cosines and sines for a step's rows.

use candle_core::{Device, Result, Tensor};
use candle_nn::rotary_emb;

use crate::frequencies::Frequencies;

/// Cosines and sines of a step's rows: `(rows, head_dim / 2)` each, f32.
#[derive(Debug)]
pub(crate) struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

// === impl Rotation ===

impl Rotation {
    /// For rows at these positions.
    pub(crate) fn at(positions: &[usize], frequencies: &Frequencies) -> Result<Self> {
        let shape = (positions.len(), frequencies.pair_count());
        let angles: Vec<f32> = positions
            .iter()
            .flat_map(|&position| frequencies.angles(position))
            .collect();
        let of = |function: fn(f32) -> f32| {
            let values = angles.iter().copied().map(function).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)
        };
        Ok(Self {
            cos: of(f32::cos)?,
            sin: of(f32::sin)?,
        })
    }

    /// * `x`: `(rows, heads * head_dim)`, f32, contiguous. Same shape out.
    pub(crate) fn turn(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let head_dim = 2 * self.cos.dim(1)?;
        let heads = x.reshape((1, rows, width / head_dim, head_dim))?;
        rotary_emb::rope_thd(&heads, &self.cos, &self.sin)?.reshape((rows, width))
    }
}
