//! What the engine is doing, as probes and handlers see it. Written by the step loop.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Between two steps the loop does little, and shows that it lives twice a second.
const BETWEEN_STEPS: Duration = Duration::from_millis(1500);

/// ```text
/// loading ──► ready ──► draining        failed is reached from each, and never left
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Loading,
    Ready,
    Draining,
    /// With the reason.
    Failed(String),
}

/// Shared between the step loop, the handlers and whoever drains.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    started: Instant,
    stall_timeout: Duration,
    loaded: AtomicBool,
    draining: AtomicBool,
    failure: OnceLock<String>,
    /// Last sign of life of the step loop, in milliseconds since `started`.
    beat_ms: AtomicU64,
    /// When the next one is late, on the same clock. One number, so that no probe joins one beat's
    /// time to another's patience.
    late_ms: AtomicU64,
    in_flight: AtomicUsize,
}

/// Held by each request until its last byte.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Lifecycle>);

// === impl Lifecycle ===

impl Lifecycle {
    pub(crate) fn new(stall_timeout: Duration) -> Self {
        Self {
            started: Instant::now(),
            stall_timeout,
            loaded: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            failure: OnceLock::new(),
            beat_ms: AtomicU64::new(0),
            late_ms: AtomicU64::new(millis(stall_timeout)),
            in_flight: AtomicUsize::new(0),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.failure.get() {
            Some(reason) => Phase::Failed(reason.clone()),
            None if self.draining.load(Ordering::Relaxed) => Phase::Draining,
            None if self.loaded.load(Ordering::Relaxed) => Phase::Ready,
            None => Phase::Loading,
        }
    }

    /// Called by the step loop at each turn.
    pub(crate) fn beat(&self) {
        self.expect_beat_within(BETWEEN_STEPS);
    }

    /// Called by the step loop before a step, or whatever else may take time.
    pub(crate) fn expect_beat_within(&self, patience: Duration) {
        let patience = patience.min(self.stall_timeout);
        let now_ms = self.now_ms();
        let late_ms = now_ms.saturating_add(millis(patience));
        self.late_ms.store(late_ms, Ordering::Relaxed);
        self.beat_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The longest that a step may take.
    pub(crate) fn stall_timeout(&self) -> Duration {
        self.stall_timeout
    }

    fn is_late(&self) -> bool {
        self.now_ms() > self.late_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn heartbeat_age(&self) -> Duration {
        let age_ms = self
            .now_ms()
            .saturating_sub(self.beat_ms.load(Ordering::Relaxed));
        Duration::from_millis(age_ms)
    }

    /// Whether the step loop makes progress; otherwise why not.
    pub(crate) fn health(&self) -> Result<(), String> {
        match self.phase() {
            Phase::Failed(reason) => Err(reason),
            _ if !self.loaded.load(Ordering::Relaxed) => Err("the model is loading".to_owned()),
            _ if self.is_late() => {
                let age_s = self.heartbeat_age().as_secs_f64();
                Err(format!("the step loop made no progress for {age_s:.1} s"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn set_loaded(&self) {
        self.beat();
        self.loaded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Only the first reason counts: what follows is its consequence.
    pub(crate) fn fail(&self, reason: String) {
        let _ = self.failure.set(reason);
    }

    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    pub(crate) fn in_flight_count(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_needs_a_loaded_model_and_a_heartbeat() {
        let lifecycle = Lifecycle::new(Duration::from_secs(60));
        assert_eq!(lifecycle.health(), Err("the model is loading".to_owned()));
        lifecycle.set_loaded();
        assert_eq!(
            (lifecycle.health(), lifecycle.phase()),
            (Ok(()), Phase::Ready)
        );
        lifecycle.drain();
        assert_eq!(
            (lifecycle.health(), lifecycle.phase()),
            (Ok(()), Phase::Draining)
        );
        lifecycle.fail("first".to_owned());
        lifecycle.fail("second".to_owned());
        assert_eq!(lifecycle.health(), Err("first".to_owned()));
    }

    #[test]
    fn a_long_step_is_no_silence() {
        let lifecycle = Lifecycle::new(Duration::from_secs(60));
        let patience_ms = || {
            let beat_ms = lifecycle.beat_ms.load(Ordering::Relaxed);
            lifecycle.late_ms.load(Ordering::Relaxed) - beat_ms
        };
        lifecycle.set_loaded();
        lifecycle.expect_beat_within(Duration::from_secs(600));
        assert_eq!(patience_ms(), 60_000);
        lifecycle.beat();
        assert_eq!(patience_ms(), 1500);
    }

    #[test]
    fn a_silent_loop_is_unhealthy() {
        let lifecycle = Lifecycle::new(Duration::ZERO);
        lifecycle.set_loaded();
        let deadline = Instant::now() + Duration::from_secs(10);
        while lifecycle.health().is_ok() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(lifecycle.health().unwrap_err().contains("no progress"));
    }
}
