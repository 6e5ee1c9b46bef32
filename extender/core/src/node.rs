//! One node as a scheduling request sees it: unchanged for the request's whole life.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, OnceLock};

use berth_placement::{Free, GpuSet, HeldCpus, Inexact, Machine, Refusal, Shapes};
use berth_topology::allocation::Allocation;
use berth_topology::fnv::Fnv;
use berth_topology::ids::PodUid;
use berth_topology::node::Status;
use serde::{Deserialize, Serialize};

use crate::group::Clique;
use crate::nominated::{self, Nominee, Promise};
use crate::occupancy::{self, Occupancy};
use crate::pod::Holder;
use crate::record::shared;
use crate::record::wiring::{Wiring, Wirings};
use crate::situation::Situation;

/// One node. What is added here is written into snapshots, so that decisions can be made again.
///
/// What filter reads of thousands of nodes comes first, in one cache line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(C)]
pub struct NodeState {
    /// What follows from the rest.
    #[serde(skip)]
    pub(crate) derived: Derived,
    /// What is kept for pods that are nominated here, by priority.
    #[serde(default)]
    pub promises: Vec<Promise>,
    /// Its name.
    #[serde(with = "shared")]
    pub name: Arc<str>,
    /// Condition Ready of the Node.
    pub is_ready: bool,
    /// Its rack, where a label says so.
    #[serde(with = "shared::maybe")]
    pub rack: Option<Arc<str>>,
    /// What its agent published; absent without an agent.
    #[serde(skip)]
    pub topology: Option<Arc<Topology>>,
    /// Pods that hold GPUs here, those of unconfirmed binds included.
    #[serde(with = "shared::each")]
    pub holders: Vec<Arc<Holder>>,
    /// What is free now.
    pub room: Room,
    /// Pods that the agent still lists though they are gone: uid, namespace and name.
    #[serde(default)]
    pub released: BTreeSet<Listed>,
    /// Devices of our resource that the kubelet offers; absent while the Node does not say.
    #[serde(default)]
    pub allocatable: Option<usize>,
    /// The index's generation when this was made.
    pub version: u64,
}

/// What follows from the rest of a node's state. A copy, which may be changed, has none of it.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    /// What it shares with all nodes that pods cannot tell from it; absent without an agent.
    pub(crate) situation: Option<Arc<Situation>>,
    /// See [`NodeState::digest`]; worked out when it is first asked for.
    digest: OnceLock<u64>,
}

/// What an agent published, ready to be placed on.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Its wiring.
    pub machine: Machine,
    /// A DRA driver hands out our resource here.
    pub is_dra_managed: bool,
    /// The NVLink fabric clique that its GPUs are members of.
    pub clique: Option<Clique>,
    /// As the agent published it: an assignment names what it was decided on.
    pub hash: String,
    /// What the kubelet gave out of our resource.
    pub allocations: Vec<Allocation>,
    /// What the agent published of the hardware, for records.
    pub wiring: Wiring,
    /// CPUs that it gave to containers alone, where they decide which GPUs others get.
    pub exclusive_cpus: Vec<Allocation>,
    /// Why our resource's device plugin may give other GPUs than were promised.
    pub plugin_doubt: Option<Inexact>,
}

/// What machines of equal hardware share, for one resource.
#[derive(Clone, Debug)]
pub struct Hardware {
    shapes: Shapes,
    wirings: Wirings,
}

/// A pod as an agent lists it: its uid where that is known, namespace and name.
pub type Listed = (Option<PodUid>, String, String);

/// What can be given away on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Room {
    /// GPUs that nobody is known to hold; broken ones are among them.
    #[serde(with = "bits")]
    pub free: GpuSet,
    /// So many of them are held after all, nobody knows which.
    pub unknown_count: usize,
    /// CPUs that containers hold alone.
    #[serde(default, with = "held", skip_serializing_if = "is_none_held")]
    pub cpus: HeldCpus,
}

// === impl NodeState ===

impl NodeState {
    /// What a pod may be given now: what is free, less what is kept for others.
    #[must_use]
    pub fn room_for(&self, uid: &PodUid, priority: i32) -> Room {
        self.room.less(kept_from(&self.promises, uid, priority))
    }

    /// Its situation, if that alone says what a pod may be given: nothing is kept for others.
    pub(crate) fn plain(&self) -> Option<&Situation> {
        let situation = self.derived.situation.as_deref()?;
        self.promises.is_empty().then_some(situation)
    }

    /// One number for all that decisions read of it.
    #[must_use]
    pub fn digest(&self) -> u64 {
        *self.derived.digest.get_or_init(|| self.hash())
    }

