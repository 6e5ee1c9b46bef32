//! Pods against machines that are given with the request (`POST /simulate`): what a cluster
//! autoscaler asks before it adds a node. Pure: it touches no cluster, no index and no record.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use berth_placement::{
    Free, GpuSet, HeldCpus, Inexact, Machine, PodPlacement, Refusal, Shapes, place_pod,
};
use berth_topology::allocation::Allocation;
use berth_topology::assignment::ContainerAssignment;
use berth_topology::claim::{self, PodClaim};
use berth_topology::ids::GpuUuid;
use berth_topology::node::{NodeTopology, Status};
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::decide::No;
use crate::record::Reason;
use crate::record::wiring::renamed;

/// Nodes of one request, templates counted as often as they are asked for.
pub const NODES_MAX: usize = 5_000;
/// Nodes × pods of one request; each pair is one placement.
pub const PAIRS_MAX: usize = 100_000;

/// The machines, what is held there, and the pods to place, each by itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Machines.
    #[serde(default)]
    pub nodes: Vec<NodeTopology>,
    /// Machines that could be added.
    #[serde(default)]
    pub templates: Vec<Template>,
    /// What is held.
    #[serde(default)]
    pub residents: Vec<Resident>,
    /// Pods, each placed by itself.
    #[serde(default)]
    pub pods: Vec<Pod>,
}

/// A kind of machine that could be added, empty.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// A machine of that kind.
    pub node: NodeTopology,
    /// How many: `NAME-0`, `NAME-1`, … The GPUs of the first are called `NAME-0/INDEX`, and so on:
    /// UUIDs are one machine's own.
    #[serde(default = "one")]
    pub count: usize,
}

fn one() -> usize {
    1
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
    /// 0 to 10: the set against the best of that machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<u8>,
    /// Whether the kubelet there can only give these GPUs; absent where the pod does not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inexact: Option<&'static str>,
    /// The ranks, by container.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ranks: BTreeMap<String, ContainerAssignment>,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// A request that is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More work than one request may ask for.
    #[error(
        "{pod_count} pods on {node_count} nodes are too many: at most {NODES_MAX} nodes, and {PAIRS_MAX} pairs of a pod and a node"
    )]
    TooMany {
        /// Pods.
        pod_count: usize,
        /// Nodes.
        node_count: usize,
    },
    /// The time allowed has passed.
    #[error("this takes too long; send fewer pods, or nodes that differ less")]
    TooLong,
    /// Two nodes of one name: an answer by name could mean either.
    #[error("two nodes are named {0:?}")]
    NodeTwice(String),
    /// A node without a name.
    #[error("a node has no metadata.name")]
    Unnamed,
    /// Residents of a node that was not sent.
    #[error("residents are given for node {0:?}, which is not among the nodes")]
    NoSuchNode(String),
}

/// One node's machine, and what of it is free.
struct Room {
    machine: Machine,
    gpus: GpuSet,
    /// CPUs that containers hold alone.
    cpus: HeldCpus,
    doubt: Option<Inexact>,
}

