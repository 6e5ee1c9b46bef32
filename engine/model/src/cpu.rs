//! The CPU backend: our own kernels on packed weights.
//!
//! Weights stay in the form that the file has them in: bf16, or the codes of Q8_0, Q4_0 and Q4_1;
//! Q5_0 becomes codes of 8 bits with the same values. F32, F16, Q5_1 and the K family (Q2_K to
//! Q6_K) are rounded to bf16. Keys and values are held in bf16. Activations are f32 between
//! operations.
//!
//! For a tier and a number of ranks, a row's result depends on its sequence's tokens alone: every
//! operation has one order of arithmetic at every number of rows, threads and blocks, and all
//! tiers have the same. Ranks add their parts up in rank order; another number of ranks rounds
//! elsewhere, so that logits agree within rounding only (the reference backend's are equal).
//!
//! ```text
//! tokens ─ embed ─┬─ per layer: norm ─ q k v, cache, attend, o ── gather, sum ─┐
//!                 │             norm ─ gate, up, silu, down ───── gather, sum ─┤
//!                 └──────────────────────────── x ◄─────────────────────────────┘
//! sampled rows ─ norm ─ output projection ─ gather ─ rank 0: sample
//! ```

use std::sync::Arc;
use std::thread;

use berth_engine_core::batch::{SampleRow, Sampled, SequenceId, StepBatch, StepSequence};
use berth_engine_core::sampling::{Choice, sample};
use berth_engine_cpu::calibrate::calibrate;
use berth_engine_cpu::rows::each_pair_of_rows;
use berth_engine_cpu::team::Team;

use crate::backend::{Backend, CacheShape, Collective, LoadProgress, Shard, StepError};
use crate::batch_check::check;
use crate::seat::Seat;
use crate::source::ModelSource;
use decoder::{Decoder, Machine};
use exchange::join_columns;
use load::Loader;

mod decoder;
mod exchange;
mod experts;
mod feed_forward;
mod heads;
mod load;
mod memory;
mod spec;

pub use berth_engine_cpu::product::{Kernels, KernelsError};
pub use berth_engine_cpu::tier::{Tier, TierError};
pub use load::{LoadError, RowFailure};
pub use memory::{block_bytes, weight_bytes};
pub use spec::{Held, Unserved};

/// Rows whose logits are held at a time: 39 MB with 151,000 tokens.
const LOGIT_ROWS_MAX: usize = 64;

/// One rank of the model, with its weights, its cache and its worker threads.
#[derive(Debug)]
pub struct CpuBackend {
    // Dropped first, so that the other ranks learn of it at once.
    seat: Seat,
    decoder: Decoder,
    machine: Machine,
    cache: CacheShape,
    vocab_size: usize,
}

/// What all ranks have in common.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The paged cache.
    pub cache: CacheShape,
    /// What computes.
    pub kernels: KernelChoice,
}

/// Which kernels compute, of those that give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelChoice {
    /// Those of a tier, as far as that leaves something open by measurement at the start.
    Calibrated(Tier),
    /// These.
    Fixed(Kernels),
}

/// A row that is sampled.
struct Asking<'a> {
    /// In the step.
    row: usize,
    id: SequenceId,
    how: &'a SampleRow,
}

/// Checks that there are kernels for the model on `degree` ranks; how its weights will be held.
///
/// # Errors
/// Names the first tensor that there is no kernel for, and what to do.
pub fn serves(source: &ModelSource, degree: usize) -> Result<Vec<Held>, Unserved> {
    spec::check(source, degree)
}

// === impl KernelChoice ===

impl KernelChoice {
    /// Whose instructions they are.
    #[must_use]
    pub fn tier(self) -> Tier {
        match self {
            Self::Calibrated(tier) => tier,
            Self::Fixed(kernels) => kernels.codes,
        }
    }
}

// === impl CpuBackend ===

