//! Facts out of a status. What is unknown counts as the worst.

use std::collections::BTreeMap;

use berth_topology::cpus::CpuList;
use berth_topology::gpu::Gpu;
use berth_topology::ids::GpuUuid;
use berth_topology::link::{Link, Path};
use berth_topology::nic::Nic;
use berth_topology::node::Status;

use super::{Facts, GpuFacts, NumaFacts, Pair};
use crate::socket::Sockets;
use crate::units::Unit;

/// Rank of a host bridge: MIG instances reach each other through the host at best, those of one GPU
/// too.
const INSTANCES_RANK: u8 = 3;

// === impl Facts ===

impl Facts {
    /// Reads a status; `units` gives each position its GPU or instance.
    pub(crate) fn read(status: &Status, units: &[Unit<'_>]) -> Self {
        let sockets = Sockets::read(&status.numa);
        let gpus = units.iter().map(|unit| gpu_facts(status, &sockets, unit));
        let mut facts = Self {
            gpus: gpus.collect(),
            numa: numa_facts(status),
            pairs: pairs(&status.links, units),
            nvlinked: Vec::new(),
        };
        for (position, unit) in units.iter().enumerate() {
            facts.gpus[position].nvlink_mb = facts.budget(position, unit.gpu);
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

    /// The GPU's own figure; else what its pairs need if each had lanes of its own.
    fn budget(&self, position: usize, gpu: &Gpu) -> u32 {
        match &gpu.nvlink {
            Some(nvlink) if nvlink.lanes > 0 => mb_per_second(nvlink.gb_per_second),
            Some(_) => 0,
            None => {
                let peers = (0..self.gpus.len()).map(|peer| self.pair(position, peer).nvlink_mb);
                peers.fold(0, u32::saturating_add)
            }
        }
    }
}

// === impl Pair ===

impl Pair {
    fn read(link: &Link) -> Self {
        let nvlink = link.nvlink.as_ref().filter(|nvlink| nvlink.lanes > 0);
        Self {
            ancestor_rank: rank(link.path),
            nvlink_mb: nvlink.map_or(0, |nvlink| mb_per_second(nvlink.gb_per_second)),
        }
    }

    /// What is left of it between instances, which have no NVLink and no PCIe of their own.
    fn of_instances(self) -> Self {
        Self {
            ancestor_rank: self.ancestor_rank.min(INSTANCES_RANK),
            nvlink_mb: 0,
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

fn gpu_facts(status: &Status, sockets: &Sockets, unit: &Unit<'_>) -> GpuFacts {
    let gpu = unit.gpu;
    let pcie = gpu
        .pcie
        .as_ref()
        .and_then(|pcie| Some(pcie.generation?.saturating_mul(pcie.width?)));
    GpuFacts {
        index: gpu.index,
        model: gpu.model.clone(),
        memory_bytes: match unit.instance {
            // An agent that could not read it says 0.
            Some(instance) => Some(instance.memory_bytes).filter(|memory| *memory > 0),
            None => gpu.memory_bytes,
        },
        numa: gpu.numa_node,
        socket: gpu.numa_node.map(|node| sockets.of(node)),
        cpus: local_cpus(status, gpu).map(|cpus| unreserved(status, cpus)),
        pcie_lanes: pcie.unwrap_or_default(),
        nvlink_mb: 0,
        nic_rank: nic_rank(&status.nics, &gpu.uuid),
        is_usable: gpu.is_usable(),
        is_shared: is_sliced(gpu) || (unit.instance.is_none() && is_partitioned(gpu)),
    }
}

fn is_sliced(gpu: &Gpu) -> bool {
    let sharing = gpu.sharing.as_ref();
    sharing.is_some_and(|sharing| sharing.replicas > 1)
}

fn is_partitioned(gpu: &Gpu) -> bool {
    let mig = gpu.mig.as_ref();
    mig.is_some_and(|mig| mig.mode == "enabled" || !mig.instances.is_empty())
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

fn pairs(links: &[Link], units: &[Unit<'_>]) -> Vec<Pair> {
    let count = units.len();
    let mut of_gpu: BTreeMap<&GpuUuid, Vec<usize>> = BTreeMap::new();
    for (position, unit) in units.iter().enumerate() {
        of_gpu.entry(&unit.gpu.uuid).or_default().push(position);
    }
    let on = |gpu: &GpuUuid| of_gpu.get(gpu).map_or(&[][..], Vec::as_slice);
    let mut stated: Vec<Option<Pair>> = vec![None; count * count];
    for link in links {
        let pair = Pair::read(link);
        for (a, b) in on(&link.a)
            .iter()
            .flat_map(|a| on(&link.b).iter().map(move |b| (*a, *b)))
        {
            for cell in [a * count + b, b * count + a] {
                stated[cell] = Some(stated[cell].map_or(pair, |before| before.worse(pair)));
            }
        }
    }
    let of_cell = |(cell, stated): (usize, Option<Pair>)| {
        let (a, b) = (&units[cell / count], &units[cell % count]);
        match stated {
            _ if cell / count == cell % count => Pair::default(),
            _ if a.instance.is_none() => stated.unwrap_or_default(),
            _ if a.gpu.uuid == b.gpu.uuid => Pair {
                ancestor_rank: INSTANCES_RANK,
                nvlink_mb: 0,
            },
            _ => stated.unwrap_or_default().of_instances(),
        }
    };
    stated.into_iter().enumerate().map(of_cell).collect()
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
