//! One rank: a thread that pins itself, loads its part of the model, then computes steps.
//!
//! The order matters: a page belongs to the node of the thread that touches it first, so CPUs
//! and memory policy are set before the backend allocates anything.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use berth_engine_core::batch::{Sampled, StepBatch};
use berth_engine_model::backend::{Backend, Collective, Shard, StepError};

use crate::assign::Place;
use report::RankReport;

pub(crate) mod report;

/// A backend's own error; each has its own type.
pub(crate) type BackendError = Box<dyn std::error::Error + Send + Sync>;

/// Builds a rank's backend on the rank's own thread.
pub(crate) type LoadBackend =
    dyn Fn(Shard, Arc<dyn Collective>) -> Result<Box<dyn Backend>, BackendError> + Send + Sync;

/// Steps on the way to a rank: the step loop waits for one before it sends the next.
const BATCHES_MAX: usize = 1;

/// The step loop's end of a rank. Dropping it ends the rank's thread.
#[derive(Debug)]
pub(crate) struct Rank {
    pub(crate) batches: SyncSender<Arc<StepBatch>>,
    pub(crate) results: Receiver<Result<Vec<Sampled>, StepError>>,
    /// Answers once, when the backend is loaded or could not be.
    pub(crate) loaded: Receiver<Result<RankReport, BackendError>>,
}

/// The thread's end.
struct Worker {
    place: Place,
    shard: Shard,
    collective: Arc<dyn Collective>,
    load: Arc<LoadBackend>,
    batches: Receiver<Arc<StepBatch>>,
    results: SyncSender<Result<Vec<Sampled>, StepError>>,
    loaded: SyncSender<Result<RankReport, BackendError>>,
}

/// A rank's part in its collective: leaving it, by a panic too, wakes the others.
struct Seat(Arc<dyn Collective>, usize);

// === impl Rank ===

impl Rank {
    /// Starts the thread `berth-rank-N`, which loads at once.
    pub(crate) fn spawn(
        place: Place,
        shard: Shard,
        collective: Arc<dyn Collective>,
        load: Arc<LoadBackend>,
    ) -> std::io::Result<Self> {
        let (batches, batches_in) = sync_channel(BATCHES_MAX);
        let (results_out, results) = sync_channel(BATCHES_MAX);
        let (loaded_out, loaded) = sync_channel(1);
        let name = format!("berth-rank-{}", place.rank);
        let worker = Worker {
            place,
            shard,
            collective,
            load,
            batches: batches_in,
            results: results_out,
            loaded: loaded_out,
        };
        thread::Builder::new()
            .name(name)
            .spawn(move || worker.run())?;
        Ok(Self {
            batches,
            results,
            loaded,
        })
    }
}

// === impl Worker ===

impl Worker {
    fn run(self) {
        let _seat = Seat(Arc::clone(&self.collective), self.shard.rank);
        let pinned = report::pin(&self.place);
        let mut backend = match (self.load)(self.shard, Arc::clone(&self.collective)) {
            Ok(backend) => backend,
            Err(error) => {
                let _ = self.loaded.send(Err(error));
                return;
            }
        };
        let report = report::observe(self.place, &pinned);
        if self.loaded.send(Ok(report)).is_err() {
            return;
        }
        while let Ok(batch) = self.batches.recv() {
            let result = backend.step(&batch);
            let failed = result.is_err();
            if self.results.send(result).is_err() || failed {
                return;
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}
