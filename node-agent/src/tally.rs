//! What the parts of the agent count, for the page of metrics and for the questions about its health.
//!
//! Each part tells what happened; nobody decides by the counts. What was published can be followed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_topology::node::Status;
use tokio::sync::watch;
use tokio::time::Instant;

/// Upper ends of the buckets of a probe's time, in seconds: from a machine without GPUs to a driver that
/// is on its knees.
pub const PROBE_SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Shared by the threads and tasks.
#[derive(Debug)]
pub struct Tally {
    started_at: Instant,
    counts: Mutex<Counts>,
    published: watch::Sender<Option<Arc<Status>>>,
}

/// What has happened until now.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// How long probes took, by bucket of [`PROBE_SECONDS`]; the last is for longer ones.
    pub probes: [u64; PROBE_SECONDS.len() + 1],
    /// The sum of what probes took.
    pub probing: Duration,
    /// Probes that gave nothing (a recorded machine whose file cannot be read).
    pub probe_failure_count: u64,
    /// Since when a probe runs; none between two.
    pub probing_since: Option<Instant>,
    /// When the last probe ended.
    pub probed_at: Option<Instant>,
    /// Rounds of publishing that failed.
    pub publish_error_count: u64,
    /// When the Lease was last renewed.
    pub renewed_at: Option<Instant>,
    /// What was last published.
    pub status: Option<Arc<Status>>,
    /// Answers to the kubelet's Allocate, by resource and outcome.
    pub answers: BTreeMap<(String, Outcome), u64>,
    /// Containers that hold other devices than their pods were promised, by resource.
    pub mismatches: BTreeMap<String, usize>,
}

/// How an Allocate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The promised devices were given.
    Promised,
    /// Others than were promised.
    Other,
    /// Nothing was promised.
    Unpromised,
    /// A container that lives holds one of them.
    Refused,
}

/// Marks a probe as ended when it is dropped, however it ended.
#[derive(Debug)]
pub struct Probing<'a> {
    tally: &'a Tally,
    since: Instant,
}

// === impl Outcome ===

impl Outcome {
    /// The value of the label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promised => "promised",
            Self::Other => "other",
            Self::Unpromised => "unpromised",
            Self::Refused => "refused",
        }
    }
}

// === impl Tally ===

impl Default for Tally {
    fn default() -> Self {
        Self {
            started_at: Instant::now(),
            counts: Mutex::default(),
            published: watch::Sender::default(),
        }
    }
}

impl Tally {
    /// Since when the agent runs.
    #[must_use]
    pub fn started_at(&self) -> Instant {
        self.started_at
    }

    /// All counts as they are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = self.lock().clone();
        counts.status.clone_from(&self.published.borrow());
        counts
    }

    /// What is published, as it changes; none before the first time.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Option<Arc<Status>>> {
        self.published.subscribe()
    }

    /// A probe begins; it ends with what is returned.
    #[must_use]
    pub fn probing(&self) -> Probing<'_> {
        let since = Instant::now();
        self.lock().probing_since = Some(since);
        Probing { tally: self, since }
    }

    /// A probe gave nothing.
    pub fn probe_failed(&self) {
        self.lock().probe_failure_count += 1;
    }

    /// A round of publishing failed.
    pub fn publish_failed(&self) {
        self.lock().publish_error_count += 1;
    }

    /// The cluster is as it should be.
    pub fn published(&self, status: Option<&Status>, renewed_at: Option<Instant>) {
        self.lock().renewed_at = renewed_at;
        self.published.send_if_modified(|known| {
            let is_new = status.is_some() && known.as_deref() != status;
            if is_new {
                *known = status.cloned().map(Arc::new);
            }
            is_new
        });
    }

    /// The kubelet asked for devices of a resource.
    pub fn allocated(&self, resource: &str, outcome: Outcome) {
        let mut counts = self.lock();
        *counts
            .answers
            .entry((resource.to_owned(), outcome))
            .or_default() += 1;
    }

    /// So many containers hold other devices of a resource than were promised.
    pub fn mismatched(&self, resource: &str, count: usize) {
        self.lock().mismatches.insert(resource.to_owned(), count);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Probing ===

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        let took = self.since.elapsed();
        let bucket = PROBE_SECONDS
            .iter()
            .position(|end| took.as_secs_f64() <= *end);
        let mut counts = self.tally.lock();
        counts.probes[bucket.unwrap_or(PROBE_SECONDS.len())] += 1;
        counts.probing += took;
        counts.probing_since = None;
        counts.probed_at = Some(Instant::now());
    }
}
