//! What the cluster looks like, fed with plain objects; readers take a snapshot.
//!
//! Knows no client and no clock: whoever feeds it says what time it is. Nodes whose inputs changed
//! are worked out again when the next snapshot is taken, the others are shared with the last one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use berth_topology::claim::PodClaim;
use berth_topology::ids::PodUid;
use berth_topology::lease::{self, Renewal};
use berth_topology::node::NodeTopology;
use berth_topology::quantity;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::budgets::Budgets;
use crate::freshness::Freshness;
use crate::gone::Gone;
use crate::group::{self, Awaited, DEFAULT_RACK_LABEL, Members};
use crate::held::Held;
use crate::hints::{Hint, Hints};
use crate::node::{Hardware, NodeState, Topology};
use crate::pod::PodRecord;
use crate::reservations::{Reservation, Reservations, State};
use crate::silent::Silent;
use crate::situation::Situations;
use crate::snapshot::{ByName, Snapshot};

mod confirm;
mod states;
mod waits;

pub use confirm::{Confirmed, Unconfirmed};

/// Everything that is known. One lock around it; held for microseconds.
#[derive(Clone, Debug)]
pub struct Index {
    /// The extended resource that GPUs are asked by.
    pub resource: String,
    /// The Node label that names its rack; of a Node's labels only this one is kept.
    pub rack_label: String,
    entries: BTreeMap<Arc<str>, Entry>,
    pods: HashMap<PodUid, PodRecord>,
    gone: Gone,
    reservations: Reservations,
    hints: Hints,
    held: Held,
    budgets: Arc<Budgets>,
    awaited: Arc<Awaited>,
    freshness: Freshness,
    hardware: Hardware,
    silent: Silent,
    watches: [Watch; 4],
    dirty: BTreeSet<Arc<str>>,
    situations: Situations,
    states: Arc<ByName<Arc<NodeState>>>,
    /// Where pods of each group are, by those.
    members: Arc<Members>,
    generation: u64,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nodes.
    Nodes,
    /// NodeTopologies.
    Topologies,
    /// Pods of every scheduler.
    Pods,
    /// Leases of the agents.
    Leases,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    /// Everything was listed once.
    is_synced: bool,
    lost_at: Option<Instant>,
}

/// One name under which a Node, a NodeTopology or a bound pod is known.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// Condition Ready; absent while there is no such Node.
    is_ready: Option<bool>,
    rack: Option<Arc<str>>,
    /// Devices of the resource that the kubelet offers.
    allocatable: Option<usize>,
    topology: Option<Arc<Topology>>,
    pods: BTreeSet<PodUid>,
    /// Pods that wait here for their victims to leave.
    nominees: BTreeSet<PodUid>,
}

/// How much the index holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Nodes that exist.
    pub nodes: usize,
    /// Nodes with a topology.
    pub topologies: usize,
    /// Pods that ask for the resource.
    pub pods: usize,
    /// Unconfirmed binds.
    pub reservations: usize,
    /// Pods that filter or prioritize answered and that no bind came for yet.
    pub hints: usize,
}

// === impl Index ===

impl Index {
    /// An index for that extended resource, still empty.
    #[must_use]
    pub fn new(resource: &str, stale_after: Duration, now: Instant) -> Self {
        Self {
            resource: resource.to_owned(),
            rack_label: DEFAULT_RACK_LABEL.to_owned(),
            entries: BTreeMap::new(),
            pods: HashMap::new(),
            gone: Gone::default(),
            reservations: Reservations::default(),
            hints: Hints::default(),
            held: Held::default(),
            budgets: Arc::default(),
            awaited: Arc::default(),
            freshness: Freshness::new(stale_after, now),
            hardware: Hardware::of_resource(resource),
            silent: Silent::default(),
            watches: [Watch::default(); 4],
            dirty: BTreeSet::new(),
            situations: Situations::default(),
            states: Arc::default(),
            members: Arc::default(),
            generation: 0,
        }
    }