/// Answers a request. `may_go_on` is asked before each placement.
///
/// # Errors
/// When it asks for too much, takes too long, or names a node twice or not at all.
pub fn simulate(
    request: &Request,
    resource: &str,
    may_go_on: impl Fn() -> bool,
) -> Result<Vec<Simulated>, Error> {
    check_size(request)?;
    let nodes = nodes(request);
    check_names(request, &nodes)?;
    let rooms = rooms(request, &nodes, resource, &may_go_on)?;
    let mut answers = Vec::with_capacity(request.pods.len());
    for pod in &request.pods {
        let claim = PodClaim::of_pod(pod, resource);
        let mut outcomes = BTreeMap::new();
        for (name, room) in &rooms {
            if !may_go_on() {
                return Err(Error::TooLong);
            }
            let placed = placed(room.as_ref(), &claim, resource);
            outcomes.insert((*name).to_owned(), Outcome::of(placed));
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
        answers.push(Simulated {
            pod: format!("{}/{}", text(namespace), text(name)),
            nodes: outcomes,
        });
    }
    Ok(answers)
}

fn check_size(request: &Request) -> Result<(), Error> {
    let pod_count = request.pods.len();
    let added = request.templates.iter().map(|template| template.count);
    let node_count = added.fold(request.nodes.len(), usize::saturating_add);
    if node_count > NODES_MAX || node_count.saturating_mul(pod_count) > PAIRS_MAX {
        return Err(Error::TooMany {
            pod_count,
            node_count,
        });
    }
    Ok(())
}

/// Those that were sent, and those that the templates stand for.
fn nodes(request: &Request) -> Vec<NodeTopology> {
    let added = request.templates.iter().flat_map(|template| {
        let fresh = |number| {
            fresh(
                &template.node,
                &format!("{}-{number}", template.node.name()),
            )
        };
        (0..template.count).map(fresh)
    });
    request.nodes.iter().cloned().chain(added).collect()
}

/// Another machine of that kind, empty: each GPU is called `NAME/INDEX`.
#[must_use]
pub fn fresh(kind: &NodeTopology, name: &str) -> NodeTopology {
    let mut node = NodeTopology {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta::default(),
        ..kind.clone()
    };
    node.metadata.name = Some(name.to_owned());
    node.status = node.status.take().map(|mut status| {
        let names = fresh_names(&status, name);
        status.allocations.clear();
        renamed(status, |uuid| names.get(uuid).cloned())
    });
    node
}

/// `NAME/INDEX` for each GPU, `NAME/INDEX/0` and so on for its MIG instances.
fn fresh_names(status: &Status, name: &str) -> HashMap<GpuUuid, GpuUuid> {
    let mut names = HashMap::new();
    for gpu in &status.gpus {
        let fresh = format!("{name}/{}", gpu.index);
        let instances = gpu.mig.iter().flat_map(|mig| &mig.instances).enumerate();
        names.extend(instances.map(|(number, instance)| {
            let fresh = GpuUuid(format!("{fresh}/{number}"));
            (instance.uuid.clone(), fresh)
        }));
        names.insert(gpu.uuid.clone(), GpuUuid(fresh));
    }
    names
}

fn check_names(request: &Request, nodes: &[NodeTopology]) -> Result<(), Error> {
    let mut names = HashSet::new();
    for node in nodes {
        if !names.insert(node.name()) {
            return Err(Error::NodeTwice(cut(node.name())));
        }
    }
    if names.contains("") {
        return Err(Error::Unnamed);
    }
    let is_strange = |resident: &&Resident| !names.contains(resident.node.as_str());
    match request.residents.iter().find(is_strange) {
        Some(resident) => Err(Error::NoSuchNode(cut(&resident.node))),
        None => Ok(()),
    }
}

fn cut(name: &str) -> String {
    name.chars().take(64).collect()
}

fn rooms<'a>(
    request: &Request,
    nodes: &'a [NodeTopology],
    resource: &str,
    may_go_on: impl Fn() -> bool,
) -> Result<Vec<(&'a str, Option<Room>)>, Error> {
    let mut shapes = Shapes::default().of_resource(resource);
    let mut held: HashMap<&str, BTreeSet<&GpuUuid>> = HashMap::new();
    for resident in &request.residents {
        let of_node = held.entry(&resident.node).or_default();
        of_node.extend(&resident.gpus);
    }
    let mut rooms = Vec::with_capacity(nodes.len());
    for node in nodes {
        if !may_go_on() {
            return Err(Error::TooLong);
        }
        let held = held.remove(node.name()).unwrap_or_default();
        let status = node.status.as_ref();
        let room = status.map(|status| Room::of(shapes.machine(status), status, resource, &held));
        rooms.push((node.name(), room));
    }
    Ok(rooms)
}

fn placed(
    room: Option<&Room>,
    claim: &Result<PodClaim, claim::Error>,
    resource: &str,
) -> Result<PodPlacement, Refusal> {
    let claim = claim
        .as_ref()
        .map_err(|error| Refusal::BadClaim(error.clone()))?;
    let room = room.ok_or(Refusal::NoTopology)?;
    if room.machine.is_dra_managed(resource) {
        return Err(Refusal::DraManaged);
    }
    place_pod(&room.machine, room.free(), claim)
}

// === impl Room ===

impl Room {
    /// What residents do not hold. A container holds its CPUs alone as long as it holds its GPUs.
    fn of(machine: Machine, status: &Status, resource: &str, held: &BTreeSet<&GpuUuid>) -> Self {
        let gpus = machine.set_of(held.iter().copied());
        let stays = |truth: &&Allocation| machine.set_of(&truth.devices).is_subset(gpus);
        let truths = status.allocations.iter().filter(stays);
        let lists = truths.filter_map(|truth| truth.cpus.as_ref());
        Self {
            gpus: machine.all().difference(gpus),
            cpus: machine.held_cpus(lists, std::iter::empty()),
            doubt: machine.plugin_doubt(resource),
            machine,
        }
    }

    fn free(&self) -> Free<'_> {
        Free {
            gpus: self.gpus,
            cpus: Some(&self.cpus),
            doubt: self.doubt,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    fn of(placed: Result<PodPlacement, Refusal>) -> Self {
        match placed {
            Ok(placement) => Self {
                feasible: true,
                score: Some(placement.score),
                exact: Some(placement.is_exact()),
                inexact: placement.inexact.map(Inexact::kind),
                ranks: placement.containers,
                reason: None,
            },
            Err(refusal) => Self {
                reason: Some(Reason::of(&No::Refused(refusal))),
                ..Self::default()
            },
        }
    }
}

#[cfg(test)]
mod tests;
