//! Writes what changed, and a Lease that shows that this agent lives.
//!
//! ```text
//!   observation or timer ─→ look (2 small GETs, once a renewal) ─→ plan (pure) ─→ writes ─→ Lease
//!        ↑                                                                               │
//!        └───────────── any failure: wait, longer each time, and look anew ──────────────┘
//! ```
//!
//! One task owns all of it. At rest the Lease is the only write. It is renewed only while what is
//! published is what was seen, and while the machine still answers its probes: a reader that sees
//! renewals may trust the topology.

pub(crate) mod backoff;
mod cluster;
mod merge;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_topology::allocation::Allocation;
use berth_topology::gpu::Sharing;
use berth_topology::ids::{GpuUuid, NodeName};
use berth_topology::kubelet::Plugin;
use berth_topology::lease::RENEW_EVERY_SECONDS;
use berth_topology::node::Status;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

pub(crate) use cluster::cluster_config;
pub use cluster::{Cluster, Error};

use crate::history::SharedHistory;
use crate::tally::Tally;
use backoff::Backoff;
use plan::Seen;

const RENEW_EVERY: Duration = Duration::from_secs(RENEW_EVERY_SECONDS as u64);
/// A probe that takes longer hangs in a driver; the node is then no longer vouched for.
const OBSERVATION_AGE_MAX: Duration = Duration::from_secs(60);
/// Create, owner and status, twice; more means that somebody undoes our writes.
const WRITES_MAX: usize = 6;

/// What a probe saw, and when.
#[derive(Clone, Debug)]
pub struct Observation {
    /// As assembled, not yet completed by [`crate::history`].
    pub status: Status,
    /// When it was seen.
    pub at: Instant,
}

/// What the kubelet was seen to give, and on whose behalf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Who serves each resource.
    pub plugins: Vec<Plugin>,
    /// What containers hold.
    pub allocations: Vec<Allocation>,
    /// GPUs that several pods may hold at once, with how many.
    pub shares: BTreeMap<GpuUuid, u32>,
}

/// Keeps one node's objects as they should be.
#[derive(Debug)]
pub struct Publisher {
    cluster: Cluster,
    name: NodeName,
    history: SharedHistory,
    /// Whether `history` knows what an earlier run of the agent published.
    recalled: bool,
    latest: Option<Observation>,
    /// Absent while nobody looks at the kubelet: what others wrote of it then stays.
    given: Option<Given>,
    /// `latest` completed by `history`.
    wanted: Option<Status>,
    /// The cluster's side, as of the last look and the answers to our writes since.
    seen: Seen,
    looked_at: Option<Instant>,
    renewed_at: Option<Instant>,
    tally: Arc<Tally>,
}

// === impl Publisher ===

impl Publisher {
    /// A publisher that has seen nothing yet.
    #[must_use]
    pub fn new(cluster: Cluster, name: NodeName, history: SharedHistory) -> Self {
        Self {
            cluster,
            name,
            history,
            recalled: false,
            latest: None,
            given: None,
            wanted: None,
            seen: Seen::default(),
            looked_at: None,
            renewed_at: None,
            tally: Arc::default(),
        }
    }

    /// The same, which tells `tally` how it does.
    #[must_use]
    pub fn counted(self, tally: Arc<Tally>) -> Self {
        Self { tally, ..self }
    }