    /// A Node was added or changed.
    pub fn apply_node(&mut self, node: &Node) {
        let Some(name) = &node.metadata.name else {
            return;
        };
        let is_ready = Some(is_ready(node));
        let rack = rack(node, &self.rack_label);
        let allocatable = allocatable(node, &self.resource);
        let is_known = |entry: &Entry| {
            entry.is_ready == is_ready
                && entry.rack.as_deref() == rack
                && entry.allocatable == allocatable
        };
        if self.entries.get(name.as_str()).is_some_and(is_known) {
            return;
        }
        self.silent.forget();
        let entry = self.entry(name);
        entry.is_ready = is_ready;
        entry.rack = rack.map(Arc::from);
        entry.allocatable = allocatable;
    }

    /// A Node was deleted. Its pods are still known, should it come back.
    pub fn delete_node(&mut self, name: &str) {
        self.silent.forget();
        self.change(name, |entry| entry.is_ready = None);
    }

    /// All Nodes, after the watch started again; others are gone.
    pub fn reset_nodes(&mut self, nodes: &[Node]) {
        self.silent.forget();
        self.each(|entry| entry.is_ready = None);
        for node in nodes {
            self.apply_node(node);
        }
        self.live(Kind::Nodes);
    }

    /// A NodeTopology was added or changed.
    pub fn apply_topology(&mut self, object: &NodeTopology) {
        let topology = self.read_topology(object);
        self.entry(object.name()).topology = topology;
    }

    /// What is kept of a NodeTopology: a tenth of it. `None` before its first status.
    pub fn read_topology(&mut self, object: &NodeTopology) -> Option<Arc<Topology>> {
        let (resource, hardware) = (&self.resource, &mut self.hardware);
        let read = |status| Arc::new(Topology::read(status, resource, hardware));
        object.status.as_ref().map(read)
    }

    /// A NodeTopology was deleted.
    pub fn delete_topology(&mut self, name: &str) {
        self.change(name, |entry| entry.topology = None);
    }

    /// All NodeTopologies, after the watch started again; others are gone.
    pub fn reset_topologies(&mut self, objects: &[NodeTopology]) {
        let read = |object: &NodeTopology| (object.name().to_owned(), self.read_topology(object));
        let read = objects.iter().map(read).collect();
        self.reset_read_topologies(read);
    }

    /// The same, with what was read of each, by name.
    pub fn reset_read_topologies(&mut self, read: Vec<(String, Option<Arc<Topology>>)>) {
        self.each(|entry| entry.topology = None);
        for (name, topology) in read {
            self.entry(&name).topology = topology;
        }
        self.live(Kind::Topologies);
    }

    /// A pod was added or changed.
    pub fn apply_pod(&mut self, pod: &Pod) {
        match PodRecord::read(pod, &self.resource) {
            Some(record) => self.apply_record(record),
            None => self.delete_pod(pod.metadata.uid.as_deref().unwrap_or_default()),
        }
    }

    /// A pod was deleted: the kubelet has ended its containers.
    pub fn delete_pod(&mut self, uid: &str) {
        let uid = PodUid::from(uid);
        self.release(&uid);
        self.hints.remove(&uid);
        self.hear_note(&uid, None);
        self.let_go(&uid);
        if let Some(record) = self.pods.remove(&uid) {
            self.unlink(&record);
            self.gone.insert(&record.holder);
        }
    }

    /// All pods, after the watch started again; others are gone.
    pub fn reset_pods(&mut self, records: Vec<PodRecord>) {
        let listed: HashSet<PodUid> = records
            .iter()
            .map(|record| record.holder.uid.clone())
            .collect();
        let missing: Vec<PodUid> = self
            .pods
            .keys()
            .filter(|uid| !listed.contains(*uid))
            .cloned()
            .collect();
        for uid in missing {
            self.delete_pod(uid.as_str());
        }
        for record in records {
            self.apply_record(record);
        }
        self.live(Kind::Pods);
    }

    /// An agent's Lease was added or changed.
    pub fn apply_lease(&mut self, lease: &Lease, now: Instant) {
        let Some((node, renewal)) = lease::decode(lease) else {
            return;
        };
        let was_stale = self.is_stale(node, now);
        self.freshness.seen(node, renewal, now);
        if was_stale {
            self.silent.forget();
            // Pods that were refused for it may fit again.
            self.change(node, |_| ());
        }
    }

