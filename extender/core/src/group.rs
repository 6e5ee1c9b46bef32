//! Pods that work together, where those of them that have a node pull the others, and where the first
//! goes.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use ahash::RandomState;
use berth_topology::claim::PodClaim;
use berth_topology::node::Status;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::decide::Ask;
use crate::node::NodeState;
use crate::score::{GROUP_FABRIC, GROUP_RACK};
use crate::snapshot::Snapshot;

mod awaited;
mod first;
mod members;

pub use awaited::Awaited;
pub(crate) use awaited::waiting;
use first::First;
pub use members::Members;
pub(crate) use members::update as update_members;

/// What a node's rack is called unless configured otherwise.
pub const DEFAULT_RACK_LABEL: &str = "topology.kubernetes.io/rack";
/// Longest name of a PodGroup: a DNS subdomain.
const POD_GROUP_BYTES_MAX: usize = 253;
/// `nvmlGpuFabricInfo`'s state of a GPU that is a member.
const REGISTERED: &str = "completed";

/// Pods of one namespace that work together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    namespace: String,
    name: Name,
}

/// How a pod says of which group it is; the annotation wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Name {
    /// `berth.dev/group`.
    Annotation(String),
    /// `spec.schedulingGroup.podGroupName`, from Kubernetes 1.37 on.
    PodGroup(String),
}

/// An NVLink fabric clique: its members reach each other by NVLink, on whichever node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clique {
    cluster_uuid: String,
    clique_id: u32,
    /// Of the two above, worked out once: every request looks at the clique of every node.
    digest: u64,
}

/// Where the placed pods of one group are.
#[derive(Clone, Debug, Default)]
pub struct Pull<'a> {
    member_count: usize,
    by_fabric: HashMap<Fabric<'a>, usize>,
    by_rack: HashMap<&'a str, usize>,
    /// Where nobody has a place yet; absent for a pod without a group.
    first: Option<First<'a>>,
}

/// What pods reach each other in without a network. A node without a fabric is one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Fabric<'a> {
    Clique(&'a Clique),
    Node(&'a str),
}

// === impl Group ===

impl Group {
    /// The group of `pod`, whose claim is `claim`.
    #[must_use]
    pub fn of_pod(pod: &Pod, claim: Option<&PodClaim>) -> Option<Self> {
        let annotated = claim
            .into_iter()
            .flat_map(|claim| claim.containers.iter().chain(&claim.init))
            .find_map(|container| container.claim.group.clone());
        let named = || {
            let spec = pod.spec.as_ref()?;
            let name = spec.scheduling_group.as_ref()?.pod_group_name.clone()?;
            (1..=POD_GROUP_BYTES_MAX)
                .contains(&name.len())
                .then_some(name)
        };
        let name = annotated.map(Name::Annotation);
        Some(Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: name.or_else(|| named().map(Name::PodGroup))?,
        })
    }
}

// === impl Clique ===

impl Clique {
    /// The clique of a whole node: every usable GPU is a registered member of the same. One that is
    /// not could not talk to the others, and it may be the one that is given.
    #[must_use]
    pub fn of_node(status: &Status) -> Option<Self> {
        let mut usable = status.gpus.iter().filter(|gpu| gpu.is_usable());
        let first = usable.next()?.fabric.as_ref()?;
        // A GPU that was never registered reports zeros.
        let is_named = first
            .cluster_uuid
            .chars()
            .any(|c| c.is_ascii_alphanumeric() && c != '0');
        let is_member = first.state == REGISTERED && is_named;
        let is_same = usable.all(|gpu| gpu.fabric.as_ref() == Some(first));
        (is_member && is_same).then(|| Self {
            digest: digest(&first.cluster_uuid, first.clique_id),
            cluster_uuid: first.cluster_uuid.clone(),
            clique_id: first.clique_id,
        })
    }
}

impl Hash for Clique {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.digest.hash(to);
    }
}

fn digest(cluster_uuid: &str, clique_id: u32) -> u64 {
    let mut hasher = DefaultHasher::new();
    (cluster_uuid, clique_id).hash(&mut hasher);
    hasher.finish()
}

// === impl Pull ===