    /// Publishes each observation, and what the kubelet gives, until a sender is gone. No failure
    /// ends it.
    pub async fn run(
        mut self,
        mut observations: watch::Receiver<Option<Observation>>,
        mut given: watch::Receiver<Option<Given>>,
    ) {
        let mut backoff = Backoff::default();
        let mut wake_at = Instant::now();
        loop {
            tokio::select! {
                changed = observations.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if let Some(observation) = observations.borrow_and_update().clone() {
                        self.observe(observation);
                    }
                    if backoff.is_waiting() {
                        continue;
                    }
                }
                changed = given.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.given.clone_from(&given.borrow_and_update());
                    self.observe_again();
                    if backoff.is_waiting() {
                        continue;
                    }
                }
                () = tokio::time::sleep_until(wake_at) => {}
            }
            wake_at = match self.publish().await {
                Ok(()) => {
                    self.tally.published(self.wanted.as_ref(), self.renewed_at);
                    backoff.reset();
                    self.renewed_at.unwrap_or_else(Instant::now) + RENEW_EVERY
                }
                Err(error) => {
                    self.tally.publish_failed();
                    self.looked_at = None;
                    let wait = backoff.next_wait();
                    let (node, cause) = (self.name.as_str(), causes(&error));
                    warn!(%error, cause, node, wait_ms = wait.as_millis(), "trying again");
                    Instant::now() + wait
                }
            };
        }
    }

    /// Takes what a probe saw.
    pub fn observe(&mut self, observation: Observation) {
        if self.recalled {
            self.wanted = Some(self.complete(&observation));
        }
        self.latest = Some(observation);
    }

    /// What the kubelet gives has changed, the machine has not.
    fn observe_again(&mut self) {
        if let Some(latest) = self.latest.take() {
            self.observe(latest);
        }
    }

    /// Brings the cluster in line with what was seen last, and renews the Lease if that is due.
    ///
    /// # Errors
    ///
    /// The call that failed. The next call looks anew and goes on from there.
    pub async fn publish(&mut self) -> Result<(), Error> {
        let Some(latest) = self.latest.clone() else {
            return Ok(());
        };
        self.look().await?;
        if !self.recalled {
            self.recall(&latest);
        }
        self.write_topology().await?;
        self.renew(&latest).await?;
        self.write_labels().await
    }

    fn complete(&self, observation: &Observation) -> Status {
        let mut status = observation.status.clone();
        if let Some(given) = &self.given {
            given.add_to(&mut status);
        }
        self.history.complete(status)
    }

    /// The first look shows what an earlier run of this agent saw since boot.
    fn recall(&mut self, latest: &Observation) {
        let seen = self.seen.topology.as_ref();
        let published = seen.and_then(|seen| seen.status.as_ref());
        let boot_id = latest.status.boot_id.as_deref();
        self.history.recall(published, boot_id);
        self.recalled = true;
        self.wanted = Some(self.complete(latest));
    }

    /// Notices what others did: deleted our object, made the Node anew, changed labels.
    async fn look(&mut self) -> Result<(), Error> {
        if self.looked_at.is_some_and(|at| at.elapsed() < RENEW_EVERY) {
            return Ok(());
        }
        let known = self.seen.topology.take();
        self.seen.node = Some(self.cluster.node(&self.name).await?);
        self.seen.topology = self.cluster.topology(&self.name, known).await?;
        self.looked_at = Some(Instant::now());
        Ok(())
    }

    async fn write_topology(&mut self) -> Result<(), Error> {
        let Some(wanted) = &self.wanted else {
            return Ok(());
        };
        for _ in 0..WRITES_MAX {
            let wanted = match &self.given {
                Some(_) => wanted.clone(),
                None => plan::with_allocations_of(&self.seen, wanted),
            };
            let Some(write) = plan::next_topology_write(&self.name, &self.seen, &wanted) else {
                break;
            };
            info!(
                node = self.name.as_str(),
                hash = wanted.hash,
                "{}",
                write.summary()
            );
            let written = self.cluster.write_topology(&self.name, &write).await?;
            let before = self.seen.topology.as_ref();
            let written = written.after(before, &write, &wanted);
            if written.dropped.is_some() {
                warn!(
                    "the API server drops part of the topology: is this version's daemonset/crd.yaml applied?"
                );
            }
            self.seen.topology = Some(written);
        }
        Ok(())
    }

    async fn renew(&mut self, latest: &Observation) -> Result<(), Error> {
        if self.renewed_at.is_some_and(|at| at.elapsed() < RENEW_EVERY) {
            return Ok(());
        }
        let age = latest.at.elapsed();
        if age > OBSERVATION_AGE_MAX {
            return Err(Error::ProbeHangs {
                seconds: age.as_secs(),
            });
        }
        let owner = self
            .seen
            .node
            .as_ref()
            .map(|node| plan::owner(&self.name, node));
        self.cluster
            .renew_lease(&self.name, owner, jiff::Timestamp::now())
            .await?;
        self.renewed_at = Some(Instant::now());
        Ok(())
    }

    async fn write_labels(&mut self) -> Result<(), Error> {
        let Some(wanted) = &self.wanted else {
            return Ok(());
        };
        if let Some(patch) = plan::next_label_write(&self.seen, wanted) {
            info!(node = self.name.as_str(), %patch, "labels");
            self.seen.node = Some(self.cluster.write_labels(&self.name, &patch).await?);
        }
        Ok(())
    }
}

// === impl Given ===

impl Given {
    fn add_to(&self, status: &mut Status) {
        status.plugins.clone_from(&self.plugins);
        status.allocations.clone_from(&self.allocations);
        for gpu in &mut status.gpus {
            gpu.sharing = self.shares.get(&gpu.uuid).map(|replicas| Sharing {
                // devices of both are named alike
                kind: "time-slicing or mps".to_owned(),
                replicas: *replicas,
            });
        }
    }
}

/// What an error's message leaves out, outermost cause first.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
