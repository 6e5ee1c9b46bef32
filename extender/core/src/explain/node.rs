//! One node as a decision saw it: what is free, who holds the rest, which sets were to be had.

use std::collections::BTreeMap;

use berth_placement::{GpuSet, PodPlacement};
use berth_topology::claim::ContainerClaim;
use berth_topology::ids::NumaId;
use serde::{Deserialize, Serialize};

use super::merit::MeritStory;
use super::sets::{SetStory, Told, sets};
use crate::decide::{self, Ask};
use crate::node::{NodeState, Topology};
use crate::record::{Candidate, Reason};
use crate::snapshot::Snapshot;

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStory {
    /// Its name.
    pub node: String,
    /// Why the pod does not fit; absent where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Whether the kubelet can only give the GPUs that are promised; absent where the pod does not fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// Why it may give others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inexact: Option<String>,
    /// What its score is made of; absent where the pod does not fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merit: Option<MeritStory>,
    /// Hash of the topology that its agent published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_hash: Option<String>,
    /// Whether its agent had stopped reporting.
    pub is_stale: bool,
    /// Indices of the GPUs that could be given away.
    pub free: Vec<u32>,
    /// Indices of the GPUs that nobody can have: failed, shared or partitioned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unusable: Vec<u32>,
    /// So many of the free ones are held, nobody knows which.
    pub unknown_count: usize,
    /// Pods that hold GPUs, with the indices that their assignments name.
    pub holders: BTreeMap<String, Vec<u32>>,
    /// The pod's containers with GPUs, each as if it were alone.
    pub containers: Vec<Container>,
}

/// One container of the pod on that node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Indices in rank order of what it would be given, beside the other containers and within what
    /// the kubelet can give; empty where the pod does not fit, and for an init container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<u32>,
    /// NUMA nodes that the kubelet's topology manager decides on; absent where it has no wish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_nodes: Option<Vec<NumaId>>,
    /// Sets for one group of its ranks that were compared.
    pub set_count: usize,
    /// Whether those are all that would do; else there were too many to compare.
    pub are_all_compared: bool,
    /// The best of them, best first: the second is the runner-up. What is kept for nominated pods of
    /// its priority or above is in none.
    pub sets: Vec<SetStory>,
}

// === impl NodeStory ===

impl NodeStory {
    /// What `snapshot` shows of that node, and what the pod could have there.
    pub(super) fn of(candidate: &Candidate, snapshot: &Snapshot, ask: &Ask) -> Self {
        let name = candidate.name();
        let mut story = Self {
            node: name.to_owned(),
            is_stale: snapshot.is_stale(name),
            reason: decide::judge(snapshot, ask, name)
                .err()
                .map(|no| Reason::of(&no)),
            ..Self::default()
        };
        if let Some(state) = candidate.state()
            && let Some(topology) = &state.topology
        {
            story.tell(state, topology, ask);
        }
        if let Ok(placement) = decide::choose(snapshot, ask, name) {
            story.promise(&placement);
        }
        story
    }

    fn tell(&mut self, state: &NodeState, topology: &Topology, ask: &Ask) {
        let machine = &topology.machine;
        let indices =
            |set: GpuSet| -> Vec<u32> { set.iter().map(|at| machine.index(at).0).collect() };
        self.topology_hash = Some(topology.hash.clone());
        self.free = indices(state.room.free.intersection(machine.usable()));
        self.unusable = indices(machine.all().difference(machine.usable()));
        self.unknown_count = state.room.unknown_count;
        for holder in &state.holders {
            let named = indices(holder.named_on(machine));
            self.holders.insert(holder.full_name(), named);
        }
        let Ok(claim) = ask.claim.as_ref() else {
            return;
        };
        let room = state.room_for(&ask.uid, ask.terms.priority);
        let told = |container: &ContainerClaim| {
            let told = sets(topology, room.free, &container.claim);
            let Told {
                set_count,
                are_all_compared,
                sets,
            } = told;
            Container {
                name: container.name.clone(),
                set_count,
                are_all_compared,
                sets,
                ..Container::default()
            }
        };
        self.containers = claim.containers.iter().map(told).collect();
    }

    /// What the pod would be given.
    fn promise(&mut self, placement: &PodPlacement) {
        self.exact = Some(placement.is_exact());
        self.inexact = placement.inexact.map(|doubt| doubt.kind().to_owned());
        for container in &mut self.containers {
            let name = &container.name;
            let ranks = placement.containers.get(name).map(|given| &given.ranks);
            let indices = ranks.into_iter().flatten().filter_map(|rank| rank.index);
            container.given = indices.map(|index| index.0).collect();
            let admitted = placement.admitted.iter();
            let mut of_name = admitted.filter(|one| one.container == *name);
            container.numa_nodes = of_name.next().and_then(|one| one.numa_nodes.clone());
        }
    }
}
