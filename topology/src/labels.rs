//! Node labels for selectors, autoscalers and people.

use std::collections::BTreeMap;

use crate::link::LinkClass;
use crate::names::PREFIX;
use crate::node::Status;

/// `berth.dev/gpu-model`.
pub const GPU_MODEL: &str = "berth.dev/gpu-model";
/// `berth.dev/gpu-count`: GPUs that are usable.
pub const GPU_COUNT: &str = "berth.dev/gpu-count";
/// `berth.dev/gpu-memory-gib`: of the smallest GPU.
pub const GPU_MEMORY_GIB: &str = "berth.dev/gpu-memory-gib";
/// `berth.dev/nvlink-island`: the largest set of GPUs joined all-to-all by NVLink.
pub const NVLINK_ISLAND: &str = "berth.dev/nvlink-island";
/// `berth.dev/numa-nodes`: NUMA nodes with CPUs.
pub const NUMA_NODES: &str = "berth.dev/numa-nodes";
/// `berth.dev/fabric-clique`.
pub const FABRIC_CLIQUE: &str = "berth.dev/fabric-clique";

/// All labels that this module writes; one that is not in [`of_status`]'s answer is to be removed.
pub const ALL: [&str; 6] = [
    GPU_MODEL,
    GPU_COUNT,
    GPU_MEMORY_GIB,
    NVLINK_ISLAND,
    NUMA_NODES,
    FABRIC_CLIQUE,
];

/// The labels of a node with that topology.
#[must_use]
pub fn of_status(status: &Status) -> BTreeMap<String, String> {
    let usable = status.gpus.iter().filter(|gpu| gpu.is_usable());
    let numa_nodes = status
        .numa
        .iter()
        .filter(|numa| !numa.cpus.is_empty())
        .count();
    let mut labels = BTreeMap::from([
        (GPU_COUNT.to_owned(), usable.count().to_string()),
        (NUMA_NODES.to_owned(), numa_nodes.to_string()),
    ]);
    let optional = [
        (GPU_MODEL, gpu_model(status)),
        (GPU_MEMORY_GIB, gpu_memory_gib(status)),
        (NVLINK_ISLAND, nvlink_island(status)),
        (FABRIC_CLIQUE, fabric_clique(status)),
    ];
    for (name, value) in optional {
        labels.extend(value.map(|value| (name.to_owned(), value)));
    }
    labels
}

/// Whether a label or annotation key is Berth's.
#[must_use]
pub fn is_ours(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// A text as a label value: at most 63 letters, digits, `-`, `_`, `.`, alphanumeric at both ends.
#[must_use]
pub fn value(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mapped: String = text
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .take(63)
        .collect();
    mapped
        .trim_matches(|c: char| !c.is_ascii_alphanumeric())
        .to_owned()
}

/// Absent where GPUs differ, so that nobody selects a node for a model that half of it is.
fn gpu_model(status: &Status) -> Option<String> {
    let first = &status.gpus.first()?.model;
    let same = status.gpus.iter().all(|gpu| gpu.model == *first);
    Some(value(first)).filter(|model| same && !model.is_empty())
}

fn gpu_memory_gib(status: &Status) -> Option<String> {
    let least = status
        .gpus
        .iter()
        .filter_map(|gpu| gpu.memory_bytes)
        .min()?;
    Some((least >> 30).to_string())
}

fn fabric_clique(status: &Status) -> Option<String> {
    let first = status.gpus.first()?.fabric.as_ref()?;
    let same = status
        .gpus
        .iter()
        .all(|gpu| gpu.fabric.as_ref() == Some(first));
    same.then(|| value(&format!("{}.{}", first.cluster_uuid, first.clique_id)))
}

/// Size of the largest clique of the NVLink graph; absent on a machine without NVLink.
fn nvlink_island(status: &Status) -> Option<String> {
    let neighbours: Vec<u32> = (0..status.gpus.len().min(32))
        .map(|gpu| neighbours(status, gpu))
        .collect();
    let all = neighbours
        .iter()
        .enumerate()
        .fold(0_u32, |mask, (gpu, _)| mask | 1 << gpu);
    let size = largest_clique(&neighbours, all, 0);
    (size > 1).then(|| size.to_string())
}

fn neighbours(status: &Status, gpu: usize) -> u32 {
    let joined = |other: usize| {
        let link = status.link(&status.gpus[gpu].uuid, &status.gpus[other].uuid);
        other != gpu && link.is_some_and(|link| link.class() == LinkClass::NvLink)
    };
    (0..status.gpus.len().min(32))
        .filter(|other| joined(*other))
        .fold(0, |mask, other| mask | 1 << other)
}

/// Depth first over candidates in ascending order; at most 32 GPUs, in practice 16.
fn largest_clique(neighbours: &[u32], mut candidates: u32, size: u32) -> u32 {
    let mut best = size;
    while candidates != 0 && size + candidates.count_ones() > best {
        let gpu = candidates.trailing_zeros();
        candidates &= candidates - 1;
        best = best.max(largest_clique(
            neighbours,
            candidates & neighbours[gpu as usize],
            size + 1,
        ));
    }
    best
}
