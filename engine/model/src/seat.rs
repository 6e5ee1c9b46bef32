//! A rank's seat among the ranks of one model.

use std::sync::Arc;

use crate::backend::{Collective, Shard, StepError};

/// What a rank exchanges through. Leaving it, by a panic too, wakes the others.
#[derive(Debug)]
pub(crate) struct Seat {
    shard: Shard,
    collective: Arc<dyn Collective>,
}

// === impl Seat ===

impl Seat {
    pub(crate) fn new(shard: Shard, collective: Arc<dyn Collective>) -> Self {
        Self { shard, collective }
    }

    pub(crate) fn shard(&self) -> Shard {
        self.shard
    }

    /// There are no other ranks.
    pub(crate) fn is_alone(&self) -> bool {
        self.shard.degree == 1
    }

    pub(crate) fn is_first(&self) -> bool {
        self.shard.rank == 0
    }

    pub(crate) fn wait_for_all(&self) -> Result<(), StepError> {
        self.collective.barrier(self.shard.rank)
    }

    /// What every rank brings, in rank order.
    pub(crate) fn gather(&self, mine: Vec<f32>) -> Result<Vec<f32>, StepError> {
        if self.is_alone() {
            return Ok(mine);
        }
        self.collective.all_gather(self.shard.rank, &mine)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.collective.leave(self.shard.rank);
    }
}
