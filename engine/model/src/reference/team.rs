//! What ranks exchange during a step, so that sums and orders are those of one rank alone.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::backend::{Collective, Shard, StepError};

/// A rank's seat in its team. Leaving it, by a panic too, wakes the others.
#[derive(Debug)]
pub(crate) struct Team {
    shard: Shard,
    collective: Arc<dyn Collective>,
}

// === impl Team ===

impl Team {
    pub(crate) fn new(shard: Shard, collective: Arc<dyn Collective>) -> Self {
        Self { shard, collective }
    }

    pub(crate) fn shard(&self) -> Shard {
        self.shard
    }

    pub(crate) fn is_first(&self) -> bool {
        self.shard.rank == 0
    }

    pub(crate) fn wait_for_all(&self) -> Result<(), StepError> {
        self.collective.barrier(self.shard.rank)
    }

    /// What every rank brings, in rank order.
    pub(crate) fn gather(&self, mine: Vec<f32>) -> Result<Vec<f32>, StepError> {
        if self.shard.degree == 1 {
            return Ok(mine);
        }
        self.collective.all_gather(self.shard.rank, &mine)
    }

    /// The sum over all parts of all ranks, in the order of the parts. Part 0 comes first and the
    /// others are added one by one, whatever the number of ranks.
    ///
    /// * `mine`: this rank's parts, `(rows, width)` each, f32. Same shape out.
    pub(crate) fn sum(&self, mine: &[Tensor], layer: usize) -> Result<Tensor, StepError> {
        let compute = |source| StepError::Compute { layer, source };
        let (rows, width) = mine[0].dims2().map_err(compute)?;
        let parts = self.gather(flat(mine).map_err(compute)?)?;
        let add = || {
            let parts = Tensor::from_vec(parts, ((), rows, width), &Device::Cpu)?;
            let first = parts.get(0)?;
            (1..parts.dim(0)?).try_fold(first, |sum, part| sum + parts.get(part)?)
        };
        add().map_err(compute)
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.collective.leave(self.shard.rank);
    }
}

/// The elements of all tensors, one tensor after the other.
pub(crate) fn flat(tensors: &[Tensor]) -> candle_core::Result<Vec<f32>> {
    let mut all = Vec::new();
    for tensor in tensors {
        all.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(all)
}
