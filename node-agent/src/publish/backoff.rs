//! How long to wait after a failure: longer each time, up to a bound, and not all agents at once.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The first wait.
const WAIT_MIN: Duration = Duration::from_millis(500);
/// Readers refuse a node after 60 s without a renewal: there must be several tries within that.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Doubles from [`WAIT_MIN`] to [`WAIT_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

// === impl Backoff ===

impl Backoff {
    /// Whether the last try failed.
    pub(crate) fn is_waiting(&self) -> bool {
        self.failures > 0
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Half of the wait is fixed, half is chance: the agents of a cluster whose API server comes
    /// back do not all call in the same instant.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let whole = WAIT_MIN
            .saturating_mul(1 << self.failures.min(16))
            .min(WAIT_MAX);
        self.failures += 1;
        // a fresh RandomState is the standard library's source of chance
        let chance = u32::try_from(RandomState::new().hash_one(self.failures) >> 32).unwrap_or(0);
        whole / 2 + (whole / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_start_again_after_success() {
        let mut backoff = Backoff::default();
        let mut half = WAIT_MIN / 2;
        for _ in 0..40 {
            let wait = backoff.next_wait();
            assert!(
                (half..=half * 2).contains(&wait),
                "{wait:?} is not within {half:?} and twice that"
            );
            half = (half * 2).min(WAIT_MAX / 2);
        }
        assert!(backoff.is_waiting());
        backoff.reset();
        assert!(!backoff.is_waiting() && backoff.next_wait() <= WAIT_MIN);
    }
}