    /// An agent's Lease was deleted.
    pub fn delete_lease(&mut self, name: &str) {
        self.silent.forget();
        self.freshness.gone(name);
    }

    /// All Leases, after the watch started again; others are gone.
    pub fn reset_leases(&mut self, leases: &[Lease], now: Instant) {
        let stale: Vec<Arc<str>> = self
            .entries
            .keys()
            .filter(|name| self.is_stale(name, now))
            .cloned()
            .collect();
        let renewals = leases.iter().filter_map(lease::decode);
        let renewals: Vec<(String, Renewal)> = renewals
            .map(|(name, renewal)| (name.to_owned(), renewal))
            .collect();
        self.silent.forget();
        self.freshness.reset(renewals, now);
        self.dirty.extend(stale);
        self.live(Kind::Leases);
    }

    /// A watch broke; what it has shown so far stays.
    pub fn lost(&mut self, kind: Kind, now: Instant) {
        let watch = &mut self.watches[kind as usize];
        watch.lost_at.get_or_insert(now);
        if kind == Kind::Leases {
            self.silent.forget();
            self.freshness.lost(now);
        }
    }

    /// Whether every kind was listed at least once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.watches.iter().all(|watch| watch.is_synced)
    }

    /// How old what is known of that kind may be: the time since its watch broke, none while it is
    /// live.
    #[must_use]
    pub fn age(&self, kind: Kind, now: Instant) -> Duration {
        let lost_at = self.watches[kind as usize].lost_at;
        lost_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// How much it holds.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let count =
            |is: fn(&Entry) -> bool| self.entries.values().filter(|entry| is(entry)).count();
        Sizes {
            nodes: count(|entry| entry.is_ready.is_some()),
            topologies: count(|entry| entry.topology.is_some()),
            pods: self.pods.len(),
            reservations: self.reservations.len(),
            hints: self.hints.len(),
        }
    }

    /// What a request sees that comes now.
    pub fn snapshot(&mut self, now: Instant) -> Snapshot {
        self.update_held(now);
        self.refresh();
        let stale = self.stale(now);
        let unconfirmed = self
            .reservations
            .iter()
            .map(|one| (one.holder.uid.clone(), one.node.clone()));
        Snapshot {
            stale,
            unconfirmed: unconfirmed.collect(),
            hinted: self.hints.hinted(now),
            budgets: self.budgets.clone(),
            awaited: self.awaited.clone(),
            nodes: self.states.clone(),
            members: self.members.clone(),
            generation: self.generation,
        }
    }

    fn stale(&mut self, now: Instant) -> HashSet<Arc<str>, RandomState> {
        let nodes = self.states.values();
        // Mostly empty, and then free to copy.
        self.silent.now(&self.freshness, nodes, now).clone()
    }

    /// The pod of that uid, if it asks for the resource and the watch has shown it.
    pub fn pod(&self, uid: &PodUid) -> Option<&PodRecord> {
        self.pods.get(uid)
    }

    /// What bound pods asked for, where that can be read.
    #[must_use]
    pub fn claims(&self) -> BTreeMap<PodUid, PodClaim> {
        let held = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.held_node().is_some());
        held.filter_map(|(uid, pod)| Some((uid.clone(), pod.claim.as_ref().as_ref().ok()?.clone())))
            .collect()
    }

    /// Whether the pod was seen to be deleted.
    pub fn is_gone(&self, uid: &PodUid) -> bool {
        self.gone.contains(uid)
    }

    pub(crate) fn reservation(&self, uid: &PodUid) -> Option<&Reservation> {
        self.reservations.get(uid)
    }

    /// What filter or prioritize has shown kube-scheduler as the best for that pod; `None` takes back
    /// what was shown before.
    pub fn hint(&mut self, uid: &PodUid, hint: Option<Hint>, now: Instant) {
        self.hints.replace(uid, hint, now);
    }

    /// Holds what a bind is about to write.
    pub(crate) fn reserve(&mut self, reservation: Reservation) {
        let (node, uid) = (reservation.node.clone(), reservation.holder.uid.clone());
        self.hints.remove(&uid);
        self.reservations.insert(reservation);
        self.change(&node, |_| ());
        self.touch_awaited(&uid);
    }

    /// Notes what became of a bind. Nothing is left to note where the watch was faster.
    pub(crate) fn note(&mut self, uid: &PodUid, state: State) {
        if let Some(reservation) = self.reservations.get_mut(uid) {
            reservation.state = state;
        }
    }

    /// Gives back what a bind held.
    pub(crate) fn release(&mut self, uid: &PodUid) {
        if let Some(reservation) = self.reservations.remove(uid) {
            self.change(&reservation.node, |_| ());
            self.touch_awaited(uid);
        }
    }

    /// A pod was added or changed, as far as it is kept.
    pub fn apply_record(&mut self, record: PodRecord) {
        let uid = record.holder.uid.clone();
        if record.node.is_some() || record.is_finished {
            self.release(&uid);
            self.hints.remove(&uid);
            self.let_go(&uid);
        }
        self.hear_note(&uid, record.note());
        if let Some(before) = self.pods.remove(&uid) {
            self.unlink(&before);
        }
        if let Some(node) = record.held_node() {
            self.entry(node).pods.insert(uid.clone());
        }
        if let Some(node) = record.awaited_node() {
            self.entry(node).nominees.insert(uid.clone());
        }
        if let Some((group, gpu_count)) = group::waiting(&record) {
            Arc::make_mut(&mut self.awaited).add(group, gpu_count);
        }
        self.pods.insert(uid, record);
    }

    fn unlink(&mut self, record: &PodRecord) {
        if let Some((group, gpu_count)) = group::waiting(record) {
            Arc::make_mut(&mut self.awaited).remove(group, gpu_count);
        }
        if let Some(node) = record.held_node() {
            self.change(node, |entry| {
                entry.pods.remove(&record.holder.uid);
            });
        }
        if let Some(node) = record.awaited_node() {
            self.change(node, |entry| {
                entry.nominees.remove(&record.holder.uid);
            });
        }
    }

    fn is_stale(&self, node: &str, now: Instant) -> bool {
        let is_ready = self
            .entries
            .get(node)
            .and_then(|entry| entry.is_ready)
            .unwrap_or(false);
        self.freshness.is_stale(node, is_ready, now)
    }

    fn live(&mut self, kind: Kind) {
        self.watches[kind as usize] = Watch {
            is_synced: true,
            lost_at: None,
        };
    }

    /// The entry of that name, made if need be, and to be worked out again.
    fn entry(&mut self, name: &str) -> &mut Entry {
        let name: Arc<str> = match self.entries.get_key_value(name) {
            Some((known, _)) => known.clone(),
            None => name.into(),
        };
        self.dirty.insert(name.clone());
        self.entries.entry(name).or_default()
    }

    /// Changes an entry that exists.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Entry)) {
        if self.entries.contains_key(name) {
            change(self.entry(name));
        }
    }

    fn each(&mut self, change: impl Fn(&mut Entry)) {
        self.dirty.extend(self.entries.keys().cloned());
        self.entries.values_mut().for_each(change);
    }
}

// === impl Entry ===

impl Entry {
    /// Whether nothing is known under the name any more.
    fn is_empty(&self) -> bool {
        self.is_ready.is_none()
            && self.topology.is_none()
            && self.pods.is_empty()
            && self.nominees.is_empty()
    }
}

/// The value of that label; the API server lets none be longer than 63 bytes.
fn rack<'a>(node: &'a Node, label: &str) -> Option<&'a str> {
    let value = node.metadata.labels.as_ref()?.get(label)?;
    (1..=63).contains(&value.len()).then_some(value.as_str())
}

fn allocatable(node: &Node, resource: &str) -> Option<usize> {
    let amounts = node.status.as_ref()?.allocatable.as_ref()?;
    let count = amounts
        .get(resource)
        .and_then(|amount| quantity::parse(&amount.0));
    usize::try_from(count.unwrap_or(0)).ok()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
