//! What one scheduling request sees.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ahash::RandomState;
use berth_placement::GpuSet;
use berth_topology::fnv::Fnv;
use berth_topology::ids::PodUid;
use serde::{Deserialize, Serialize};

use crate::budgets::Budgets;
use crate::group::{Awaited, Members};
use crate::hints::Hinted;
use crate::node::NodeState;
use crate::record::shared;

/// By a node's name, which every request looks up thousands of.
pub type ByName<T> = HashMap<Arc<str>, T, RandomState>;

/// A node that is asked about, and what the snapshot shows under its name.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// As it was sent.
    pub name: &'a str,
    /// Absent if there is no such Node.
    pub node: Option<&'a Arc<NodeState>>,
}

/// What one scheduling request sees, unchanged for its whole life.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// By name.
    #[serde(skip)]
    pub nodes: Arc<ByName<Arc<NodeState>>>,
    /// Where pods of each group are: what the nodes say.
    #[serde(skip)]
    pub members: Arc<Members>,
    /// Nodes whose agent is silent.
    #[serde(with = "shared::each")]
    pub stale: HashSet<Arc<str>, RandomState>,
    /// Nodes of unconfirmed binds, by pod.
    pub unconfirmed: HashMap<PodUid, String>,
    /// GPUs that pods are likely to be bound to next.
    #[serde(default, with = "hinted")]
    pub hinted: Hinted,
    /// Disruption budgets. Filter, prioritize and bind do not look at them.
    #[serde(skip)]
    pub budgets: Arc<Budgets>,
    /// What pods of each group still ask for.
    #[serde(default, with = "shared", skip_serializing_if = "is_none_awaited")]
    pub awaited: Arc<Awaited>,
    /// Grows whenever a node changes.
    pub generation: u64,
}

// === impl Snapshot ===

impl Snapshot {
    /// The node of that name, if there is such a Node.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeState>> {
        self.nodes.get(name)
    }

    /// Those nodes, each looked up once.
    pub fn named<'a>(&'a self, names: impl IntoIterator<Item = &'a str>) -> Vec<Named<'a>> {
        let names = names.into_iter();
        names.map(|name| self.one(name)).collect()
    }

    /// One of them.
    pub fn one<'a>(&'a self, name: &'a str) -> Named<'a> {
        let node = self.node(name);
        Named { name, node }
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<NodeState>> {
        self.nodes.values()
    }

    /// All of it but the nodes, and what only other questions depend on.
    #[must_use]
    pub fn without_nodes(&self) -> Self {
        Self {
            nodes: Arc::default(),
            members: Arc::default(),
            stale: self.stale.clone(),
            unconfirmed: self.unconfirmed.clone(),
            hinted: self.hinted.clone(),
            budgets: Arc::default(),
            awaited: Arc::default(),
            generation: self.generation,
        }
    }

    /// The same with those nodes, and no others.
    #[must_use]
    pub fn with_nodes(self, nodes: impl IntoIterator<Item = Arc<NodeState>>) -> Self {
        let nodes = nodes.into_iter().map(|node| (node.name.clone(), node));
        let nodes: ByName<_> = nodes.collect();
        Self {
            members: Arc::new(Members::of(nodes.values())),
            nodes: Arc::new(nodes),
            ..self
        }
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

    /// One number for the silent nodes and for what other pods than `uid` are likely to be bound to,
    /// in whatever order they come. Few nodes are either, so that this asks for them, and not of each
    /// node whether it is.
    pub(crate) fn marks(&self, uid: &PodUid) -> u64 {
        let mark = |name: &str, number: u64| {
            let mut hash = Fnv::default();
            hash.text(name);
            hash.number(number);
            hash.finish()
        };
        let stale = self.stale.iter().map(|name| mark(name, u64::MAX));
        let promised = self.hinted.keys().map(|name| {
            let promised = self.promised_to_others(name, uid);
            mark(name, promised.bits()) * u64::from(!promised.is_empty())
        });
        stale.chain(promised).fold(0, u64::wrapping_add)
    }

    /// The node of the pod's bind that is not confirmed yet.
    pub fn unconfirmed(&self, uid: &PodUid) -> Option<&str> {
        self.unconfirmed.get(uid).map(String::as_str)
    }
}

fn is_none_awaited(awaited: &Arc<Awaited>) -> bool {
    awaited.is_empty()
}

/// Node, pod and the GPUs as a number whose bits are their positions, one by one.
mod hinted {
    use std::sync::Arc;

    use berth_placement::GpuSet;
    use berth_topology::ids::PodUid;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::hints::Hinted;

    pub(super) fn serialize<S: Serializer>(hinted: &Hinted, to: S) -> Result<S::Ok, S::Error> {
        let each = hinted.iter().flat_map(|(node, hints)| {
            let node = node.as_ref();
            hints
                .iter()
                .map(move |(pod, gpus)| (node, pod, gpus.bits()))
        });
        to.collect_seq(each)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hinted, D::Error> {
        let mut hinted = Hinted::default();
        for (node, pod, bits) in Vec::<(String, PodUid, u64)>::deserialize(from)? {
            let on_node = hinted.entry(Arc::from(node)).or_default();
            on_node.push((pod, GpuSet::from_bits(bits)));
        }
        Ok(hinted)
    }
}
