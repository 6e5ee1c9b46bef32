//! Threads that compute one thing together, each on a CPU of its own.
//!
//! The thread that calls [`Team::run`] is worker 0; the others wait between runs, spinning for a
//! moment and then asleep. A run neither allocates nor locks.
#![allow(
    unsafe_code,
    reason = "workers borrow the caller's closure for the time of a run"
)]

use std::any::Any;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

mod cpus;
mod float_state;
mod gate;

use crate::memory::Pool;
use cpus::Cpus;
use float_state::Flushed;
use gate::Gate;

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

/// One of the threads in a run.
#[derive(Clone, Copy, Debug)]
pub struct Worker<'a> {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
    shared: &'a Shared,
}

/// What a run is made of.
type Job<'a> = &'a (dyn Fn(Worker<'_>) + Sync + 'a);

#[derive(Debug)]
struct Shared {
    count: usize,
    /// Points to the caller's `Job` during a run. Written by the caller between runs only.
    job: AtomicPtr<Job<'static>>,
    /// Opened at the start of each run.
    start: Gate,
    /// Opened when the last of the other workers has left the run.
    end: Gate,
    running: AtomicUsize,
    barrier: Gate,
    arrived: AtomicUsize,
    /// A worker panicked in this run: barriers let nobody pass.
    broken: AtomicBool,
    /// What the first one panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    closing: AtomicBool,
}

/// What a worker unwinds with because another panicked.
struct Broken;

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

    /// Runs `job` once on every worker and returns when all are done. Denormals are zero in it.
    ///
    /// # Panics
    /// When `job` does, with the first panic's payload, once every worker has left the run; those
    /// that wait in a barrier leave it. The team can be used again.
    pub fn run(&mut self, job: impl Fn(Worker<'_>) + Sync) {
        let job: Job<'_> = &job;
        let shared = &*self.shared;
        // Only the lifetime is cut off: every worker has left `job` when this function returns.
        shared
            .job
            .store((&raw const job).cast_mut().cast(), Ordering::Relaxed);
        shared.running.store(shared.count - 1, Ordering::Relaxed);
        let ended = shared.end.opened();
        shared.start.open();
        {
            let _flushed = Flushed::here();
            shared.take_part(job, 0);
        }
        if shared.count > 1 {
            shared.end.wait_past(ended);
        }
        shared.job.store(ptr::null_mut(), Ordering::Relaxed);
        if shared.broken.load(Ordering::Relaxed) {
            panic::resume_unwind(shared.mend());
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.start.open();
        for thread in self.threads.drain(..) {
            // A worker catches what its job panics with.
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

// === impl Worker ===

impl Worker<'_> {
    /// This worker's part of `items` things in a row: parts are in the workers' order and differ
    /// by at most one.
    #[must_use]
    pub fn share(&self, items: usize) -> Range<usize> {
        let bound = |index: usize| index * (items / self.count) + index.min(items % self.count);
        bound(self.index)..bound(self.index + 1)
    }

    /// Returns when every worker of the run has called it as often as this one.
    ///
    /// Unwinds instead when a worker panicked.
    pub fn barrier(&self) {
        self.shared.meet();
    }
}

// === impl Shared ===

impl Shared {
    fn new(count: usize) -> Self {
        Self {
            count,
            job: AtomicPtr::default(),
            start: Gate::default(),
            end: Gate::default(),
            running: AtomicUsize::new(0),
            barrier: Gate::default(),
            arrived: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            panic: Mutex::new(None),
            closing: AtomicBool::new(false),
        }
    }

    /// The whole life of a thread.
    fn work(&self, index: usize) {
        let _flushed = Flushed::here();
        let mut runs = 0_u32;
        loop {
            self.start.wait_past(runs);
            runs = runs.wrapping_add(1);
            if self.closing.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: the gate was opened after the pointer was set, and the caller keeps what it
            // points to until `end` opens, which needs this worker to leave below.
            let job = unsafe { *self.job.load(Ordering::Relaxed) };
            self.take_part(job, index);
            if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.end.open();
            }
        }
    }

    fn take_part(&self, job: Job<'_>, index: usize) {
        let worker = Worker {
            index,
            count: self.count,
            shared: self,
        };
        if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| job(worker))) {
            self.break_off(payload);
        }
    }

    fn meet(&self) {
        let seen = self.barrier.opened();
        if self.broken.load(Ordering::Acquire) {
            panic::resume_unwind(Box::new(Broken));
        }
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.count {
            self.arrived.store(0, Ordering::Relaxed);
            self.barrier.open();
        } else {
            self.barrier.wait_past(seen);
        }
        if self.broken.load(Ordering::Acquire) {
            panic::resume_unwind(Box::new(Broken));
        }
    }

    fn break_off(&self, payload: Box<dyn Any + Send>) {
        if !payload.is::<Broken>() {
            let mut panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            panic.get_or_insert(payload);
        }
        self.broken.store(true, Ordering::Release);
        self.barrier.open();
    }

    /// Ready for another run; gives what the last one panicked with.
    fn mend(&self) -> Box<dyn Any + Send> {
        self.arrived.store(0, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
        let mut panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
        panic.take().unwrap_or_else(|| Box::new(Broken))
    }
}

#[cfg(test)]
mod tests;
