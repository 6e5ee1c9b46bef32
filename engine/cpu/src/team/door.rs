//! Who is in a run: workers come in while it is open, and the caller waits until all have left.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::gate::Gate;

/// Set while workers may come in; the bits below count those inside.
const OPEN: usize = 1 << (usize::BITS - 1);

/// Closed at first.
#[derive(Debug, Default)]
pub(super) struct Door {
    state: AtomicUsize,
    /// Opened when the last one has left after closing.
    left: Gate,
}

// === impl Door ===

impl Door {
    /// What the caller wrote before is seen by those who come in.
    pub(super) fn open(&self) {
        self.state.fetch_or(OPEN, Ordering::Release);
    }

    /// Whether this thread is inside now.
    pub(super) fn enter(&self) -> bool {
        let come_in = |state| (state & OPEN != 0).then_some(state + 1);
        self.state
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, come_in)
            .is_ok()
    }

    pub(super) fn leave(&self) {
        if self.state.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.left.open();
        }
    }

    /// Returns when nobody is inside, and nobody can come in any more.
    pub(super) fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        loop {
            let seen = self.left.opened();
            if self.state.load(Ordering::Acquire) == 0 {
                return;
            }
            self.left.wait_past(seen);
        }
    }
}
