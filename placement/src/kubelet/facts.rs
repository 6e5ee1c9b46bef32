//! What of a node decides where the kubelet takes devices from, as its agent published it.

use std::collections::BTreeMap;

use berth_topology::ids::NumaId;
use berth_topology::kubelet::PluginOwner;
use berth_topology::node::Status;
use berth_topology::numa::NumaNode;

use crate::facts::GpuFacts;
use crate::kubelet::exact::Inexact;
use crate::kubelet::hints::NodeCpus;
use crate::kubelet::mask::{NUMA_NODES_MAX, NumaMask};
use crate::kubelet::merge::{Distances, Ties};
use crate::set::GpuSet;
use crate::shape::Shape;

/// `max-allowable-numa-nodes` where it is not set: with more the kubelet does not start.
const NUMA_NODES_ALLOWED: usize = 8;

/// NUMA nodes with GPUs, or with CPUs, up to which masks are listed: 255 of them. The kubelet's own
/// limit in practice, as it lists them all, too.
const LISTED_NODES_MAX: usize = 8;

/// `topologyManagerPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Policy {
    None,
    BestEffort,
    Restricted,
    SingleNumaNode,
    Unknown,
}

/// `topologyManagerScope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Container,
    Pod,
    Unknown,
}

/// A manager that gives some resource exclusively, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Manager {
    None,
    Static,
    Unknown,
}

/// One node's kubelet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kubelet {
    pub(crate) policy: Policy,
    pub(crate) scope: Scope,
    pub(crate) cpu: Manager,
    pub(crate) memory: Manager,
    /// What of the CPU manager is not known or not foreseen, where a pod wants CPUs for itself.
    pub(crate) cpu_doubt: Option<Inexact>,
    /// Why no mask can be foreseen here, whatever the pod.
    pub(crate) doubt: Option<Inexact>,
    /// By position.
    pub(crate) numa: Vec<NumaId>,
    /// NUMA node of each GPU, as the kubelet is told; empty where it is not.
    pub(crate) gpu_nodes: Vec<NumaMask>,
    /// GPUs that are devices of the plugin, broken ones included.
    pub(crate) devices: GpuSet,
    /// By NUMA position, nothing held.
    pub(crate) cpus: Vec<NodeCpus>,
    /// `prefer-closest-numa-nodes`; `None` when unknown.
    is_closest: Option<bool>,
    distances: Option<Distances>,
    plugins: Vec<(String, Option<Inexact>)>,
}

// === impl Kubelet ===

impl Kubelet {
    pub(crate) fn read(status: &Status, shape: &Shape) -> Self {
        let numa = numa_ids(&status.numa);
        let devices = GpuSet::first(shape.facts.gpus.len()).difference(shape.shared);
        // A plugin that tells no NUMA nodes is to the kubelet one whose devices have none.
        let is_told = !status.plugins.iter().any(|plugin| plugin.unaligned);
        let node_of = |gpu: &GpuFacts| mask_of(&numa, gpu.numa.filter(|_| is_told));
        let gpu_nodes: Vec<NumaMask> = shape.facts.gpus.iter().map(node_of).collect();
        let mut read = Self {
            policy: Policy::from_text(&status.kubelet.topology_manager_policy),
            scope: Scope::from_text(&status.kubelet.topology_manager_scope),
            cpu: Manager::from_text(&status.kubelet.cpu_manager_policy),
            memory: Manager::from_text(
                status
                    .kubelet
                    .memory_manager_policy
                    .as_deref()
                    .unwrap_or("unknown"),
            ),
            cpu_doubt: None,
            doubt: None,
            gpu_nodes,
            devices,
            cpus: cpus(status, &numa),
            is_closest: option(
                status.kubelet.topology_manager_policy_options.as_ref(),
                "prefer-closest-numa-nodes",
            ),
            distances: distances(&status.numa, &numa),
            plugins: plugins(status),
            numa,
        };
        read.cpu_doubt = cpu_doubt(status, read.cpu);
        read.doubt = read.node_doubt(status, shape);
        read
    }

    /// Whether a mask may decide which GPUs a pod gets.
    pub(crate) fn aligns(&self) -> bool {
        self.doubt.is_none() && !matches!(self.policy, Policy::None | Policy::Unknown)
    }

    /// Whether the device plugin tells NUMA nodes at all: the kubelet asks if any device has one.
    pub(crate) fn aligns_devices(&self) -> bool {
        let is_told = |device: usize| !self.gpu_nodes[device].is_empty();
        self.aligns() && self.devices.iter().any(is_told)
    }

    /// Whether CPUs that are given exclusively may decide where GPUs come from.
    pub(crate) fn counts_cpus(&self) -> bool {
        self.aligns() && self.cpu == Manager::Static
    }

    /// The one NUMA node of those GPUs, where it is one.
    pub(crate) fn node_of(&self, gpus: GpuSet) -> Option<usize> {
        let nodes = gpus.iter().map(|gpu| self.gpu_nodes[gpu]);
        let nodes = nodes.fold(NumaMask::EMPTY, NumaMask::union);
        nodes.iter().next().filter(|_| nodes.len() == 1)
    }

    pub(crate) fn nodes(&self) -> NumaMask {
        NumaMask::first(self.numa.len())
    }

