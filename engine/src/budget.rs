//! Memory that requests may take together: more are refused before there is too little.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes, given out in shares.
#[derive(Debug)]
pub(crate) struct Budget {
    free_bytes: AtomicUsize,
}

/// Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Arc::new(Self {
            free_bytes: AtomicUsize::new(bytes),
        })
    }

    /// Whether so much is left; another may take it first.
    pub(crate) fn has(&self, bytes: usize) -> bool {
        self.free_bytes.load(Ordering::Relaxed) >= bytes
    }

    /// None where less is left.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let less = |free: usize| free.checked_sub(bytes);
        self.free_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .ok()?;
        Some(Share {
            budget: Arc::clone(self),
            bytes,
        })
    }
}

// === impl Share ===

impl Share {
    /// Takes in another share of the same budget.
    pub(crate) fn add(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget
            .free_bytes
            .fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again_and_no_more() {
        let budget = Budget::new(10);
        let first = budget.take(6).unwrap();
        assert!(budget.take(5).is_none());
        let mut second = budget.take(3).unwrap();
        second.add(budget.take(1).unwrap());
        assert!(budget.has(0) && !budget.has(1));
        drop(first);
        assert!(budget.take(7).is_none());
        assert!(budget.take(6).is_some());
        drop(second);
        assert!(budget.take(10).is_some());
    }
}
