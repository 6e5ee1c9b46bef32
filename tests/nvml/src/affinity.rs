//! What is near a GPU: CPUs, memory, other GPUs.

use std::ffi::{c_uint, c_ulong};

use berth_topology::cpus::CpuList;
use berth_topology::raw::{RawGpu, RawMachine};
use nvml_wrapper_sys::bindings::{
    NVML_AFFINITY_SCOPE_NODE, NVML_AFFINITY_SCOPE_SOCKET, nvmlAffinityScope_t, nvmlDevice_t,
    nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_ATOMICS as ATOMICS,
    nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_NVLINK as NVLINK,
    nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_READ as READ,
    nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_UNKNOWN as CAPS_END,
    nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_WRITE as WRITE, nvmlGpuP2PCapsIndex_t,
    nvmlGpuP2PStatus_t, nvmlGpuTopologyLevel_t, nvmlReturn_t,
};

use crate::code::{INVALID_ARGUMENT, NOT_SUPPORTED, recorded};
use crate::exports;
use crate::machine::position;
use crate::out::Out;

exports! {
    /// CPUs of its NUMA node.
    fn nvmlDeviceGetCpuAffinity(device: nvmlDevice_t, size: c_uint, set: Out<c_ulong>) |state| {
        let cpus = recorded(&state.machine.gpu(device)?.cpu_affinity)?;
        set.fill(size, &words(cpus.iter()), 0)
    }

    /// CPUs of its NUMA node or socket.
    fn nvmlDeviceGetCpuAffinityWithinScope(
        device: nvmlDevice_t, size: c_uint, set: Out<c_ulong>, scope: nvmlAffinityScope_t,
    ) |state| {
        let gpu = state.machine.gpu(device)?;
        let cpus = match scope {
            NVML_AFFINITY_SCOPE_NODE => recorded(&gpu.cpu_affinity)?.clone(),
            NVML_AFFINITY_SCOPE_SOCKET => socket_of(&state.machine.raw, gpu)?,
            _ => return Err(INVALID_ARGUMENT),
        };
        set.fill(size, &words(cpus.iter()), 0)
    }

    /// NUMA nodes near it. Those of its socket are not recorded.
    fn nvmlDeviceGetMemoryAffinity(
        device: nvmlDevice_t, size: c_uint, set: Out<c_ulong>, scope: nvmlAffinityScope_t,
    ) |state| {
        let gpu = state.machine.gpu(device)?;
        match scope {
            NVML_AFFINITY_SCOPE_NODE => {
                let nodes = recorded(&gpu.memory_affinity)?;
                set.fill(size, &words(nodes.iter().copied()), 0)
            }
            NVML_AFFINITY_SCOPE_SOCKET => Err(NOT_SUPPORTED),
            _ => Err(INVALID_ARGUMENT),
        }
    }

    /// The NUMA node that its memory is.
    fn nvmlDeviceGetNumaNodeId(device: nvmlDevice_t, node: Out<c_uint>) |state| {
        node.put(*recorded(&state.machine.gpu(device)?.numa_node_id)?)
    }

    /// The PCIe ancestor of two GPUs.
    fn nvmlDeviceGetTopologyCommonAncestor(
        one: nvmlDevice_t, other: nvmlDevice_t, level: Out<nvmlGpuTopologyLevel_t>,
    ) |state| {
        state.machine.gpu(other)?;
        let levels = &state.machine.gpu(one)?.common_ancestors;
        level.put(*recorded(levels.get(position(other)?.0).ok_or(NOT_SUPPORTED)?)?)
    }

    /// Whether two GPUs reach each other; properties of the way over PCIe are not recorded.
    fn nvmlDeviceGetP2PStatus(
        one: nvmlDevice_t,
        other: nvmlDevice_t,
        kind: nvmlGpuP2PCapsIndex_t,
        status: Out<nvmlGpuP2PStatus_t>,
    ) |state| {
        state.machine.gpu(other)?;
        let gpu = state.machine.gpu(one)?;
        let statuses = match kind {
            READ => &gpu.p2p_read,
            WRITE => &gpu.p2p_write,
            NVLINK => &gpu.p2p_nvlink,
            ATOMICS => &gpu.p2p_atomics,
            kind if kind < CAPS_END => return Err(NOT_SUPPORTED),
            _ => return Err(INVALID_ARGUMENT),
        };
        status.put(*recorded(statuses.get(position(other)?.0).ok_or(NOT_SUPPORTED)?)?)
    }
}

/// CPUs of the packages that hold the GPU's own.
fn socket_of(machine: &RawMachine, gpu: &RawGpu) -> Result<CpuList, nvmlReturn_t> {
    let near = recorded(&gpu.cpu_affinity)?;
    let packages = machine
        .hwloc
        .value()
        .map(|hwloc| &hwloc.packages[..])
        .unwrap_or_default();
    let touched = packages
        .iter()
        .filter(|package| !package.intersection(near).is_empty());
    Ok(touched.fold(near.clone(), |cpus, package| cpus.union(package)))
}

/// A set of numbers as NVML's bit words.
fn words(numbers: impl Iterator<Item = u32>) -> Vec<c_ulong> {
    let mut words = Vec::new();
    for number in numbers {
        let (word, bit) = (number / c_ulong::BITS, number % c_ulong::BITS);
        let word = word as usize;
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        words[word] |= 1 << bit;
    }
    words
}
