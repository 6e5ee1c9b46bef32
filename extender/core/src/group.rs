//! Pods that work together, and where those of them that have a node pull the others.

use std::collections::HashMap;
use std::sync::Arc;

use berth_topology::claim::PodClaim;
use berth_topology::node::Status;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::node::NodeState;
use crate::score::{GROUP_FABRIC, GROUP_RACK};
use crate::snapshot::Snapshot;

/// What a node's rack is called unless configured otherwise.
pub const DEFAULT_RACK_LABEL: &str = "topology.kubernetes.io/rack";
/// Longest name of a PodGroup: a DNS subdomain.
const POD_GROUP_BYTES_MAX: usize = 253;
/// `nvmlGpuFabricInfo`'s state of a GPU that is a member.
const REGISTERED: &str = "completed";

/// Pods of one namespace that work together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    namespace: String,
    name: Name,
}

/// How a pod says of which group it is; the annotation wins.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Name {
    /// `berth.dev/group`.
    Annotation(String),
    /// `spec.schedulingGroup.podGroupName`, from Kubernetes 1.37 on.
    PodGroup(String),
}

/// An NVLink fabric clique: its members reach each other by NVLink, on whichever node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Clique {
    cluster_uuid: String,
    clique_id: u32,
}

/// Where the placed pods of one group are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pull {
    member_count: usize,
    by_fabric: HashMap<Fabric, usize>,
    by_rack: HashMap<Arc<str>, usize>,
}

/// What pods reach each other in without a network. A node without a fabric is one of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Fabric {
    Clique(Clique),
    Node(Arc<str>),
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
            cluster_uuid: first.cluster_uuid.clone(),
            clique_id: first.clique_id,
        })
    }
}

// === impl Pull ===

impl Pull {
    /// Where the other pods of the group are, those whose bind is under way included.
    #[must_use]
    pub fn of(snapshot: &Snapshot, group: Option<&Group>) -> Self {
        let mut pull = Self::default();
        let Some(group) = group else { return pull };
        for node in snapshot.nodes() {
            let is_member = |holder: &&_| is_of(holder, group);
            let count = node.holders.iter().filter(is_member).count();
            if count == 0 {
                continue;
            }
            pull.member_count += count;
            *pull.by_fabric.entry(Fabric::of(node)).or_default() += count;
            if let Some(rack) = &node.rack {
                *pull.by_rack.entry(rack.clone()).or_default() += count;
            }
        }
        pull
    }

    /// What the group gives that node: everything where nobody has a place yet.
    #[must_use]
    pub fn on(&self, node: &NodeState) -> u32 {
        if self.member_count == 0 {
            return GROUP_FABRIC + GROUP_RACK;
        }
        let share = |weight: u32, count: usize| {
            let part = u64::from(weight) * count as u64 / self.member_count as u64;
            u32::try_from(part).unwrap_or(weight)
        };
        let in_fabric = self.by_fabric.get(&Fabric::of(node));
        let in_rack = node.rack.as_ref().and_then(|rack| self.by_rack.get(rack));
        share(GROUP_FABRIC, in_fabric.copied().unwrap_or(0))
            + share(GROUP_RACK, in_rack.copied().unwrap_or(0))
    }
}

pub(crate) fn is_of(holder: &Arc<crate::pod::Holder>, group: &Group) -> bool {
    holder.group.as_deref() == Some(group)
}

// === impl Fabric ===

impl Fabric {
    fn of(node: &NodeState) -> Self {
        let clique = node
            .topology
            .as_ref()
            .and_then(|known| known.clique.clone());
        clique.map_or_else(|| Self::Node(node.name.clone()), Self::Clique)
    }
}
