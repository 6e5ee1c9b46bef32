//! What a team's threads have in common.
#![allow(
    unsafe_code,
    reason = "workers borrow the caller's stages for the time of a run"
)]

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use super::door::Door;
use super::float_state::Flushed;
use super::gate::Gate;
use super::stage::{By, Progress, Stage, Worker};

/// Stages that a run has at most.
pub(super) const STAGES_MAX: usize = 3;

/// The stages of one run.
pub(super) struct Job<'a> {
    pub(super) stages: &'a [Stage<'a>],
    /// Pieces of each.
    pub(super) totals: [usize; STAGES_MAX],
    pub(super) by: By,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) count: usize,
    /// What the run that the door is open for is made of. Written by the caller between runs only.
    job: AtomicPtr<Job<'static>>,
    /// Opened at the start of each run.
    pub(super) start: Gate,
    door: Door,
    progress: [Progress; STAGES_MAX],
    /// Opened when a stage is done, and when a run is broken off.
    stage_done: Gate,
    /// A worker panicked in this run: no further stage begins.
    broken: AtomicBool,
    /// What the first one panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    closing: AtomicBool,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(count: usize) -> Self {
        Self {
            count,
            job: AtomicPtr::default(),
            start: Gate::default(),
            door: Door::default(),
            progress: std::array::from_fn(|_| Progress::new(count)),
            stage_done: Gate::default(),
            broken: AtomicBool::new(false),
            panic: Mutex::new(None),
            closing: AtomicBool::new(false),
        }
    }

    /// The whole life of a thread.
    pub(super) fn work(&self, index: usize) {
        let _flushed = Flushed::here();
        let mut seen = 0;
        loop {
            self.start.wait_past(seen);
            seen = self.start.opened();
            if self.closing.load(Ordering::Relaxed) {
                return;
            }
            if self.door.enter() {
                // SAFETY: the door was opened after the pointer was set, and the caller keeps what
                // it points to until the door is closed and everybody has left.
                let job = unsafe { &*self.job.load(Ordering::Relaxed) };
                self.take_part(job, index);
                self.door.leave();
            }
        }
    }

    /// Lets the threads end.
    pub(super) fn end(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.start.open();
    }

    /// Returns when the job is done and nobody is at it any more.
    pub(super) fn run(&self, job: &Job<'_>) {
        for progress in &self.progress[..job.stages.len()] {
            progress.clear();
        }
        // Only the lifetime is cut off: everybody has left the job when this function returns.
        let pointer = ptr::from_ref(job).cast_mut().cast();
        self.job.store(pointer, Ordering::Relaxed);
        self.door.open();
        self.start.open();
        self.take_part(job, 0);
        self.door.close();
        self.job.store(ptr::null_mut(), Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) {
            panic::resume_unwind(self.mend());
        }
    }

    fn take_part(&self, job: &Job<'_>, index: usize) {
        let by = Worker {
            index,
            count: self.count,
        };
        let work = || {
            for (number, stage) in job.stages.iter().enumerate() {
                let (progress, total) = (&self.progress[number], job.totals[number]);
                let mine = stage.take_part(by, job.by, progress);
                self.count_done(progress, mine, total);
                // Only the caller has to know that the last stage is done.
                let is_last = number + 1 == job.stages.len();
                if is_last && index > 0 || !self.wait_for(progress, total) {
                    return;
                }
            }
        };
        if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(work)) {
            self.break_off(payload);
        }
    }

    /// Counts pieces that this thread did, and lets the others go on if they were the last.
    fn count_done(&self, progress: &Progress, mine: usize, total: usize) {
        if mine > 0 && progress.add_done(mine) == total {
            self.stage_done.open();
        }
    }

    /// Returns when all pieces of a stage are done; false when the run is broken off.
    fn wait_for(&self, progress: &Progress, total: usize) -> bool {
        loop {
            let seen = self.stage_done.opened();
            if self.broken.load(Ordering::Acquire) {
                return false;
            }
            if progress.done() == total {
                return true;
            }
            self.stage_done.wait_past(seen);
        }
    }

    fn break_off(&self, payload: Box<dyn Any + Send>) {
        let mut panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
        panic.get_or_insert(payload);
        self.broken.store(true, Ordering::Release);
        self.stage_done.open();
    }

    /// Ready for another run; gives what the last one panicked with.
    fn mend(&self) -> Box<dyn Any + Send> {
        self.broken.store(false, Ordering::Relaxed);
        let mut panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
        panic.take().unwrap_or_else(|| Box::new(()))
    }
}
