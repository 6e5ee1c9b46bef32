//! What one scheduling request sees.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use berth_placement::GpuSet;
use berth_topology::ids::PodUid;

use crate::hints::Hinted;
use crate::node::NodeState;

/// What one scheduling request sees, unchanged for its whole life.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// By name.
    pub nodes: Arc<HashMap<Arc<str>, Arc<NodeState>>>,
    /// Nodes whose agent is silent.
    pub stale: HashSet<Arc<str>>,
    /// Nodes of unconfirmed binds, by pod.
    pub unconfirmed: HashMap<PodUid, String>,
    /// GPUs that pods are likely to be bound to next.
    pub hinted: Hinted,
    /// Grows whenever a node changes.
    pub generation: u64,
}

// === impl Snapshot ===

impl Snapshot {
    /// The node of that name, if there is such a Node.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeState>> {
        self.nodes.get(name)
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<NodeState>> {
        self.nodes.values()
    }

    /// Whether that node's agent is silent.
    #[must_use]
    pub fn is_stale(&self, name: &str) -> bool {
        self.stale.contains(name)
    }

    /// GPUs of that node that other pods than `uid` are likely to be bound to next.
    #[must_use]
    pub fn promised_to_others(&self, name: &str, uid: &PodUid) -> GpuSet {
        let hints = self.hinted.get(name).into_iter().flatten();
        let others = hints.filter(|(pod, _)| pod != uid);
        others.fold(GpuSet::EMPTY, |all, (_, gpus)| all.union(*gpus))
    }

    /// The node of the pod's bind that is not confirmed yet.
    pub fn unconfirmed(&self, uid: &PodUid) -> Option<&str> {
        self.unconfirmed.get(uid).map(String::as_str)
    }
}
