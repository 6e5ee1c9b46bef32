//! What placement reads of a machine, by position, and what it derives from that once.
//!
//! Holds no identities: machines of equal hardware share one shape, and with it every answer.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use berth_topology::cpus::CpuList;
use berth_topology::gpu::Gpu;
use berth_topology::ids::{GpuIndex, GpuUuid, NumaId};
use berth_topology::link::{Link, LinkClass, Path};
use berth_topology::nic::Nic;
use berth_topology::node::Status;

use crate::future::{self, Future};
use crate::memo::Memo;
use crate::mix::Mix;
use crate::quality::{Bandwidth, bandwidth_if};
use crate::ring::{Edge, Edges};
use crate::search;
use crate::set::{GPUS_MAX, GpuSet};
use crate::socket::Sockets;

/// Machines up to this many GPUs have the bandwidth of every set computed beforehand: 256 of them.
const TABLE_GPUS_MAX: usize = 8;

/// A machine's hardware, ready to be searched. Immutable; caches inside only save time.
#[derive(Debug)]
pub struct Shape {
    pub(crate) facts: Arc<Facts>,
    pub(crate) edges: Edges,
    /// Healthy enough, whole and not shared.
    pub(crate) usable: GpuSet,
    /// Shared or partitioned.
    pub(crate) shared: GpuSet,
    /// For each GPU those of its NUMA node, itself included; only itself when unknown.
    pub(crate) same_numa: Vec<GpuSet>,
    /// For each GPU those that can be swapped with it without changing anything, itself included.
    pub(crate) twins: Vec<GpuSet>,
    /// As `twins`, for who needs every set: each GPU itself.
    pub(crate) alone: Vec<GpuSet>,
    pub(crate) memo: Memo,
    /// What is expected to be asked for next.
    mix: Mix,
    future: OnceLock<Future>,
    /// GPUs of each NUMA node, and of an unknown one.
    by_numa: Vec<GpuSet>,
    /// GPUs of each socket, and of an unknown one.
    by_socket: Vec<GpuSet>,
    /// By set, for small machines; else empty.
    table: Vec<Bandwidth>,
    /// By group size - 1, then by group count - 1.
    best: Vec<Vec<OnceLock<Option<Bandwidth>>>>,
}

/// Hardware by position, without identities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Facts {
    pub(crate) gpus: Vec<GpuFacts>,
    pub(crate) numa: Vec<NumaFacts>,
    /// Row-major, one for each two positions.
    pairs: Vec<Pair>,
    /// For each GPU those with NVLink to it.
    nvlinked: Vec<GpuSet>,
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct GpuFacts {
    pub(crate) index: GpuIndex,
    pub(crate) model: String,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) numa: Option<NumaId>,
    /// The lowest NUMA node of its socket.
    pub(crate) socket: Option<NumaId>,
    /// Local CPUs less those that the kubelet reserves.
    pub(crate) cpus: Option<CpuList>,
    /// PCIe generation × width, 0 when unknown.
    pub(crate) pcie_lanes: u32,
    /// NVLink budget in 10⁶ bytes a second.
    pub(crate) nvlink_mb: u32,
    /// Rank of the ancestor with the nearest RDMA card, 0 without one.
    pub(crate) nic_rank: u8,
    is_usable: bool,
    is_shared: bool,
}

/// One NUMA node with CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NumaFacts {
    pub(crate) id: NumaId,
    /// Less those that the kubelet reserves.
    pub(crate) cpus: CpuList,
}

/// Two GPUs. The default is what is assumed of a pair that is not listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Pair {
    /// As [`Bandwidth::Pcie::ancestor_rank`].
    pub(crate) ancestor_rank: u8,
    /// NVLink between the two in 10⁶ bytes a second, 0 without.
    pub(crate) nvlink_mb: u32,
}

// === impl Shape ===

