//! Objects made once and used in every world: making them anew would take most of the time.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use berth_extender_core::decide::Ask;
use berth_extender_core::fixtures::{self, RESOURCE};
use berth_extender_core::index::Index;
use berth_extender_core::leader::HANDOVER;
use berth_extender_core::pod::PodRecord;
use berth_topology::gpu::HealthState;
use berth_topology::ids::{GpuIndex, PodUid};
use berth_topology::node::{NodeTopology, Status};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use crate::setting::{GPU_COUNTS, LIVES_MAX, NODES_MAX, PODS_MAX};

/// GPUs by container, and what is wished of their links. The last has an init container.
pub const CLAIMS: [Claim; 8] = [
    Claim::of(&[1]),
    Claim::of(&[2]),
    Claim::of(&[3]),
    Claim::of(&[4]),
    Claim::of(&[1, 1]),
    Claim {
        needs_nvlink: true,
        ..Claim::of(&[2])
    },
    Claim {
        needs_nvlink: true,
        ..Claim::of(&[4])
    },
    Claim {
        init_gpu_count: 2,
        ..Claim::of(&[1])
    },
];

/// Renewals of one agent's Lease that are told apart.
pub const RENEWALS_MAX: usize = 64;
/// Without a renewal for so long a node is refused, in milliseconds.
pub const STALE_AFTER_MS: u64 = 60_000;

/// What a pod asks for.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// GPUs of each container.
    pub gpu_counts: &'static [usize],
    /// GPUs of an init container, 0 without one.
    pub init_gpu_count: usize,
    /// Nothing but NVLink will do.
    pub needs_nvlink: bool,
}

/// Objects made once.
#[derive(Debug)]
pub struct Stock {
    /// The moment that all worlds begin at; what was started before it was [`HANDOVER`] earlier.
    pub epoch: Instant,
    /// An extender's index that has seen nothing.
    pub index: Index,
    /// Keeps the shapes of all machines, and what placement remembers of them, alive.
    _keeper: Index,
    /// By node: Ready or not.
    nodes: Vec<[Node; 2]>,
    /// By node and renewal.
    leases: Vec<Vec<Lease>>,
    /// By node and GPU count: each variant, see [`variant`].
    statuses: Vec<Vec<Vec<Status>>>,
    pods: Vec<StockPod>,
}

#[derive(Debug)]
struct StockPod {
    pod: Arc<Pod>,
    record: PodRecord,
    ask: Ask,
}

// === impl Claim ===

impl Claim {
    const fn of(gpu_counts: &'static [usize]) -> Self {
        Self {
            gpu_counts,
            init_gpu_count: 0,
            needs_nvlink: false,
        }
    }

    /// GPUs that its containers hold together.
    #[must_use]
    pub fn container_gpu_count(&self) -> usize {
        self.gpu_counts.iter().sum()
    }

    /// GPUs that the pod holds at once.
    #[must_use]
    pub fn gpu_count(&self) -> usize {
        self.container_gpu_count().max(self.init_gpu_count)
    }
}

// === impl Stock ===

impl Stock {
    /// The stock of this process.
    #[must_use]
    pub fn get() -> &'static Self {
        static STOCK: OnceLock<Stock> = OnceLock::new();
        STOCK.get_or_init(Self::new)
    }

    fn new() -> Self {
        // So that there is a time before it, on a machine that has just started, too.
        let epoch = Instant::now() + HANDOVER;
        let names: Vec<String> = (0..NODES_MAX).map(node_name).collect();
        let statuses: Vec<Vec<Vec<Status>>> = names.iter().map(|name| statuses_of(name)).collect();
        let mut index = Index::new(RESOURCE, Duration::from_millis(STALE_AFTER_MS), epoch);
        let keeper = keep_shapes(&mut index, &statuses[0]);
        let renewed = |name: &String| {
            (0..64)
                .map(|number| fixtures::renewed(name, number))
                .collect()
        };
        Self {
            epoch,
            index,
            _keeper: keeper,
            nodes: names
                .iter()
                .map(|name| [node(name, false), node(name, true)])
                .collect(),
            leases: names.iter().map(renewed).collect(),
            statuses,
            pods: pods(),
        }
    }

    /// A Node, Ready or not.
    #[must_use]
    pub fn node(&self, node: usize, is_ready: bool) -> &Node {
        &self.nodes[node][usize::from(is_ready)]
    }

    /// An agent's Lease after so many renewals.
    #[must_use]
    pub fn lease(&self, node: usize, renewal: usize) -> &Lease {
        &self.leases[node][renewal % RENEWALS_MAX]
    }

    /// What an agent publishes, without allocations.
    #[must_use]
    pub fn status(&self, node: usize, gpu_count: usize, variant: usize) -> &Status {
        let count = GPU_COUNTS.iter().position(|count| *count == gpu_count);
        &self.statuses[node][count.unwrap_or(0)][variant]
    }

    /// A pod as it was created.
    #[must_use]
    pub fn pod(&self, key: Key) -> &Arc<Pod> {
        &self.pods[key.position()].pod
    }

    /// What the index keeps of it.
    #[must_use]
    pub fn record(&self, key: Key) -> &PodRecord {
        &self.pods[key.position()].record
    }

    /// What it asks.
    #[must_use]
    pub fn ask(&self, key: Key) -> &Ask {
        &self.pods[key.position()].ask
    }
}

