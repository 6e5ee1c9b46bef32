//! What a script tells: one event for each thing that happened.

use std::collections::{BTreeMap, BTreeSet};

use berth_placement::{GpuSet, Machine};
use berth_topology::assignment::Assignment;
use serde::Serialize;

use crate::bind;
use crate::explain::Explanation;
use crate::snapshot::Snapshot;

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "event")]
pub enum Event {
    /// A pod was bound.
    Bound(Given),
    /// A pod fitted nowhere; nodes by reason.
    Refused {
        /// The pod.
        pod: String,
        /// By the reason's name.
        reasons: BTreeMap<String, Refusals>,
    },
    /// Why a pod is where it is, as asked by `explain`.
    Explained(Box<Explanation>),
    /// Every node, as asked by `show`.
    Nodes {
        /// By name.
        nodes: Vec<NodeRow>,
    },
    /// An expectation that does not hold.
    Unexpected {
        /// Line of the script.
        line: usize,
        /// What is true instead.
        sentence: String,
    },
}

/// Nodes refused for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refusals {
    /// The reason's sentence.
    pub message: String,
    /// The nodes.
    pub nodes: Vec<String>,
}

/// What a pod was given.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Given {
    /// The pod.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// The node's score, 0 to 10; absent where it was the only one that fits: kube-scheduler then
    /// does not ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<u32>,
    /// Indices in rank order; of MIG instances those of the GPUs that they are part of.
    pub gpus: Vec<u32>,
    /// NUMA nodes of its ranks.
    pub numa: Vec<u32>,
    /// The weakest link between two GPUs of a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weakest_link: Option<String>,
    /// What NVLink gives, in 10⁹ bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gb_per_second: Option<f64>,
}

/// One node, as `show` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    /// Its name.
    pub node: String,
    /// Who has each GPU, by index: a pod, `free`, or `failed`, which a shared or partitioned one is
    /// too; MIG instances as `INDEX:` and who has it.
    pub gpus: Vec<String>,
    /// So many of the free ones are held, nobody knows which.
    pub unknown_count: usize,
    /// Whether its agent is silent.
    pub is_stale: bool,
}

// === impl Given ===

impl Given {
    pub(super) fn of(
        request: &bind::Request,
        score: Option<u32>,
        text: &str,
    ) -> Result<Self, String> {
        let assignment = Assignment::decode(text).map_err(|error| error.to_string())?;
        let containers = || assignment.containers.values();
        let ranks = || containers().flat_map(|container| &container.ranks);
        let numa: BTreeSet<u32> = ranks().filter_map(|rank| Some(rank.numa_node?.0)).collect();
        let weakest = containers()
            .filter_map(|container| container.weakest_link)
            .min();
        Ok(Self {
            pod: request.name.clone(),
            node: request.node.clone(),
            score,
            gpus: ranks().filter_map(|rank| Some(rank.index?.0)).collect(),
            numa: numa.into_iter().collect(),
            weakest_link: weakest.map(|link| link.to_string()),
            gb_per_second: containers().find_map(|container| container.gb_per_second),
        })
    }
}

// === impl NodeRow ===

impl NodeRow {
    /// What `snapshot` shows of that node; `None` without a topology.
    pub(super) fn of(snapshot: &Snapshot, name: &str) -> Option<Self> {
        let state = snapshot.node(name)?;
        let topology = state.topology.as_ref()?;
        let machine = &topology.machine;
        let failed = machine.all().difference(machine.usable());
        let are_parts = has_parts(machine);
        let of = |at: usize| {
            let holds = |set: GpuSet| set.contains(at);
            let holder = state
                .holders
                .iter()
                .find(|holder| holds(holder.named_on(machine)));
            let who = match holder {
                Some(holder) => holder.name.clone(),
                None if holds(failed) => "failed".to_owned(),
                None => "free".to_owned(),
            };
            match are_parts {
                true => format!("{}:{who}", machine.index(at)),
                false => who,
            }
        };
        Some(Self {
            node: name.to_owned(),
            gpus: machine.all().iter().map(of).collect(),
            unknown_count: state.room.unknown_count,
            is_stale: snapshot.is_stale(name),
        })
    }
}

/// Whether what is given are parts of GPUs.
fn has_parts(machine: &Machine) -> bool {
    let indices: BTreeSet<u32> = machine.all().iter().map(|at| machine.index(at).0).collect();
    indices.len() < machine.all().len()
}