impl Shape {
    pub(crate) fn new(facts: Arc<Facts>, mix: Mix) -> Self {
        let positions = |is: fn(&GpuFacts) -> bool| -> GpuSet {
            let matching = facts.gpus.iter().enumerate().filter(|(_, gpu)| is(gpu));
            matching.map(|(position, _)| position).collect()
        };
        let count = facts.gpus.len();
        let edges = Edges::new(&facts);
        Self {
            usable: positions(|gpu| gpu.is_usable && !gpu.is_shared),
            shared: positions(|gpu| gpu.is_usable && gpu.is_shared),
            same_numa: (0..count)
                .map(|position| facts.same_numa(position))
                .collect(),
            by_numa: facts.grouped_by(|gpu| gpu.numa),
            by_socket: facts.grouped_by(|gpu| gpu.socket),
            twins: (0..count).map(|position| facts.twins(position)).collect(),
            alone: (0..count)
                .map(|position| GpuSet::EMPTY.with(position))
                .collect(),
            mix,
            future: OnceLock::new(),
            memo: Memo::default(),
            table: table(&facts, &edges),
            edges,
            best: (1..=count)
                .map(|size| vec![OnceLock::new(); count / size])
                .collect(),
            facts,
        }
    }

    pub(crate) fn bandwidth(&self, set: GpuSet) -> Bandwidth {
        let bandwidth = self.bandwidth_if(set, &|_| true);
        bandwidth.expect("any bandwidth is enough")
    }

    /// What `set` has, where that `is_enough`; see [`bandwidth_if`].
    pub(crate) fn bandwidth_if(
        &self,
        set: GpuSet,
        is_enough: &impl Fn(Bandwidth) -> bool,
    ) -> Option<Bandwidth> {
        let bits = usize::try_from(set.bits()).ok();
        match bits.and_then(|bits| self.table.get(bits)) {
            Some(listed) => Some(*listed).filter(|bandwidth| is_enough(*bandwidth)),
            None => bandwidth_if(&self.facts, &self.edges, set, is_enough),
        }
    }

    /// NUMA nodes that `set` spans; GPUs of an unknown one count as one more.
    pub(crate) fn numa_count(&self, set: GpuSet) -> usize {
        self.by_numa
            .iter()
            .filter(|of_node| of_node.meets(set))
            .count()
    }

    /// Sockets that `set` spans; GPUs of an unknown one count as one more.
    pub(crate) fn socket_count(&self, set: GpuSet) -> usize {
        self.by_socket
            .iter()
            .filter(|of_socket| of_socket.meets(set))
            .count()
    }

    /// The lowest set that becomes `set` when twins are swapped, whether they are in it or not.
    pub(crate) fn lowest_alike(&self, set: GpuSet) -> GpuSet {
        let mut lowest = GpuSet::EMPTY;
        let mut left = GpuSet::first(self.facts.gpus.len());
        while let Some(gpu) = left.lowest() {
            let twins = self.twins[gpu];
            left = left.difference(twins);
            let count = twins.intersection(set).len();
            lowest = lowest.union(twins.iter().take(count).collect());
        }
        lowest
    }

    /// Usable GPUs of each NUMA node.
    pub(crate) fn usable_by_numa(&self) -> Vec<usize> {
        self.by_numa
            .iter()
            .map(|of_node| of_node.intersection(self.usable).len())
            .collect()
    }

    /// What is possible with the usable GPUs of `free`, which are some of `around`: weight ×
    /// thousandths, summed over the mix.
    pub(crate) fn worth(&self, free: GpuSet, around: GpuSet) -> u64 {
        let future = self.future.get_or_init(|| Future::new(self, &self.mix));
        future.worth(
            self,
            free.intersection(self.usable),
            around.intersection(self.usable),
        )
    }

    /// 0..=10: what stays possible in `free` without `taken`, in tenths of what was.
    pub(crate) fn future(&self, free: GpuSet, taken: GpuSet) -> u8 {
        let before = self.worth(free, free);
        future::tenths(self.worth(free.difference(taken), free), before)
    }

    /// What is expected to be asked for next.
    pub(crate) fn mix(&self) -> &Mix {
        &self.mix
    }