/// One pod: its number, how often it was created before, and what it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its number.
    pub number: usize,
    /// Its incarnation.
    pub life: usize,
    /// As a number of [`CLAIMS`].
    pub claim: usize,
}

// === impl Key ===

impl Key {
    fn position(self) -> usize {
        (self.number * LIVES_MAX + self.life) * CLAIMS.len() + self.claim
    }

    /// What it asks.
    #[must_use]
    pub fn claim(self) -> &'static Claim {
        &CLAIMS[self.claim]
    }

    /// Its uid.
    #[must_use]
    pub fn uid(self) -> PodUid {
        Stock::get().record(self).holder.uid.clone()
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p{}.{}", self.number, self.life)
    }
}

/// `n0`, `n1`, …
#[must_use]
pub fn node_name(node: usize) -> String {
    format!("n{node}")
}

/// Which status a machine has: its broken GPU, and whether it was renumbered.
#[must_use]
pub fn variant(failed: Option<usize>, is_renumbered: bool) -> usize {
    failed.map_or(0, |gpu| gpu + 1) * 2 + usize::from(is_renumbered)
}

fn statuses_of(name: &str) -> Vec<Vec<Status>> {
    let of_count = |gpu_count: usize| {
        let base = fixtures::status(name, u32::try_from(gpu_count).expect("GPUs are few"));
        (0..=gpu_count)
            .flat_map(|failed| [false, true].map(|is_renumbered| (failed, is_renumbered)))
            .map(|(failed, is_renumbered)| changed(&base, failed.checked_sub(1), is_renumbered))
            .collect()
    };
    GPU_COUNTS.map(of_count).into()
}

fn changed(base: &Status, failed: Option<usize>, is_renumbered: bool) -> Status {
    let mut status = base.clone();
    if let Some(gpu) = failed {
        status.gpus[gpu].health.state = HealthState::Failed;
    }
    if is_renumbered {
        status.gpus.reverse();
        for (position, gpu) in status.gpus.iter_mut().enumerate() {
            gpu.index = GpuIndex(u32::try_from(position).expect("GPUs are few"));
        }
    }
    status
}

/// Shows the index every machine once, so that it finds their shapes again, and gives back one that
/// still holds them.
fn keep_shapes(index: &mut Index, statuses: &[Vec<Status>]) -> Index {
    let objects: Vec<NodeTopology> = statuses
        .iter()
        .flatten()
        .enumerate()
        .map(|(number, status)| NodeTopology::new(&format!("keep-{number}"), status.clone()))
        .collect();
    for object in &objects {
        index.apply_topology(object);
    }
    let keeper = index.clone();
    for object in &objects {
        index.delete_topology(object.name());
    }
    let now = Instant::now();
    index.snapshot(now);
    keeper
}

fn node(name: &str, is_ready: bool) -> Node {
    let mut node = fixtures::node(name);
    let conditions = node
        .status
        .iter_mut()
        .flat_map(|status| status.conditions.iter_mut().flatten());
    for condition in conditions {
        condition.status = if is_ready { "True" } else { "False" }.to_owned();
    }
    node
}

fn pods() -> Vec<StockPod> {
    let mut pods = Vec::new();
    for number in 0..PODS_MAX {
        for life in 0..LIVES_MAX {
            pods.extend(CLAIMS.iter().map(|claim| stock_pod(number, life, claim)));
        }
    }
    pods
}

fn stock_pod(number: usize, life: usize, claim: &Claim) -> StockPod {
    let container = |name: String, gpu_count: usize| json!({"name": name, "resources": {"limits": {RESOURCE: gpu_count.to_string()}}});
    let containers = claim.gpu_counts.iter().enumerate();
    let containers: Vec<_> = containers
        .map(|(position, count)| container(format!("c{position}"), *count))
        .collect();
    let init: Vec<_> = (claim.init_gpu_count > 0)
        .then(|| container("init".to_owned(), claim.init_gpu_count))
        .into_iter()
        .collect();
    let mut annotations = serde_json::Map::new();
    if claim.needs_nvlink {
        annotations.insert(berth_topology::names::LINK.to_owned(), json!("nvlink"));
        annotations.insert(
            berth_topology::names::LINK_POLICY.to_owned(),
            json!("require"),
        );
    }
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": format!("p{number}"), "namespace": "ns",
            "uid": format!("u{number}-{life}"), "annotations": annotations},
        "spec": {"containers": containers, "initContainers": init},
        "status": {"phase": "Pending"},
    }))
    .expect("this is a pod");
    StockPod {
        record: PodRecord::read(&pod, RESOURCE).expect("it asks for GPUs"),
        ask: Ask::of_pod(&pod, RESOURCE),
        pod: Arc::new(pod),
    }
}
