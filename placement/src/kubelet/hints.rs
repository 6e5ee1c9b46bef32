//! Hints: the NUMA nodes that would do for one resource, as the kubelet's managers name them.
//!
//! A set of nodes is a hint when enough of the resource is free on it; it is preferred when no
//! smaller set could ever do, whoever holds what (`generateDeviceTopologyHints`,
//! `generateCPUTopologyHints`).

use crate::kubelet::mask::NumaMask;
use crate::set::GpuSet;

/// One set of NUMA nodes that would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    pub(crate) mask: NumaMask,
    pub(crate) is_preferred: bool,
}

/// What one manager says of one resource: one of these, and none will do when empty. A manager that
/// has no wish names none at all.
pub(crate) type Hints = Vec<Hint>;

/// Devices of one resource: where they are, and who may be given which.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Devices<'a> {
    /// NUMA node of each position; empty where the plugin does not say.
    pub(crate) nodes: &'a [NumaMask],
    /// Every device that the plugin lists, broken ones included.
    pub(crate) all: GpuSet,
    pub(crate) available: GpuSet,
    /// Of this pod's init containers.
    pub(crate) reusable: GpuSet,
}

/// CPUs of one NUMA node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct NodeCpus {
    /// Reserved and held ones included.
    pub(crate) all: usize,
    pub(crate) available: usize,
    /// Of this pod's init containers.
    pub(crate) reusable: usize,
}

/// Hints for that many of `devices`.
pub(crate) fn device_hints(devices: Devices<'_>, count: usize) -> Hints {
    if devices.available.union(devices.reusable).len() < count {
        return Hints::new();
    }
    let nodes_of = |set: GpuSet| {
        let nodes = set.iter().map(|device| devices.nodes[device]);
        nodes.fold(NumaMask::EMPTY, NumaMask::union)
    };
    let of = |set: GpuSet, mask: NumaMask| {
        let inside = |device: &usize| devices.nodes[*device].meets(mask);
        set.iter().filter(inside).count()
    };
    let reused = nodes_of(devices.reusable);
    hints(nodes_of(devices.all), |mask| Room {
        is_ever_enough: of(devices.all, mask) >= count,
        is_enough: reused.is_subset(mask)
            && of(devices.available.union(devices.reusable), mask) >= count,
    })
}

/// Hints for that many CPUs, `nodes` by NUMA position.
pub(crate) fn cpu_hints(nodes: &[NodeCpus], count: usize) -> Hints {
    let positions = nodes.iter().enumerate();
    let with_cpus = positions.clone().filter(|(_, node)| node.all > 0);
    let reused = positions.filter(|(_, node)| node.reusable > 0);
    let reused: NumaMask = reused.map(|(position, _)| position).collect();
    hints(with_cpus.map(|(position, _)| position).collect(), |mask| {
        Room {
            is_ever_enough: mask.iter().map(|node| nodes[node].all).sum::<usize>() >= count,
            is_enough: reused.is_subset(mask)
                && mask
                    .iter()
                    .map(|node| nodes[node].available + nodes[node].reusable)
                    .sum::<usize>()
                    >= count,
        }
    })
}

/// Whether a set of NUMA nodes has room.
struct Room {
    /// Were nobody else there.
    is_ever_enough: bool,
    /// Now.
    is_enough: bool,
}

fn hints(nodes: NumaMask, room: impl Fn(NumaMask) -> Room) -> Hints {
    let mut least = nodes.len();
    let mut enough = Vec::new();
    for mask in nodes.submasks() {
        let room = room(mask);
        if room.is_ever_enough {
            least = least.min(mask.len());
        }
        if room.is_enough {
            enough.push(mask);
        }
    }
    let hint = |mask: NumaMask| Hint {
        mask,
        is_preferred: mask.len() == least,
    };
    enough.into_iter().map(hint).collect()
}