    /// GPUs of `free` that are in whole groups of that size, each group on one NUMA node where some
    /// node has room for one.
    pub(crate) fn in_groups(&self, free: GpuSet, size: usize) -> usize {
        let whole = |count: usize| count - count % size;
        let fits = |node: &&GpuSet| node.intersection(self.usable).len() >= size;
        if self.by_numa.iter().any(|node| fits(&node)) {
            let nodes = self.by_numa.iter();
            nodes.map(|node| whole(node.intersection(free).len())).sum()
        } else {
            whole(free.len())
        }
    }

    /// What the worst of that many groups has at best when every usable GPU is free.
    pub(crate) fn best(&self, group_size: usize, group_count: usize) -> Option<Bandwidth> {
        let cell = self
            .best
            .get(group_size.checked_sub(1)?)?
            .get(group_count.checked_sub(1)?)?;
        *cell.get_or_init(|| search::best_bandwidth(self, group_size, group_count))
    }

    /// GPUs whose link to `position` is at least of that class, itself included.
    pub(crate) fn linked(&self, position: usize, class: LinkClass) -> GpuSet {
        let count = self.facts.gpus.len();
        let linked = |other: &usize| {
            *other == position || self.facts.pair(position, *other).class() >= class
        };
        (0..count).filter(linked).collect()
    }
}

fn table(facts: &Facts, edges: &Edges) -> Vec<Bandwidth> {
    if facts.gpus.len() > TABLE_GPUS_MAX {
        return Vec::new();
    }
    (0..1_u64 << facts.gpus.len())
        .filter_map(|bits| bandwidth_if(facts, edges, GpuSet::from_bits(bits), &|_| true))
        .collect()
}

// === impl Facts ===

impl Facts {
    /// Reads a status; `uuids` gives each position its GPU.
    pub(crate) fn read(status: &Status, uuids: &[GpuUuid]) -> Self {
        let by_uuid: BTreeMap<&GpuUuid, usize> = uuids
            .iter()
            .enumerate()
            .map(|(position, uuid)| (uuid, position))
            .collect();
        let sockets = Sockets::read(&status.numa);
        let mut facts = Self {
            gpus: uuids
                .iter()
                .filter_map(|uuid| status.gpu(uuid))
                .map(|gpu| gpu_facts(status, &sockets, gpu))
                .collect(),
            numa: numa_facts(status),
            pairs: pairs(&status.links, &by_uuid),
            nvlinked: Vec::new(),
        };
        for (position, uuid) in uuids.iter().enumerate() {
            facts.gpus[position].nvlink_mb = facts.budget(position, status.gpu(uuid));
        }
        facts.without_budgetless_nvlinks()
    }

    /// A GPU that says it has no NVLink lanes is in no NVLink pair, whatever the pair says.
    fn without_budgetless_nvlinks(mut self) -> Self {
        let count = self.gpus.len();
        for (cell, pair) in self.pairs.iter_mut().enumerate() {
            let (a, b) = (&self.gpus[cell / count], &self.gpus[cell % count]);
            if a.nvlink_mb == 0 || b.nvlink_mb == 0 {
                pair.nvlink_mb = 0;
            }
        }
        let joined = |a: usize| (0..count).filter(move |b| *b != a);
        let nvlinked = |a: usize| {
            joined(a)
                .filter(|b| self.pair(a, *b).nvlink_mb > 0)
                .collect()
        };
        self.nvlinked = (0..count).map(nvlinked).collect();
        self
    }

    /// What the edge between the two is worth to a ring.
    pub(crate) fn edge(&self, a: usize, b: usize) -> Edge {
        let pair = self.pair(a, b);
        let lanes = self.gpus[a].pcie_lanes.min(self.gpus[b].pcie_lanes);
        if pair.nvlink_mb > 0 {
            (pair.nvlink_mb, 0, 0)
        } else {
            (0, pair.ancestor_rank, lanes)
        }
    }

    /// GPUs that have NVLink to the one at `position`.
    pub(crate) fn nvlinked(&self, position: usize) -> GpuSet {
        self.nvlinked[position]
    }

    pub(crate) fn pair(&self, a: usize, b: usize) -> Pair {
        self.pairs[a * self.gpus.len() + b]
    }

