//! What the status says of each GPU and pair, read once more.

use std::collections::BTreeSet;

use berth_topology::ids::NumaId;
use berth_topology::link::Path;
use berth_topology::node::Status;

/// What is stated of the pair; of several statements the worst.
fn stated(
    status: &Status,
    a: usize,
    b: usize,
    read: impl Fn(&berth_topology::link::Link) -> u64,
) -> u64 {
    let ends = [&status.gpus[a].uuid, &status.gpus[b].uuid];
    let is_of = |link: &&berth_topology::link::Link| {
        [&link.a, &link.b] == ends || [&link.b, &link.a] == ends
    };
    status
        .links
        .iter()
        .filter(is_of)
        .map(read)
        .min()
        .unwrap_or(0)
}

pub(super) fn ancestor(status: &Status, a: usize, b: usize) -> u64 {
    stated(status, a, b, |link| rank(link.path))
}

fn rank(path: Path) -> u64 {
    use Path::{Board, HostBridge, Node, Switch, Switches, System, Unknown};
    let worst_first = [Unknown, System, Node, HostBridge, Switches, Switch, Board];
    worst_first.iter().position(|other| *other == path).unwrap() as u64
}

/// In 10⁶ bytes a second. The machines of these tests have whole ones.
pub(super) fn stated_nvlink(status: &Status, a: usize, b: usize) -> u64 {
    let nvlink = |link: &berth_topology::link::Link| {
        let lanes = link.nvlink.as_ref().filter(|nvlink| nvlink.lanes > 0);
        lanes.map_or(0, |nvlink| mb(nvlink.gb_per_second))
    };
    stated(status, a, b, nvlink)
}

pub(super) fn budget(status: &Status, gpu: usize, pairs: &[u64]) -> u64 {
    match &status.gpus[gpu].nvlink {
        Some(nvlink) if nvlink.lanes == 0 => 0,
        Some(nvlink) => mb(nvlink.gb_per_second),
        None => pairs.iter().sum(),
    }
}

pub(super) fn lanes(status: &Status, gpu: usize) -> u64 {
    let pcie = status.gpus[gpu].pcie.clone().unwrap_or_default();
    (pcie.generation.unwrap_or(0) * pcie.width.unwrap_or(0)).into()
}

pub(super) fn nic(status: &Status, gpu: usize) -> u64 {
    let cards = status.nics.iter().filter(|nic| nic.rdma);
    let paths = cards.flat_map(|nic| &nic.paths);
    let to_gpu = paths.filter(|path| path.gpu == status.gpus[gpu].uuid);
    to_gpu.map(|path| rank(path.path)).max().unwrap_or(0)
}

/// The lowest NUMA node of the socket: the nodes at the least distance of all, where those are
/// clean groups and there are greater distances.
pub(super) fn socket(status: &Status, node: Option<NumaId>) -> Option<NumaId> {
    let node = node?;
    let place = |id: NumaId| status.numa.iter().position(|other| other.id == id);
    let cpus: Vec<usize> = (0..status.numa.len())
        .filter(|at| !status.numa[*at].cpus.is_empty())
        .collect();
    let one_way = |a: usize, b: usize| status.numa[a].distances.get(b).copied();
    let distance = |a: usize, b: usize| Some(one_way(a, b)?.max(one_way(b, a)?));
    let pairs = || {
        cpus.iter()
            .flat_map(|a| cpus.iter().map(move |b| (*a, *b)))
            .filter(|(a, b)| a != b)
    };
    let distances: Option<BTreeSet<u32>> = pairs().map(|(a, b)| distance(a, b)).collect();
    let Some((Some(here), distances)) = distances.map(|distances| (place(node), distances)) else {
        return Some(node);
    };
    let near = |a: usize, b: usize| a == b || distance(a, b) == distances.first().copied();
    let is_clean =
        pairs().all(|(a, b)| !near(a, b) || cpus.iter().all(|c| near(a, *c) == near(b, *c)));
    if distances.len() < 2 || !is_clean || !cpus.contains(&here) {
        return Some(node);
    }
    cpus.iter()
        .filter(|other| near(here, **other))
        .map(|other| status.numa[*other].id)
        .min()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small whole numbers"
)]
fn mb(gb: f64) -> u64 {
    (gb * 1_000.0).round() as u64
}
