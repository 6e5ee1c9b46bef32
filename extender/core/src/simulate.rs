//! Pods against machines that are given with the request (`POST /simulate`). Touches no cluster.

use std::collections::{BTreeMap, BTreeSet};

use berth_placement::{GpuSet, Machine, PodPlacement, Refusal, place_pod};
use berth_topology::assignment::ContainerAssignment;
use berth_topology::claim::PodClaim;
use berth_topology::ids::GpuUuid;
use berth_topology::node::NodeTopology;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

/// Nodes × pods of one request; each pair is one placement.
const PAIRS_MAX: usize = 100_000;

/// The machines, what is held there, and the pods to place, each by itself.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Request {
    /// Machines.
    #[serde(default)]
    pub nodes: Vec<NodeTopology>,
    /// What is held there.
    #[serde(default)]
    pub residents: Vec<Resident>,
    /// Pods, each placed by itself.
    #[serde(default)]
    pub pods: Vec<Pod>,
}

/// GPUs of one node that somebody holds.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Resident {
    /// The node.
    pub node: String,
    /// By UUID.
    #[serde(default)]
    pub gpus: Vec<GpuUuid>,
}

/// What would be decided about one pod, by node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulated {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// By node.
    pub nodes: BTreeMap<String, Outcome>,
}

/// Whether a pod fits a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Whether it fits.
    pub feasible: bool,
    /// 0 to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<u8>,
    /// The ranks, by container.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ranks: BTreeMap<String, ContainerAssignment>,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// Why a pod does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The reason's name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether pods that leave could help.
    pub resolvable: bool,
    /// The sentence.
    pub message: String,
}

/// More work than one request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pod_count} pods on {node_count} nodes are more than {PAIRS_MAX} placements; send fewer")]
pub struct TooMany {
    pod_count: usize,
    node_count: usize,
}

/// Answers a request.
///
/// # Errors
/// When it asks for too much.
pub fn simulate(request: &Request, resource: &str) -> Result<Vec<Simulated>, TooMany> {
    let (pod_count, node_count) = (request.pods.len(), request.nodes.len());
    if node_count.saturating_mul(pod_count) > PAIRS_MAX {
        return Err(TooMany {
            pod_count,
            node_count,
        });
    }
    let machines: Vec<_> = request
        .nodes
        .iter()
        .map(|node| machine(node, &request.residents))
        .collect();
    let pod = |pod: &Pod| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let claim = PodClaim::of_pod(pod, resource).map_err(Refusal::BadClaim);
        let on_node = |(name, machine): &(String, Option<(Machine, GpuSet)>)| {
            (name.clone(), outcome(machine.as_ref(), &claim))
        };
        Simulated {
            pod: format!(
                "{}/{}",
                text(&pod.metadata.namespace),
                text(&pod.metadata.name)
            ),
            nodes: machines.iter().map(on_node).collect(),
        }
    };
    Ok(request.pods.iter().map(pod).collect())
}

/// A node's machine and what is free there; `None` without a topology.
fn machine(node: &NodeTopology, residents: &[Resident]) -> (String, Option<(Machine, GpuSet)>) {
    let of_node = residents
        .iter()
        .filter(|resident| resident.node == node.name());
    let held: BTreeSet<&GpuUuid> = of_node.flat_map(|resident| &resident.gpus).collect();
    let machine = node.status.as_ref().map(|status| {
        let machine = Machine::new(status);
        let free = machine.all().difference(machine.set_of(held));
        (machine, free)
    });
    (node.name().to_owned(), machine)
}

fn outcome(machine: Option<&(Machine, GpuSet)>, claim: &Result<PodClaim, Refusal>) -> Outcome {
    let placed = match (machine, claim) {
        (_, Err(refusal)) => Err(refusal.clone()),
        (None, _) => Err(Refusal::NoTopology),
        (Some((machine, free)), Ok(claim)) => place_pod(machine, *free, claim),
    };
    match placed {
        Ok(PodPlacement {
            containers, score, ..
        }) => Outcome {
            feasible: true,
            score: Some(score),
            ranks: containers,
            reason: None,
        },
        Err(refusal) => Outcome {
            reason: Some(Reason::of(&refusal)),
            ..Outcome::default()
        },
    }
}

// === impl Reason ===

impl Reason {
    fn of(refusal: &Refusal) -> Self {
        Self {
            kind: refusal.kind().to_owned(),
            resolvable: refusal.is_resolvable(),
            message: refusal.to_string(),
        }
    }
}
