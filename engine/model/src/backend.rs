//! What the step loop asks of a device: [`Backend`], and what ranks ask of each other: [`Collective`].

use std::fmt;

use berth_engine_core::batch::{BlockId, Sampled, SequenceId, StepBatch};

/// One rank's part of a model on one device. Tensors and logits stay inside.
///
/// A backend is built and used on the rank's own pinned thread, so it need not be `Send`.
pub trait Backend {
    /// Does the copies of `batch`, in their order; then computes every token of it, writes their keys and values into the paged cache, and
    /// samples the rows that ask for it. Rank 0 returns the samples; other ranks return none.
    ///
    /// # Errors
    /// When the device fails; the engine then stops serving, since the cache is in doubt.
    fn step(&mut self, batch: &StepBatch) -> Result<Vec<Sampled>, StepError>;
}

/// What every backend needs to know about the paged cache before it loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Token slots in a block.
    pub block_size: usize,
    /// Blocks in the pool, the same on each rank.
    pub block_count: usize,
}

/// Which part of the model a rank holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// This rank, from 0.
    pub rank: usize,
    /// How many ranks share the model; at most its number of KV heads.
    pub degree: usize,
}

/// How far loading is; both count bytes of this rank's weights as it holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Loaded so far.
    pub done_bytes: u64,
    /// When done.
    pub total_bytes: u64,
}

/// Exchange between the ranks of one model. Every rank makes the same calls in the same order.
pub trait Collective: Send + Sync + fmt::Debug {
    /// How many ranks take part.
    fn degree(&self) -> usize;

    /// Gives every rank the concatenation, in rank order, of what each rank brought.
    /// Ranks may bring different lengths.
    ///
    /// # Errors
    /// When another rank is gone.
    fn all_gather(&self, rank: usize, mine: &[f32]) -> Result<Vec<f32>, StepError>;

    /// Returns when all ranks have called it.
    ///
    /// # Errors
    /// When another rank is gone.
    fn barrier(&self, rank: usize) -> Result<(), StepError>;

    /// `rank` takes part no more: ranks that wait for it, now or later, get an error.
    fn leave(&self, rank: usize);
}

/// Why a step could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The device or the tensor library failed.
    #[error("computing layer {layer}")]
    Compute {
        /// The layer, or the number of layers for what comes after the last.
        layer: usize,
        /// The library's own error.
        #[source]
        source: candle_core::Error,
    },
    /// The batch asks for something that the model or its cache does not have.
    #[error("sequence {sequence:?} of the batch: {reason}")]
    Batch {
        /// The sequence at fault.
        sequence: SequenceId,
        /// What is wrong with it.
        reason: String,
    },
    /// A block is to be copied that the cache does not have.
    #[error("a copy of the batch: block {} is not among the {block_count}", block.0)]
    Copy {
        /// The block.
        block: BlockId,
        /// Blocks that there are.
        block_count: usize,
    },
    /// A rank of the team ended while others waited for it.
    #[error("rank {rank} lost its peers")]
    PeerGone {
        /// The rank that noticed.
        rank: usize,
    },
}
