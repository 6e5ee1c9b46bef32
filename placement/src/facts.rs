//! What placement reads of a machine, by position.
//!
//! Holds no identities: machines of equal hardware have equal facts.

mod read;

use std::collections::BTreeMap;

use berth_topology::cpus::CpuList;
use berth_topology::ids::{GpuIndex, NumaId};
use berth_topology::link::LinkClass;

use crate::ring::Edge;
use crate::set::GpuSet;

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

/// One GPU, or one MIG instance.
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
    pub(crate) is_usable: bool,
    pub(crate) is_shared: bool,
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
    /// As [`crate::Bandwidth::Pcie`] ranks them.
    pub(crate) ancestor_rank: u8,
    /// NVLink between the two in 10⁶ bytes a second, 0 without.
    pub(crate) nvlink_mb: u32,
}

// === impl Facts ===

impl Facts {
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

    pub(crate) fn same_numa(&self, position: usize) -> GpuSet {
        let Some(node) = self.gpus[position].numa else {
            return GpuSet::EMPTY.with(position);
        };
        (0..self.gpus.len())
            .filter(|other| self.gpus[*other].numa == Some(node))
            .collect()
    }

    /// GPUs of each place, and of an unknown one.
    pub(crate) fn grouped_by(&self, place: fn(&GpuFacts) -> Option<NumaId>) -> Vec<GpuSet> {
        let mut groups: BTreeMap<Option<NumaId>, GpuSet> = BTreeMap::new();
        for (position, gpu) in self.gpus.iter().enumerate() {
            let group = groups.entry(place(gpu)).or_default();
            *group = group.with(position);
        }
        groups.into_values().collect()
    }

    pub(crate) fn twins(&self, position: usize) -> GpuSet {
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
}
