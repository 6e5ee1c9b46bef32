//! The reference backend: candle on the CPU, f32, correct rather than fast.
//!
//! What every other backend is checked against, so its results must depend on nothing but the
//! model and a sequence's own tokens. That is had by construction: every row is computed alone;
//! the model is always held in as many parts as it has KV heads, and their outputs are summed in
//! the order of the parts; products are cut in the same places however many threads there are.
//!
//! ```text
//! tokens ─ embed ─┬─ per layer: norm ─ parts: q k v, cache, attend, o ─ gather, sum ─┐
//!                 │             norm ─ parts: gate, up, silu, down ───── gather, sum ─┤
//!                 └──────────────────────────── x ◄────────────────────────────────────┘
//! sampled rows ─ norm ─ parts: output projection ─ gather ─ rank 0: sample
//! ```

use std::sync::Arc;
use std::thread;

use berth_engine_core::batch::{Sampled, StepBatch};
use berth_engine_core::sampling::sample;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::backend::{Backend, CacheShape, Collective, LoadProgress, Shard, StepError};
use crate::seat::Seat;
use crate::source::ModelSource;
use decoder::Decoder;
use load::Loader;
use plan::Plan;

mod attention;
mod cache;
mod decoder;
mod linear;
mod load;
mod memory;
mod plan;
mod product;
mod rope;
mod shard;
mod sum;

pub use load::LoadError;
pub use memory::{block_bytes, weight_bytes};

/// One rank of the model, with its weights, its cache and its worker threads.
#[derive(Debug)]
pub struct ReferenceBackend {
    // Dropped first, so that the other ranks learn of it at once.
    seat: Seat,
    decoder: Decoder,
    cache: CacheShape,
    vocab_size: usize,
    threads: ThreadPool,
}

// === impl ReferenceBackend ===

impl ReferenceBackend {
    /// Loads rank `shard.rank`'s part of the model. All ranks must load at the same time, each
    /// on its own thread and with the same `cache`.
    ///
    /// Call it on the rank's thread after pinning it: as many workers are started as that thread
    /// may use CPUs; they inherit its mask and touch the memory first.
    ///
    /// # Errors
    /// When the shard cannot be, memory does not suffice (known before any is taken), the files
    /// changed since they were opened, or another rank failed.
    pub fn load(
        source: &ModelSource,
        shard: Shard,
        cache: CacheShape,
        collective: Arc<dyn Collective>,
        progress: &mut (dyn FnMut(LoadProgress) + Send),
    ) -> Result<Self, LoadError> {
        let thread_count = thread::available_parallelism().map_or(1, usize::from);
        // A seat from here on: whatever fails below wakes the ranks that wait for this one.
        let seat = Seat::new(shard, collective);
        Self::load_on(source, seat, cache, thread_count, progress)
    }

    fn load_on(
        source: &ModelSource,
        seat: Seat,
        cache: CacheShape,
        thread_count: usize,
        progress: &mut (dyn FnMut(LoadProgress) + Send),
    ) -> Result<Self, LoadError> {
        let shard = seat.shard();
        load::check(source.config(), shard, cache)?;
        // Nobody takes memory before all have seen that there is enough.
        seat.wait_for_all().map_err(LoadError::Peer)?;
        let threads = ThreadPoolBuilder::new()
            .num_threads(thread_count)
            .thread_name(move |index| format!("rank{}-worker{index}", shard.rank))
            .build()
            .map_err(|source| LoadError::Threads {
                rank: shard.rank,
                source,
            })?;
        let decoder = threads.install(|| Loader::new(source, shard, cache, progress).load())?;
        seat.wait_for_all().map_err(LoadError::Peer)?;
        Ok(Self {
            seat,
            decoder,
            cache,
            vocab_size: source.config().vocab_size,
            threads,
        })
    }
}

impl Backend for ReferenceBackend {
    fn step(&mut self, batch: &StepBatch) -> Result<Vec<Sampled>, StepError> {
        if batch.sequences.is_empty() {
            return Ok(Vec::new());
        }
        let plan = Plan::new(batch, self.cache, self.vocab_size)?;
        let (decoder, seat) = (&self.decoder, &self.seat);
        decoder.copy_blocks(&batch.copies)?;
        let logits = self.threads.install(|| decoder.forward(&plan, seat))?;
        let asking = batch
            .sequences
            .iter()
            .filter_map(|sequence| sequence.sample.as_ref().map(|row| (sequence.id, row)));
        Ok(asking
            .zip(logits)
            .map(|((id, row), mut logits)| sample(&mut logits, row).of(id))
            .collect())
    }
}

#[cfg(test)]
mod tests;