    pub(crate) fn ties(&self) -> Ties<'_> {
        match (self.is_closest, &self.distances) {
            (Some(false), _) => Ties::Lowest,
            (Some(true), Some(distances)) => Ties::Closest(distances),
            (_, distances) => Ties::Unknown(distances.as_ref()),
        }
    }

    pub(crate) fn numa_ids(&self, mask: NumaMask) -> Vec<NumaId> {
        mask.iter().map(|position| self.numa[position]).collect()
    }

    /// Why `resource`'s plugin may give other devices than were promised.
    pub(crate) fn plugin_doubt(&self, resource: &str) -> Option<Inexact> {
        let plugin = self.plugins.iter().find(|(name, _)| name == resource);
        plugin.map_or(Some(Inexact::PluginNotOurs), |(_, doubt)| *doubt)
    }

    fn node_doubt(&self, status: &Status, shape: &Shape) -> Option<Inexact> {
        if self.policy == Policy::Unknown {
            return Some(Inexact::PolicyUnknown);
        }
        if !shape.shared.is_empty() {
            return Some(Inexact::SharedGpus);
        }
        let options = status.kubelet.topology_manager_policy_options.as_ref();
        // A kubelet whose options are not known runs, so it allows what its machine has.
        let allowed = options.map_or(NUMA_NODES_MAX, |options| {
            let text = options.get("max-allowable-numa-nodes");
            let number = text.and_then(|text| text.parse().ok());
            number.unwrap_or(NUMA_NODES_ALLOWED).min(NUMA_NODES_MAX)
        });
        let gpu_nodes = self.gpu_nodes.iter().copied();
        let listed = gpu_nodes.fold(NumaMask::EMPTY, NumaMask::union).len();
        let with_cpus = self.cpus.iter().filter(|node| node.all > 0).count();
        let is_too_many = self.numa.len() > allowed || listed.max(with_cpus) > LISTED_NODES_MAX;
        (self.policy != Policy::None && is_too_many).then_some(Inexact::TooManyNumaNodes)
    }
}

impl Policy {
    fn from_text(text: &str) -> Self {
        match text {
            "none" => Self::None,
            "best-effort" => Self::BestEffort,
            "restricted" => Self::Restricted,
            "single-numa-node" => Self::SingleNumaNode,
            _ => Self::Unknown,
        }
    }
}

impl Scope {
    fn from_text(text: &str) -> Self {
        match text {
            "container" => Self::Container,
            "pod" => Self::Pod,
            _ => Self::Unknown,
        }
    }
}

impl Manager {
    /// The CPU manager's policies are lower case, the memory manager's are not.
    fn from_text(text: &str) -> Self {
        match text {
            "none" | "None" => Self::None,
            "static" | "Static" => Self::Static,
            _ => Self::Unknown,
        }
    }
}

/// Ascending, each once, as many as a mask holds.
fn numa_ids(nodes: &[NumaNode]) -> Vec<NumaId> {
    let mut ids: Vec<NumaId> = nodes.iter().map(|node| node.id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.truncate(NUMA_NODES_MAX);
    ids
}

fn mask_of(numa: &[NumaId], node: Option<NumaId>) -> NumaMask {
    let position = node.and_then(|node| numa.iter().position(|known| *known == node));
    position.into_iter().collect()
}

fn cpus(status: &Status, numa: &[NumaId]) -> Vec<NodeCpus> {
    let of_node = |id: &NumaId| {
        let Some(node) = status.numa.iter().find(|node| node.id == *id) else {
            return NodeCpus::default();
        };
        let reserved = status.kubelet.reserved_cpus.as_ref();
        let reserved = reserved.map_or(0, |reserved| reserved.intersection(&node.cpus).len());
        NodeCpus {
            all: node.cpus.len(),
            available: node.cpus.len() - reserved,
            reusable: 0,
        }
    };
    numa.iter().map(of_node).collect()
}

/// Each node lists its distances in the order of the nodes; `None` where one does not.
fn distances(nodes: &[NumaNode], numa: &[NumaId]) -> Option<Distances> {
    if nodes.len() != numa.len() {
        return None;
    }
    let place = |id: &NumaId| nodes.iter().position(|node| node.id == *id);
    let places: Vec<usize> = numa.iter().filter_map(place).collect();
    let mut rows = Vec::with_capacity(numa.len() * numa.len());
    for from in &places {
        let row = &nodes[*from].distances;
        if row.len() != numa.len() {
            return None;
        }
        rows.extend(places.iter().map(|to| row[*to]));
    }
    Some(Distances {
        count: numa.len(),
        rows,
    })
}

/// `None` where the options are not known, or the value is none that Go's `ParseBool` reads.
fn option(options: Option<&BTreeMap<String, String>>, name: &str) -> Option<bool> {
    match options?.get(name).map(String::as_str) {
        None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Some(false),
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Some(true),
        Some(_) => None,
    }
}

/// These two ask where cores and sockets are, which is not published.
fn cpu_doubt(status: &Status, manager: Manager) -> Option<Inexact> {
    let options = status.kubelet.cpu_manager_policy_options.as_ref();
    let is_off = |name: &str| option(options, name) == Some(false);
    let is_known = manager == Manager::None
        || manager == Manager::Static
            && status.kubelet.reserved_cpus.is_some()
            && is_off("align-by-socket")
            && is_off("full-pcpus-only");
    (!is_known).then_some(Inexact::CpusUnknown)
}

fn plugins(status: &Status) -> Vec<(String, Option<Inexact>)> {
    let plugins = status.plugins.iter().map(|plugin| {
        let doubt = match plugin.owner {
            PluginOwner::Berth if !plugin.registered => Some(Inexact::PluginNotRegistered),
            PluginOwner::Berth if plugin.exact => None,
            _ => Some(Inexact::PluginNotOurs),
        };
        (plugin.resource.clone(), doubt)
    });
    plugins.collect()
}