    fn hash(&self) -> u64 {
        let mut hash = Fnv::default();
        hash.text(&self.name);
        hash.text(self.rack.as_deref().unwrap_or_default());
        hash.text(self.topology.as_ref().map_or("", |known| &known.hash));
        hash.number(u64::from(self.is_ready));
        hash.number(self.room.free.bits());
        hash.number(self.room.unknown_count as u64);
        let (cpus, is_placed) = self.room.cpus.parts();
        hash.number(u64::from(is_placed));
        cpus.iter().for_each(|count| hash.number((*count).into()));
        for holder in &self.holders {
            hash.text(holder.uid.as_str());
        }
        for promise in &self.promises {
            hash.text(promise.nominee.uid.as_str());
            hash.number(promise.gpus.bits());
        }
        hash.finish()
    }

    /// What a pod could be given if the pods `leaving` were gone.
    #[must_use]
    pub fn room_for_without(&self, uid: &PodUid, priority: i32, leaving: &HashSet<PodUid>) -> Room {
        let room = self.room_without(leaving);
        let before = self.promises.iter().map(|promise| &promise.nominee);
        let before = before.filter(|nominee| nominee.comes_before(uid, priority));
        let before: Vec<_> = before.cloned().collect();
        // Those that are nominated may stand better themselves then.
        let promises = self.promises_without(before, leaving);
        room.less(kept_from(&promises, uid, priority))
    }

    /// What is to be kept for those pods.
    pub(crate) fn promises_to(&self, nominees: Vec<Arc<Nominee>>) -> Vec<Promise> {
        self.promises_without(nominees, &HashSet::new())
    }

    /// GPUs that kube-scheduler would count as free for a pod if the pods `leaving` were gone.
    #[must_use]
    pub fn free_by_count(
        &self,
        uid: &PodUid,
        priority: i32,
        leaving: &HashSet<PodUid>,
    ) -> Option<usize> {
        let staying = self
            .holders
            .iter()
            .filter(|one| !leaving.contains(&one.uid));
        let held: usize = staying.map(|holder| holder.gpu_count).sum();
        let before = self.promises.iter().map(|promise| &promise.nominee);
        let before = before.filter(|nominee| nominee.comes_before(uid, priority));
        let kept: usize = before.map(|nominee| nominee.gpu_count).sum();
        let allocatable = self.allocatable?;
        Some(allocatable.saturating_sub(held).saturating_sub(kept))
    }

    fn promises_without(
        &self,
        nominees: Vec<Arc<Nominee>>,
        leaving: &HashSet<PodUid>,
    ) -> Vec<Promise> {
        let Some(topology) = self.topology.as_ref().filter(|_| !nominees.is_empty()) else {
            return Vec::new();
        };
        nominated::promises(nominees, topology, |more| {
            let gone = |holder: &&Arc<Holder>| leaving.contains(&holder.uid) || more(holder);
            let gone = self.holders.iter().filter(gone);
            self.room_without(&gone.map(|holder| holder.uid.clone()).collect())
        })
    }

    /// What would be free if the pods `leaving` were gone.
    pub(crate) fn room_without(&self, leaving: &HashSet<PodUid>) -> Room {
        let Some(topology) = &self.topology else {
            return Room::default();
        };
        let (left, stay): (Vec<_>, Vec<_>) = self
            .holders
            .iter()
            .cloned()
            .partition(|holder| leaving.contains(&holder.uid));
        topology.room(&stay, |truth| {
            !self.released.contains(&listed(truth))
                && !left.iter().any(|holder| occupancy::is_of(truth, holder))
        })
    }
}

// === impl Derived ===

impl Clone for Derived {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Whom an allocation names.
pub(crate) fn listed(truth: &Allocation) -> Listed {
    let (namespace, name) = (truth.namespace.clone(), truth.name.clone());
    (truth.pod_uid.clone(), namespace, name)
}

/// The GPUs that those promises keep from a pod.
fn kept_from(promises: &[Promise], uid: &PodUid, priority: i32) -> GpuSet {
    let before = promises
        .iter()
        .filter(|promise| promise.nominee.comes_before(uid, priority));
    before.fold(GpuSet::EMPTY, |kept, promise| kept.union(promise.gpus))
}

// === impl Room ===

impl Room {
    /// The same without those GPUs.
    #[must_use]
    pub fn less(self, kept: GpuSet) -> Self {
        Self {
            free: self.free.difference(kept),
            ..self
        }
    }

