//! Threads that compute one thing together, each on a CPU of its own.
//!
//! The thread that calls [`Team::run`] is worker 0; the others wait between runs, spinning for a
//! moment and then asleep. A run neither allocates nor locks, and waits for nobody who has not
//! come: whoever is there does the pieces of those who are not.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

mod cpus;
mod door;
mod float_state;
mod gate;
mod shared;
mod stage;

pub use stage::{Piece, Pieces, Stage, Worker};

use crate::memory::Pool;
use cpus::Cpus;
use float_state::Flushed;
use shared::{Job, STAGES_MAX, Shared};
use stage::By;

/// Worker 0 and the threads of the others, which end with it.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// One for each worker.
    cpus: Vec<usize>,
    /// Where its matrices are put.
    memory: Pool,
}

/// While it lives, the thread that made it runs on worker 0's CPU only.
#[derive(Debug)]
#[must_use = "the thread's mask is given back when this is dropped"]
pub struct CallerPinned {
    before: Option<Cpus>,
    /// A mask is its thread's own: this stays there.
    _here: PhantomData<*const ()>,
}

// === impl Team ===

impl Team {
    /// A team on the CPUs that the calling thread may use, by default one worker on each; the
    /// threads inherit its memory policy. More workers than CPUs share them, slowly: for tests.
    ///
    /// The caller keeps its mask but for the time of [`Self::pin_caller`].
    ///
    /// # Errors
    /// When the kernel gives no thread or no affinity.
    pub fn new(worker_count: Option<usize>) -> io::Result<Self> {
        let before = Cpus::of_this_thread()?;
        let list = before.list();
        let count = worker_count.unwrap_or(list.len()).max(1);
        let mut team = Self {
            shared: Arc::new(Shared::new(count)),
            threads: Vec::with_capacity(count - 1),
            cpus: list.into_iter().cycle().take(count).collect(),
            memory: Pool::default(),
        };
        let started = team.start_threads();
        before.pin_this_thread()?;
        started.map(|()| team)
    }

    /// Leaves the caller pinned to some CPU.
    fn start_threads(&mut self) -> io::Result<()> {
        for index in 1..self.shared.count {
            // Inherited by the new thread, which then never runs elsewhere.
            Cpus::one(self.cpus[index]).pin_this_thread()?;
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new()
                .name(format!("berth-cpu-{index}"))
                .spawn(move || shared.work(index))?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// Workers, the caller among them.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.shared.count
    }

    /// The CPU of each worker.
    #[must_use]
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    /// Keeps the calling thread on worker 0's CPU: a thread that may use them all is put on a busy
    /// worker's now and then, and spins there until that worker's turn comes.
    ///
    /// For the time of some runs, so that who asks in between sees the mask that the thread was
    /// given. Nothing happens where there is no other worker, or where the kernel refuses: that
    /// costs time only.
    pub fn pin_caller(&self) -> CallerPinned {
        let pin = || {
            let before = Cpus::of_this_thread()?;
            Cpus::one(self.cpus[0]).pin_this_thread()?;
            io::Result::Ok(before)
        };
        let has_others = !self.threads.is_empty();
        CallerPinned {
            before: has_others.then(pin).and_then(Result::ok),
            _here: PhantomData,
        }
    }

    /// For what its workers touch first, and nobody else does: pages are shared by neighbours.
    pub(crate) fn memory(&mut self) -> &mut Pool {
        &mut self.memory
    }

    /// Has all pieces of each stage done, one stage after the other, and returns when all are.
    /// What a stage wrote is seen by the next. Denormals are zero in it.
    ///
    /// # Panics
    /// When a piece does, with the first panic's payload, once every worker has left the run. The
    /// team can be used again. When there are more than three stages.
    pub fn run(&mut self, stages: &[Stage<'_>]) {
        let _flushed = Flushed::here();
        let count = self.shared.count;
        // What is one piece anyway is not worth a meeting.
        let alone = stages.iter().take_while(|stage| stage.total(count) <= 1);
        let alone = if count == 1 {
            stages.len()
        } else {
            alone.count()
        };
        let (alone, together) = stages.split_at(alone);
        for stage in alone {
            stage.run_alone(Worker { index: 0, count });
        }
        if !together.is_empty() {
            self.run_together(together, By::Anyone);
        }
    }

    /// Runs `job` once on every worker, and returns when all are done.
    ///
    /// # Panics
    /// As [`Self::run`].
    pub fn run_on_each(&mut self, job: impl Fn(Worker) + Sync) {
        let _flushed = Flushed::here();
        let stage = Stage {
            pieces: Pieces::Even(self.shared.count),
            work: &|piece| job(piece.by),
        };
        self.run_together(&[stage], By::ItsOwner);
    }

    fn run_together(&mut self, stages: &[Stage<'_>], by: By) {
        let mut totals = [0; STAGES_MAX];
        for (total, stage) in totals[..stages.len()].iter_mut().zip(stages) {
            *total = stage.total(self.shared.count);
        }
        self.shared.run(&Job { stages, totals, by });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.end();
        for thread in self.threads.drain(..) {
            // A worker catches what its pieces panic with.
            let _ = thread.join();
        }
    }
}

// === impl CallerPinned ===

impl Drop for CallerPinned {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // It was this thread's own a moment ago.
            let _ = before.pin_this_thread();
        }
    }
}

#[cfg(test)]
mod tests;