    /// The GPU's own figure; else what its pairs need if each had lanes of its own.
    fn budget(&self, position: usize, gpu: Option<&Gpu>) -> u32 {
        match gpu.and_then(|gpu| gpu.nvlink.as_ref()) {
            Some(nvlink) if nvlink.lanes > 0 => mb_per_second(nvlink.gb_per_second),
            Some(_) => 0,
            None => {
                let peers = (0..self.gpus.len()).map(|peer| self.pair(position, peer).nvlink_mb);
                peers.fold(0, u32::saturating_add)
            }
        }
    }

    fn same_numa(&self, position: usize) -> GpuSet {
        let Some(node) = self.gpus[position].numa else {
            return GpuSet::EMPTY.with(position);
        };
        (0..self.gpus.len())
            .filter(|other| self.gpus[*other].numa == Some(node))
            .collect()
    }

    /// GPUs of each place, and of an unknown one.
    fn grouped_by(&self, place: fn(&GpuFacts) -> Option<NumaId>) -> Vec<GpuSet> {
        let mut groups: BTreeMap<Option<NumaId>, GpuSet> = BTreeMap::new();
        for (position, gpu) in self.gpus.iter().enumerate() {
            let group = groups.entry(place(gpu)).or_default();
            *group = group.with(position);
        }
        groups.into_values().collect()
    }

    fn twins(&self, position: usize) -> GpuSet {
        (0..self.gpus.len())
            .filter(|other| self.are_twins(position, *other))
            .collect()
    }

    /// Whether nothing that sets are compared by changes when the two are swapped.
    fn are_twins(&self, a: usize, b: usize) -> bool {
        let others = || (0..self.gpus.len()).filter(|other| *other != a && *other != b);
        self.gpus[a].is_alike(&self.gpus[b])
            && others().all(|other| self.pair(a, other).is_alike(self.pair(b, other)))
    }
}

// === impl GpuFacts ===

impl GpuFacts {
    fn is_alike(&self, other: &Self) -> bool {
        let read = |gpu: &Self| {
            (
                gpu.numa,
                gpu.socket,
                gpu.pcie_lanes,
                gpu.nvlink_mb,
                gpu.nic_rank,
            )
        };
        read(self) == read(other)
    }
}

// === impl Pair ===

impl Pair {
    /// Whether nothing tells them apart: beside NVLink the path is no matter.
    fn is_alike(self, other: Self) -> bool {
        self.nvlink_mb == other.nvlink_mb
            && (self.nvlink_mb > 0 || self.ancestor_rank == other.ancestor_rank)
    }

    pub(crate) fn class(self) -> LinkClass {
        match self.ancestor_rank {
            _ if self.nvlink_mb > 0 => LinkClass::NvLink,
            4.. => LinkClass::Switch,
            2..=3 => LinkClass::Numa,
            0..=1 => LinkClass::Any,
        }
    }

    fn read(link: &Link) -> Self {
        let nvlink = link.nvlink.as_ref().filter(|nvlink| nvlink.lanes > 0);
        Self {
            ancestor_rank: rank(link.path),
            nvlink_mb: nvlink.map_or(0, |nvlink| mb_per_second(nvlink.gb_per_second)),
        }
    }

    /// Two statements about one pair: the worse of each counts.
    fn worse(self, other: Self) -> Self {
        Self {
            ancestor_rank: self.ancestor_rank.min(other.ancestor_rank),
            nvlink_mb: self.nvlink_mb.min(other.nvlink_mb),
        }
    }
}

/// The identities of a status in position order: by index, the first of equal ones, up to the limit.
pub(crate) fn positions(status: &Status) -> Vec<GpuUuid> {
    let mut gpus: Vec<_> = status
        .gpus
        .iter()
        .map(|gpu| (gpu.index, &gpu.uuid))
        .collect();
    gpus.sort();
    let mut seen = std::collections::BTreeSet::new();
    gpus.retain(|(_, uuid)| seen.insert(*uuid));
    gpus.into_iter()
        .take(GPUS_MAX)
        .map(|(_, uuid)| uuid.clone())
        .collect()
}