    /// Whether so many GPUs are free, whichever the unknown ones are.
    #[must_use]
    pub fn has_count(self, topology: &Topology, gpu_count: usize) -> bool {
        let free_count = self.free.intersection(topology.machine.usable()).len();
        free_count >= self.unknown_count + gpu_count
    }
}

// === impl Hardware ===

impl Hardware {
    /// Nothing yet. Units are MIG instances where `resource` names a profile, else whole GPUs.
    #[must_use]
    pub fn of_resource(resource: &str) -> Self {
        Self {
            shapes: Shapes::default().of_resource(resource),
            wirings: Wirings::default(),
        }
    }
}

// === impl Topology ===

impl Topology {
    /// Reads what an agent published as far as `resource`, which `hardware` is of, is concerned.
    pub fn read(status: &Status, resource: &str, hardware: &mut Hardware) -> Self {
        let machine = hardware.shapes.machine(status);
        let ours = |truth: &&Allocation| truth.resource == resource;
        let has_cpus = |truth: &&Allocation| truth.cpus.is_some() && machine.counts_cpus();
        let truths = status.allocations.iter();
        Self {
            is_dra_managed: machine.is_dra_managed(resource),
            plugin_doubt: machine.plugin_doubt(resource),
            clique: Clique::of_node(status),
            hash: status.hash.clone(),
            allocations: truths.clone().filter(ours).cloned().collect(),
            exclusive_cpus: truths.filter(has_cpus).cloned().collect(),
            machine,
            wiring: hardware.wirings.intern(status),
        }
    }

    /// The status again, as far as it was kept.
    ///
    /// # Errors
    /// When what was kept is no status.
    pub fn status(&self) -> Result<Status, serde_json::Error> {
        Ok(Status {
            hash: self.hash.clone(),
            allocations: self.kept_allocations(),
            ..self.wiring.status()?
        })
    }

    /// All allocations that decisions depend on: those of our resource, and of others with CPUs.
    pub(crate) fn kept_allocations(&self) -> Vec<Allocation> {
        let is_known = |truth: &&Allocation| self.allocations.contains(truth);
        let others = self.exclusive_cpus.iter().filter(|truth| !is_known(truth));
        self.allocations.iter().chain(others).cloned().collect()
    }

    /// Whether our resource is given away by a device plugin, as we count on.
    ///
    /// # Errors
    /// When a DRA driver does.
    pub fn check_owner(&self) -> Result<(), Refusal> {
        match self.is_dra_managed {
            true => Err(Refusal::DraManaged),
            false => Ok(()),
        }
    }

    /// What of `room` a pod can be given.
    pub fn free<'a>(&self, room: &'a Room) -> Free<'a> {
        let unknown = (room.unknown_count > 0).then_some(Inexact::UnknownHolders);
        Free {
            gpus: room.free,
            cpus: Some(&room.cpus),
            doubt: self.plugin_doubt.or(unknown),
        }
    }

    /// What is free when `holders` hold what they do. `counts` tells which allocations are still
    /// true.
    pub fn room(&self, holders: &[Arc<Holder>], counts: impl Fn(&Allocation) -> bool) -> Room {
        let truths = self.allocations.iter();
        let truths: Vec<&Allocation> = truths.filter(|truth| counts(truth)).collect();
        let Occupancy {
            held,
            unknown_count,
        } = occupancy::occupancy(holders, &truths);
        Room {
            free: self.machine.all().difference(self.machine.set_of(&held)),
            unknown_count,
            cpus: self.held_cpus(holders, counts),
        }
    }

    /// A pod of which the kubelet has said nothing yet will hold what it asks for.
    fn held_cpus(&self, holders: &[Arc<Holder>], counts: impl Fn(&Allocation) -> bool) -> HeldCpus {
        if !self.machine.counts_cpus() {
            return HeldCpus::default();
        }
        let is_told = |holder: &&Arc<Holder>| {
            let is_its = |truth: &Allocation| occupancy::is_of(truth, holder);
            self.allocations.iter().any(is_its)
        };
        let pending = holders.iter().filter(|holder| !is_told(holder));
        let truths = self.exclusive_cpus.iter().filter(|truth| counts(truth));
        self.machine.held_cpus(
            truths.filter_map(|truth| truth.cpus.as_ref()),
            pending.map(|holder| {
                let gpus = holder.named_on(&self.machine);
                (gpus, holder.cpu_count)
            }),
        )
    }
}

/// A set as the number whose bits are its positions.
pub(crate) mod bits {
    use berth_placement::GpuSet;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(set: &GpuSet, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(set.bits())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<GpuSet, D::Error> {
        u64::deserialize(from).map(GpuSet::from_bits)
    }
}

/// CPUs by NUMA position, and whether that is all.
mod held {
    use berth_placement::HeldCpus;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(held: &HeldCpus, to: S) -> Result<S::Ok, S::Error> {
        held.parts().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<HeldCpus, D::Error> {
        let (counts, is_placed) = <(Vec<u16>, bool)>::deserialize(from)?;
        Ok(HeldCpus::from_parts(&counts, is_placed))
    }
}

fn is_none_held(held: &HeldCpus) -> bool {
    *held == HeldCpus::default()
}
