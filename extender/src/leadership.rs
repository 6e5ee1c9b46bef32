//! Who leads: watches the scheduler's Lease, reads it, and has pods listed again after a change and
//! after a start.
//!
//! The watch says of a change at once. The reads say when a renewal was not there yet, which no watch
//! can: how late it is, it does not know. Once a term of ours has ended and nothing of it is under way,
//! the Lease is told, for the replica that comes next.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::{self, watcher};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::bind::Binder;
use crate::lock;
use crate::metrics::Metrics;
use crate::watch::{Listener, follow};
use berth_extender_core::fence::Fence;
use berth_extender_core::leader::{Leader, Standing, Tenure};

/// Between two reads of the Lease: so much of its duration is lost to a leader at most, and two reads a
/// second from two replicas are nothing to an API server.
const READ_EVERY: Duration = Duration::from_secs(1);
/// A read that takes longer proves little; the next one begins later.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked whether pods are to be listed again.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One try to say that a term is over; and the pause after one that failed.
const SAY_TIMEOUT: Duration = Duration::from_secs(1);

/// The scheduler's Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderLease {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What decides whether this replica answers. Where both are locked, `leader` is first.
#[derive(Debug)]
pub struct Leadership {
    /// Until when it may.
    pub leader: Mutex<Leader>,
    /// Whether it has seen what others did.
    pub fence: Mutex<Fence>,
    /// Told when pods are to be listed again.
    pub(crate) list_again: Notify,
}

struct Holder(Arc<Leadership>, Mutex<Instant>);

// === impl Leadership ===

impl Leadership {
    /// A replica whose process began at `started`, and that leads while `identity` holds the Lease;
    /// always without one.
    #[must_use]
    pub fn new(identity: Option<String>, started: Instant) -> Self {
        Self {
            leader: Mutex::new(Leader::new(identity, started)),
            fence: Mutex::default(),
            list_again: Notify::new(),
        }
    }

    /// Whether this replica answers.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let leader = lock(&self.leader);
        leader.standing(&lock(&self.fence), Instant::now())
    }

    /// The tenure in which this replica answers now.
    #[must_use]
    pub fn serving(&self) -> Option<Tenure> {
        let leader = lock(&self.leader);
        let standing = leader.standing(&lock(&self.fence), Instant::now());
        (standing == Standing::Serves).then(|| leader.tenure())
    }

    /// Whether the scheduler beside us leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        lock(&self.leader).leads(Instant::now())
    }

    /// Resolves when nobody waits for word of a term of ours.
    pub async fn owes_nothing(&self) {
        let mut ticks = interval(LOOK_EVERY);
        while lock(&self.leader).owes_word() {
            ticks.tick().await;
        }
    }

    fn look(&self) {
        let leader = lock(&self.leader);
        if leader.wants_list(&lock(&self.fence), Instant::now()) {
            self.list_again.notify_one();
        }
    }
}

/// Starts to watch and read the Lease, among `tasks`.
pub fn spawn(
    tasks: &mut JoinSet<()>,
    client: &kube::Client,
    lease: &LeaderLease,
    leadership: &Arc<Leadership>,
    metrics: &Arc<Metrics>,
) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &lease.namespace);
    let one = watcher::Config::default().fields(&format!("metadata.name={}", lease.name));
    let listener = Holder(leadership.clone(), Mutex::new(Instant::now()));
    let watched = leases.clone();
    tasks.spawn(follow(
        move || watcher(watched.clone(), one.clone()),
        listener,
        metrics.clone(),
    ));
    tasks.spawn(read(leases, lease.name.clone(), leadership.clone()));
}

/// Has pods listed again whenever others have stopped that may have bound some, with a lease or
/// without: an extender's former process is one of them.
pub fn spawn_look(tasks: &mut JoinSet<()>, leadership: &Arc<Leadership>) {
    let leadership = leadership.clone();
    tasks.spawn(async move {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            leadership.look();
        }
    });
}

/// Has the Lease say of each term of ours when its bindings are over, as long as anybody may wait for it.
pub fn spawn_say(
    tasks: &mut JoinSet<()>,
    client: &kube::Client,
    lease: &LeaderLease,
    leadership: &Arc<Leadership>,
    binder: &Binder,
) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &lease.namespace);
    let (name, leadership, binder) = (lease.name.clone(), leadership.clone(), binder.clone());
    tasks.spawn(async move {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            say_ended(&leases, &name, &leadership, &binder).await;
        }
    });
}

async fn say_ended(leases: &Api<Lease>, name: &str, leadership: &Leadership, binder: &Binder) {
    let ended = lock(&leadership.leader).ended_term(Instant::now()).cloned();
    // Asked after it was seen that the term has ended, so that none is begun in between.
    let Some(term) = ended.filter(|_| binder.is_over()) else {
        return;
    };
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(term.patch()));
    match timeout(SAY_TIMEOUT, leases.patch(name, &parameters, &patch)).await {
        Ok(Ok(_)) => tracing::info!(term = term.number, "every binding of this term is over"),
        // It is gone, or another object.
        Ok(Err(kube::Error::Api(status))) if [404, 409].contains(&status.code) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "saying that a term is over");
            return tokio::time::sleep(SAY_TIMEOUT).await;
        }
        Err(_) => return tracing::warn!("saying that a term is over takes too long"),
    }
    lock(&leadership.leader).told(&term);
}

/// Reads for ever. A read without a resourceVersion is a quorum read.
async fn read(leases: Api<Lease>, name: String, leadership: Arc<Leadership>) {
    let mut ticks = interval(READ_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let began = Instant::now();
        match timeout(READ_TIMEOUT, leases.get_opt(&name)).await {
            Ok(Ok(found)) => {
                lock(&leadership.leader).read(found.as_ref(), began, Instant::now());
            }
            Ok(Err(error)) => tracing::debug!(%error, "reading the scheduler's lease"),
            Err(_) => tracing::debug!("reading the scheduler's lease takes too long"),
        }
    }
}

impl Listener for Holder {
    type Object = Lease;
    type Kept = Lease;

    fn name(&self) -> &'static str {
        "leader"
    }
    fn begin(&self) {
        *lock(&self.1) = Instant::now();
    }
    fn keep(&self, lease: Lease) -> Option<Lease> {
        Some(lease)
    }
    fn reset(&self, leases: Vec<Lease>) {
        let began = *lock(&self.1);
        lock(&self.0.leader).read(leases.first(), began, Instant::now());
    }
    fn apply(&self, lease: &Lease) {
        lock(&self.0.leader).apply(lease, Instant::now());
    }
    fn delete(&self, _: &Lease) {
        lock(&self.0.leader).delete();
    }
    /// Its age goes on: a leader that cannot be seen to lead does not.
    fn lost(&self) {}
}