fn gpu_facts(status: &Status, sockets: &Sockets, gpu: &Gpu) -> GpuFacts {
    let pcie = gpu
        .pcie
        .as_ref()
        .and_then(|pcie| Some(pcie.generation?.saturating_mul(pcie.width?)));
    GpuFacts {
        index: gpu.index,
        model: gpu.model.clone(),
        memory_bytes: gpu.memory_bytes,
        numa: gpu.numa_node,
        socket: gpu.numa_node.map(|node| sockets.of(node)),
        cpus: local_cpus(status, gpu).map(|cpus| unreserved(status, cpus)),
        pcie_lanes: pcie.unwrap_or_default(),
        nvlink_mb: 0,
        nic_rank: nic_rank(&status.nics, &gpu.uuid),
        is_usable: gpu.is_usable(),
        is_shared: is_shared(gpu),
    }
}

fn is_shared(gpu: &Gpu) -> bool {
    let is_sliced = gpu
        .sharing
        .as_ref()
        .is_some_and(|sharing| sharing.replicas > 1);
    is_sliced
        || gpu
            .mig
            .as_ref()
            .is_some_and(|mig| mig.mode == "enabled" || !mig.instances.is_empty())
}

fn local_cpus<'a>(status: &'a Status, gpu: &'a Gpu) -> Option<&'a CpuList> {
    let of_node = || {
        let node = status
            .numa
            .iter()
            .find(|node| Some(node.id) == gpu.numa_node)?;
        Some(&node.cpus).filter(|cpus| !cpus.is_empty())
    };
    gpu.cpus.as_ref().or_else(of_node)
}

fn unreserved(status: &Status, cpus: &CpuList) -> CpuList {
    match &status.kubelet.reserved_cpus {
        Some(reserved) => cpus.difference(reserved),
        None => cpus.clone(),
    }
}

fn numa_facts(status: &Status) -> Vec<NumaFacts> {
    let mut numa: Vec<_> = status
        .numa
        .iter()
        .map(|node| NumaFacts {
            id: node.id,
            cpus: unreserved(status, &node.cpus),
        })
        .filter(|node| !node.cpus.is_empty())
        .collect();
    numa.sort_by_key(|node| node.id);
    numa.dedup_by_key(|node| node.id);
    numa
}

fn nic_rank(nics: &[Nic], uuid: &GpuUuid) -> u8 {
    let paths = nics
        .iter()
        .filter(|nic| nic.rdma)
        .flat_map(|nic| &nic.paths);
    paths
        .filter(|path| path.gpu == *uuid)
        .map(|path| rank(path.path))
        .max()
        .unwrap_or_default()
}

fn pairs(links: &[Link], by_uuid: &BTreeMap<&GpuUuid, usize>) -> Vec<Pair> {
    let count = by_uuid.len();
    let mut listed: Vec<Option<Pair>> = vec![None; count * count];
    for link in links {
        let (Some(&a), Some(&b)) = (by_uuid.get(&link.a), by_uuid.get(&link.b)) else {
            continue;
        };
        let pair = Pair::read(link);
        for cell in [a * count + b, b * count + a] {
            listed[cell] = Some(listed[cell].map_or(pair, |before| before.worse(pair)));
        }
    }
    for position in 0..count {
        listed[position * count + position] = None;
    }
    listed.into_iter().map(Option::unwrap_or_default).collect()
}

fn rank(path: Path) -> u8 {
    match path {
        Path::Board => 6,
        Path::Switch => 5,
        Path::Switches => 4,
        Path::HostBridge => 3,
        Path::Node => 2,
        Path::System => 1,
        Path::Unknown => 0,
    }
}

/// Whole 10⁶ bytes a second, so that sums and comparisons are exact; 0 for what is no speed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped before"
)]
fn mb_per_second(gb_per_second: f64) -> u32 {
    let rounded = (gb_per_second * 1_000.0).round();
    if rounded.is_nan() {
        0
    } else {
        rounded.clamp(0.0, f64::from(u32::MAX)) as u32
    }
}
