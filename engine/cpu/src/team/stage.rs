//! Work that a team does in pieces, and who takes which.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::share::share;

/// One of a team's workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

/// Pieces of work that may be done in any order, by anyone.
///
/// Each worker does its own first, so that what it touches is what it touched last time; then
/// what others have not begun. So a worker that the kernel runs late holds nobody up.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    /// How many there are, and whose.
    pub pieces: Pieces<'a>,
    /// Does one. Each is done once.
    pub work: &'a (dyn Fn(Piece) + Sync + 'a),
}

/// How many pieces a stage has, and whose they are.
#[derive(Clone, Copy)]
pub enum Pieces<'a> {
    /// So many, by [`Worker::share`].
    Even(usize),
    /// So many of each worker.
    Own(&'a (dyn Fn(Worker) -> usize + Sync + 'a)),
}

/// One piece of a stage.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Who does it.
    pub by: Worker,
    /// Whose it is.
    pub of: Worker,
    /// Among all of [`Pieces::Even`], or among those of that worker.
    pub index: usize,
}

/// Who may do a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Anyone,
    ItsOwner,
}

/// What has been taken of one stage, and what is done.
#[derive(Debug)]
pub(super) struct Progress {
    /// Of each worker's own pieces, how many were taken, or more.
    taken: Vec<Taken>,
    done: AtomicUsize,
}

/// Alone in its cache lines: mostly its owner writes it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Taken(AtomicUsize);

// === impl Worker ===

impl Worker {
    /// This worker's [`share`] of `items` things in a row.
    #[must_use]
    pub fn share(self, items: usize) -> Range<usize> {
        share(items, self.count, self.index)
    }

    /// All of them, this one first.
    fn and_others(self) -> impl Iterator<Item = Self> {
        (self.index..self.index + self.count).map(move |index| Self {
            index: index % self.count,
            count: self.count,
        })
    }
}

// === impl Stage ===

impl Stage<'_> {
    /// Of a team of `count`.
    pub(super) fn total(&self, count: usize) -> usize {
        let of_each = (0..count).map(|index| self.pieces.of(Worker { index, count }).len());
        of_each.sum()
    }

    /// Does all pieces.
    pub(super) fn run_alone(&self, by: Worker) {
        for of in by.and_others() {
            for index in self.pieces.of(of) {
                (self.work)(Piece { by, of, index });
            }
        }
    }

    /// Does pieces until none is left to take; how many.
    pub(super) fn take_part(&self, by: Worker, whose: By, progress: &Progress) -> usize {
        let mut done = 0;
        for of in by.and_others() {
            if whose == By::ItsOwner && of != by {
                break;
            }
            let pieces = self.pieces.of(of);
            while let Some(next) = progress.take(of, pieces.len()) {
                let index = pieces.start + next;
                (self.work)(Piece { by, of, index });
                done += 1;
            }
        }
        done
    }
}

impl fmt::Debug for Stage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Stage");
        out.field("pieces", &self.pieces).finish_non_exhaustive()
    }
}

// === impl Pieces ===

impl Pieces<'_> {
    /// The numbers of a worker's own.
    fn of(self, worker: Worker) -> Range<usize> {
        match self {
            Self::Even(count) => worker.share(count),
            Self::Own(count) => 0..count(worker),
        }
    }
}

impl fmt::Debug for Pieces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Even(count) => f.debug_tuple("Even").field(count).finish(),
            Self::Own(_) => f.debug_tuple("Own").finish_non_exhaustive(),
        }
    }
}

// === impl Progress ===

impl Progress {
    pub(super) fn new(worker_count: usize) -> Self {
        Self {
            taken: (0..worker_count).map(|_| Taken::default()).collect(),
            done: AtomicUsize::new(0),
        }
    }

    /// For another run: while nobody is in one.
    pub(super) fn clear(&self) {
        for taken in &self.taken {
            taken.0.store(0, Ordering::Relaxed);
        }
        self.done.store(0, Ordering::Relaxed);
    }

    /// The next of somebody's pieces.
    fn take(&self, of: Worker, pieces: usize) -> Option<usize> {
        let taken = &self.taken[of.index].0;
        // Looked at first: who finds nothing must not take the line from its owner.
        if taken.load(Ordering::Relaxed) >= pieces {
            return None;
        }
        let index = taken.fetch_add(1, Ordering::Relaxed);
        (index < pieces).then_some(index)
    }

    /// Counts pieces as done; how many are, in all.
    pub(super) fn add_done(&self, pieces: usize) -> usize {
        self.done.fetch_add(pieces, Ordering::AcqRel) + pieces
    }

    pub(super) fn done(&self) -> usize {
        self.done.load(Ordering::Acquire)
    }
}
