//! All ranks of one model, stepped together.

use std::error::Error as _;
use std::sync::Arc;

use berth_engine_core::batch::{Sampled, StepBatch};
use berth_engine_model::backend::{Collective, Shard, StepError};
use berth_engine_model::collective::SharedMemory;

use crate::assign::Place;
use crate::rank::report::RankReport;
use crate::rank::{BackendError, LoadBackend, Rank};

/// The ranks, by number; never empty.
#[derive(Debug)]
pub(crate) struct Team {
    ranks: Vec<Rank>,
}

/// Why a team cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system gives no thread.
    #[error("starting the thread of rank {rank}")]
    Spawn {
        /// Which.
        rank: usize,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A rank cannot load its part.
    #[error("loading the model on rank {rank}")]
    Load {
        /// Which.
        rank: usize,
        /// The backend's own error.
        #[source]
        source: BackendError,
    },
    /// A rank cannot compute a step.
    #[error("computing a step on rank {rank}")]
    Step {
        /// Which.
        rank: usize,
        /// The backend's own error.
        #[source]
        source: StepError,
    },
    /// A rank's thread ended without a word: it panicked.
    #[error("rank {rank} ended unexpectedly")]
    Gone {
        /// Which.
        rank: usize,
    },
    /// Rank 0 did not sample what it was asked to.
    #[error("rank 0 gave {given} samples where {wanted} were asked for")]
    Samples {
        /// Rows asked for.
        wanted: usize,
        /// Samples that came.
        given: usize,
    },
}

// === impl Team ===

impl Team {
    /// Starts a thread per place and waits until each has loaded.
    ///
    /// # Errors
    /// The cause, where one rank's failure makes the others fail.
    pub(crate) fn load(
        places: &[Place],
        load: &Arc<LoadBackend>,
    ) -> Result<(Self, Vec<RankReport>), Error> {
        let degree = places.len();
        let collective: Arc<dyn Collective> = Arc::new(SharedMemory::new(degree));
        let spawn = |place: &Place| {
            let shard = Shard {
                rank: place.rank,
                degree,
            };
            Rank::spawn(
                place.clone(),
                shard,
                Arc::clone(&collective),
                Arc::clone(load),
            )
            .map_err(|source| Error::Spawn {
                rank: place.rank,
                source,
            })
        };
        let ranks = places.iter().map(spawn).collect::<Result<Vec<_>, _>>()?;
        let reports = all(&ranks, |rank, thread| match thread.loaded.recv() {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(source)) => Err(Error::Load { rank, source }),
            Err(_) => Err(Error::Gone { rank }),
        })?;
        Ok((Self { ranks }, reports))
    }

    /// Computes one step on every rank; the samples are rank 0's.
    ///
    /// # Errors
    /// When any rank fails; the cache is in doubt then.
    pub(crate) fn step(&self, batch: StepBatch) -> Result<Vec<Sampled>, Error> {
        let wanted = batch
            .sequences
            .iter()
            .filter(|sequence| sequence.sample.is_some())
            .count();
        let batch = Arc::new(batch);
        for (rank, thread) in self.ranks.iter().enumerate() {
            // A rank that is gone has left its error among the results.
            if thread.batches.send(Arc::clone(&batch)).is_err() {
                tracing::debug!(rank, "rank takes no more steps");
            }
        }
        let results = all(&self.ranks, |rank, thread| match thread.results.recv() {
            Ok(result) => result.map_err(|source| Error::Step { rank, source }),
            Err(_) => Err(Error::Gone { rank }),
        })?;
        let sampled = results.into_iter().next().unwrap_or_default();
        if sampled.len() != wanted {
            return Err(Error::Samples {
                wanted,
                given: sampled.len(),
            });
        }
        Ok(sampled)
    }
}

/// Asks every rank, then answers with the error that tells most, if there is one.
fn all<T>(ranks: &[Rank], ask: impl Fn(usize, &Rank) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    let answers: Vec<Result<T, Error>> = ranks
        .iter()
        .enumerate()
        .map(|(rank, thread)| ask(rank, thread))
        .collect();
    let mut good = vec![];
    let mut worst: Option<Error> = None;
    for answer in answers {
        match answer {
            Ok(answer) => good.push(answer),
            Err(error) if worst.as_ref().is_none_or(Error::is_consequence) => worst = Some(error),
            Err(_) => {}
        }
    }
    worst.map_or(Ok(good), Err)
}

// === impl Error ===

impl Error {
    /// Whether another rank's failure is what this error tells of.
    fn is_consequence(&self) -> bool {
        let mut cause = self.source();
        while let Some(error) = cause {
            if matches!(error.downcast_ref(), Some(StepError::PeerGone { .. })) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}
