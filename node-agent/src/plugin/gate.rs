//! Never both at once: a PodResources call of ours, and an allocation that we serve.
//!
//! PodResources' `List` makes the kubelet's device manager forget pods that have just ended and
//! count anew what is given, from what it has written down. The set that it is giving away at that
//! moment (after GetPreferredAllocation, until Allocate's answer is booked) is not written down yet
//! and would be free again (read in 1.37.1, `devicesToAllocate` and `UpdateAllocatedDevices`).

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// After an answer of ours the kubelet calls Allocate or books what it gave: microseconds on a quiet
/// machine.
pub(crate) const QUIET: Duration = Duration::from_secs(1);

/// One lock, and when allocation was last served under it.
#[derive(Debug)]
pub(crate) struct Gate {
    quiet: Duration,
    last_served: Mutex<Option<Instant>>,
}

/// Held while an allocation is served.
#[derive(Debug)]
pub(crate) struct Serving<'a>(MutexGuard<'a, Option<Instant>>);

/// Held while PodResources is called.
#[derive(Debug)]
pub(crate) struct Asking<'a> {
    _guard: MutexGuard<'a, Option<Instant>>,
}

// === impl Gate ===

impl Gate {
    /// PodResources is not asked for `quiet` after an allocation.
    pub(crate) fn new(quiet: Duration) -> Self {
        let last_served = Mutex::default();
        Self { quiet, last_served }
    }

    /// Waits for a call of PodResources that is under way, which has a deadline of its own.
    pub(crate) async fn serve(&self) -> Serving<'_> {
        Serving(self.last_served.lock().await)
    }

    /// The kubelet was started anew and is giving nothing away.
    pub(crate) async fn forget(&self) {
        *self.last_served.lock().await = None;
    }

    /// Waits until it has been quiet.
    pub(crate) async fn ask(&self) -> Asking<'_> {
        loop {
            let guard = self.last_served.lock().await;
            let age = guard.map(|at| at.elapsed());
            match age.and_then(|age| self.quiet.checked_sub(age)) {
                Some(left) if !left.is_zero() => {
                    drop(guard);
                    tokio::time::sleep(left).await;
                }
                _ => return Asking { _guard: guard },
            }
        }
    }

    /// `None` while an allocation is served, or was an instant ago.
    pub(crate) fn try_ask(&self) -> Option<Asking<'_>> {
        let guard = self.last_served.try_lock().ok()?;
        let is_quiet = guard.is_none_or(|at| at.elapsed() >= self.quiet);
        is_quiet.then_some(Asking { _guard: guard })
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        *self.0 = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn podresources_is_not_asked_while_an_allocation_is_served_nor_just_after() {
        let gate = Gate::new(Duration::from_secs(3_600));
        assert!(gate.try_ask().is_some());
        let serving = gate.serve().await;
        assert!(gate.try_ask().is_none());
        drop(serving);
        assert!(gate.try_ask().is_none());
    }

    #[tokio::test]
    async fn podresources_is_asked_again_when_it_has_been_quiet() {
        let gate = Gate::new(Duration::from_millis(5));
        let serving = gate.serve().await;
        assert!(gate.try_ask().is_none());
        drop(serving);
        let asking = gate.ask().await;
        drop(asking);
        assert!(gate.try_ask().is_some());
    }

    #[tokio::test]
    async fn an_allocation_waits_for_the_call_of_podresources_that_is_under_way() {
        let gate = Gate::new(Duration::ZERO);
        let asking = gate.try_ask().unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(5), gate.serve()).await;
        assert!(waited.is_err());
        drop(asking);
        gate.serve().await;
    }
}