impl<'a> Pull<'a> {
    /// Where the other pods of the group are, those whose bind is under way included; where there are
    /// none, how much room the group would find around each of the candidates.
    #[must_use]
    pub fn of(
        snapshot: &'a Snapshot,
        ask: &'a Ask,
        candidates: impl Iterator<Item = &'a Arc<NodeState>>,
    ) -> Self {
        let mut pull = Self::default();
        let Some(group) = ask.group.as_deref() else {
            return pull;
        };
        for node in members(snapshot, group) {
            let is_member = |holder: &&_| is_of(holder, group);
            let count = node.holders.iter().filter(is_member).count();
            pull.member_count += count;
            *pull.by_fabric.entry(Fabric::of(node)).or_default() += count;
            if let Some(rack) = node.rack.as_deref() {
                *pull.by_rack.entry(rack).or_default() += count;
            }
        }
        if pull.member_count == 0 {
            pull.first = Some(First::of(snapshot, ask, group, candidates));
        }
        pull
    }

    /// What the group gives that node; everything to a pod without one.
    #[must_use]
    pub fn on(&self, node: &'a NodeState) -> u32 {
        if let Some(first) = &self.first {
            return first.on(node);
        }
        if self.member_count == 0 {
            return GROUP_FABRIC + GROUP_RACK;
        }
        let share = |weight: u32, count: usize| {
            let part = u64::from(weight) * count as u64 / self.member_count as u64;
            u32::try_from(part).unwrap_or(weight)
        };
        let in_fabric = self.by_fabric.get(&Fabric::of(node));
        let in_rack = node.rack.as_deref();
        let in_rack = in_rack.and_then(|rack| self.by_rack.get(rack));
        share(GROUP_FABRIC, in_fabric.copied().unwrap_or(0))
            + share(GROUP_RACK, in_rack.copied().unwrap_or(0))
    }
}

/// Nodes beside those that were asked about on which [`Pull`] depends: where pods of the group are, or
/// while there are none, nodes in the same cliques and racks. By name.
pub(crate) fn peers<'a>(
    snapshot: &'a Snapshot,
    ask: &Ask,
    candidates: impl Iterator<Item = &'a Arc<NodeState>> + Clone,
) -> Vec<Arc<NodeState>> {
    let Some(group) = ask.group.as_deref() else {
        return Vec::new();
    };
    let mut members: HashMap<_, _, RandomState> = members(snapshot, group)
        .map(|node| (Arc::as_ptr(node), node))
        .collect();
    if members.is_empty() {
        return neighbours(snapshot, candidates);
    }
    for asked in candidates {
        members.remove(&Arc::as_ptr(asked));
    }
    by_name(members.into_values())
}

/// Nodes in the cliques and racks of the candidates, beside these.
fn neighbours<'a>(
    snapshot: &'a Snapshot,
    candidates: impl Iterator<Item = &'a Arc<NodeState>> + Clone,
) -> Vec<Arc<NodeState>> {
    let clique = |node: &'a NodeState| node.topology.as_ref()?.clique.as_ref();
    let asked: HashSet<_, RandomState> = candidates.clone().map(Arc::as_ptr).collect();
    if asked.len() == snapshot.nodes.len() {
        return Vec::new();
    }
    let cliques: HashSet<_> = candidates.clone().filter_map(|node| clique(node)).collect();
    let racks: HashSet<_> = candidates.filter_map(|node| node.rack.as_deref()).collect();
    let is_near = |node: &&'a Arc<NodeState>| {
        let rack = node.rack.as_deref();
        rack.is_some_and(|rack| racks.contains(rack))
            || clique(node).is_some_and(|clique| cliques.contains(clique))
    };
    let others = snapshot
        .nodes()
        .filter(|node| !asked.contains(&Arc::as_ptr(node)));
    by_name(others.filter(is_near))
}

fn by_name<'a>(nodes: impl Iterator<Item = &'a Arc<NodeState>>) -> Vec<Arc<NodeState>> {
    let mut nodes: Vec<Arc<NodeState>> = nodes.cloned().collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

/// The nodes where pods of that group are.
fn members<'a>(snapshot: &'a Snapshot, group: &Group) -> impl Iterator<Item = &'a Arc<NodeState>> {
    let names = snapshot.members.nodes(group);
    names.filter_map(|name| snapshot.node(name))
}

fn is_of(holder: &Arc<crate::pod::Holder>, group: &Group) -> bool {
    holder.group.as_deref() == Some(group)
}

// === impl Fabric ===

impl<'a> Fabric<'a> {
    fn of(node: &'a NodeState) -> Self {
        let topology = node.topology.as_ref();
        let clique = topology.and_then(|known| known.clique.as_ref());
        clique.map_or_else(|| Self::Node(&node.name), Self::Clique)
    }
}