impl CpuBackend {
    /// Loads rank `shard.rank`'s part of the model. All ranks must load at the same time, each
    /// on its own thread and with the same `setup`.
    ///
    /// Call it on the rank's thread after pinning it: that thread and one worker for each further
    /// CPU that it may use compute. The workers inherit its memory policy, and each packs the
    /// weights that it will multiply.
    ///
    /// # Errors
    /// When there are no kernels for the model, the shard cannot be, memory does not suffice
    /// (known before any is taken), the files changed since they were opened, or another rank
    /// failed.
    ///
    /// # Panics
    /// When this machine does not have the tier.
    pub fn load(
        source: &ModelSource,
        shard: Shard,
        setup: Setup,
        collective: Arc<dyn Collective>,
        progress: &mut (dyn FnMut(LoadProgress) + Send),
    ) -> Result<Self, LoadError> {
        // Affinity and the control group's limit, whichever is less.
        let thread_count = thread::available_parallelism().map_or(1, usize::from);
        // A seat from here on: whatever fails below wakes the ranks that wait for this one.
        let seat = Seat::new(shard, collective);
        Self::load_on(source, seat, setup, thread_count, progress)
    }

    fn load_on(
        source: &ModelSource,
        seat: Seat,
        setup: Setup,
        thread_count: usize,
        progress: &mut (dyn FnMut(LoadProgress) + Send),
    ) -> Result<Self, LoadError> {
        let (shard, Setup { cache, kernels }) = (seat.shard(), setup);
        let need = load::check(source, shard, cache)?;
        // Nobody takes memory before all have seen that there is enough.
        seat.wait_for_all().map_err(LoadError::Peer)?;
        let mut team = Team::new(Some(thread_count)).map_err(|source| LoadError::Threads {
            rank: shard.rank,
            source,
        })?;
        let loader = Loader {
            source,
            shard,
            cache,
            team: &mut team,
            progress,
            done_bytes: 0,
            total_bytes: need.weight_bytes,
        };
        let decoder = loader.load()?;
        seat.wait_for_all().map_err(LoadError::Peer)?;
        let kernels = match kernels {
            KernelChoice::Fixed(kernels) => kernels,
            KernelChoice::Calibrated(tier) => calibrate(&mut team, tier, &decoder.matrices()),
        };
        Ok(Self {
            machine: Machine::new(team, kernels, &decoder),
            seat,
            decoder,
            cache,
            vocab_size: source.config().vocab_size,
        })
    }

    /// The kernels that compute.
    #[must_use]
    pub fn kernels(&self) -> Kernels {
        self.machine.kernels()
    }

    /// Samples some rows; rank 0 adds them to `sampled`.
    fn sample(
        &mut self,
        asking: &[Asking<'_>],
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), StepError> {
        let rows: Vec<usize> = asking.iter().map(|asking| asking.row).collect();
        self.decoder.logits(&rows, &mut self.machine);
        let (team, logits) = self.machine.logits_mut();
        if !self.seat.is_alone() {
            let brought = self.seat.gather(logits.clone())?;
            if !self.seat.is_first() {
                return Ok(());
            }
            *logits = join_columns(&self.decoder.tables.by_rank, &brought, rows.len());
        }
        let mut choices = vec![None; rows.len()];
        let choose = |row: usize, logits: &mut [f32], choice: &mut [Option<Choice>]| {
            choice[0] = Some(sample(logits, asking[row].how));
        };
        each_pair_of_rows(team, (logits, self.vocab_size), (&mut choices, 1), choose);
        let chosen = asking
            .iter()
            .zip(choices)
            .filter_map(|(asking, choice)| Some(choice?.of(asking.id)));
        sampled.extend(chosen);
        Ok(())
    }
}

impl Backend for CpuBackend {
    fn step(&mut self, batch: &StepBatch) -> Result<Vec<Sampled>, StepError> {
        if batch.sequences.is_empty() {
            return Ok(Vec::new());
        }
        check(batch, self.cache, self.vocab_size)?;
        let sequences = &batch.sequences;
        let _pinned = self.machine.team.pin_caller();
        self.decoder.copy_blocks(&batch.copies);
        self.decoder
            .forward(sequences, &mut self.machine, &self.seat)?;
        let asking = asking(sequences);
        let mut sampled = Vec::with_capacity(asking.len());
        for some in asking.chunks(LOGIT_ROWS_MAX) {
            self.sample(some, &mut sampled)?;
        }
        Ok(sampled)
    }
}

/// The last rows of the sequences that are to be sampled.
fn asking(sequences: &[StepSequence]) -> Vec<Asking<'_>> {
    let mut end = 0;
    sequences
        .iter()
        .filter_map(|sequence| {
            end += sequence.tokens.len();
            let how = sequence.sample.as_ref()?;
            Some(Asking {
                row: end - 1,
                id: sequence.id,
                how,
            })
        })
        .collect()
}

#[cfg(test)]
mod families;
#[cfg(test)]
mod tests;
