//! A node's topology hash: equal hardware in equal state has an equal hash.
//!
//! Over what placement reads, with GPUs named by position, so that identities, PCI addresses and
//! times do not enter. Recorded in assignments, and a key for caches.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cpus::CpuList;
use crate::fnv::Fnv;
use crate::gpu::{Fabric, GpuNvLink, HealthState, Pcie};
use crate::ids::{GpuUuid, NumaId};
use crate::kubelet::Kubelet;
use crate::link::{PairNvLink, Path};
use crate::node::Status;
use crate::numa::NumaNode;

/// What enters the hash. Field order is part of its definition.
#[derive(Serialize)]
struct View<'a> {
    gpus: Vec<GpuView<'a>>,
    links: Vec<LinkView<'a>>,
    numa: &'a [NumaNode],
    nics: Vec<NicView>,
    reserved_cpus: Option<&'a CpuList>,
    topology_manager: (&'a str, &'a str),
    /// Absent where nothing of it is known, so that it changes no hash of before it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    managers: Option<Managers<'a>>,
}

/// What else of the kubelet decides where a pod's devices come from.
#[derive(Serialize)]
struct Managers<'a> {
    topology_options: Option<&'a BTreeMap<String, String>>,
    cpu_policy: &'a str,
    cpu_options: Option<&'a BTreeMap<String, String>>,
    memory_policy: Option<&'a str>,
}

/// Positions of both GPUs, their path, their NVLink.
type LinkView<'a> = (usize, usize, Path, Option<&'a PairNvLink>);

/// RDMA or not, NUMA node, path to each GPU.
type NicView = (bool, Option<NumaId>, Vec<(usize, Path)>);

#[derive(Serialize)]
struct GpuView<'a> {
    model: &'a str,
    memory_bytes: Option<u64>,
    pcie: Option<&'a Pcie>,
    numa_node: Option<NumaId>,
    cpus: Option<&'a CpuList>,
    nvlink: Option<&'a GpuNvLink>,
    health: HealthState,
    clique: Option<u32>,
    mig: Option<(&'a str, Vec<&'a str>)>,
    replicas: Option<u32>,
}

/// The hash as 16 hexadecimal digits.
#[must_use]
pub fn of_status(status: &Status) -> String {
    let text = serde_json::to_vec(&view(status)).expect("the view has only string keys");
    let mut hash = Fnv::default();
    hash.bytes(&text);
    format!("{:016x}", hash.finish())
}

fn view(status: &Status) -> View<'_> {
    let position = |uuid: &GpuUuid| {
        status
            .gpus
            .iter()
            .position(|gpu| gpu.uuid == *uuid)
            .unwrap_or(usize::MAX)
    };
    let mut links: Vec<LinkView<'_>> = Vec::new();
    for link in &status.links {
        let (a, b) = (position(&link.a), position(&link.b));
        links.push((a, b, link.path, link.nvlink.as_ref()));
    }
    links.sort_by_key(|pair| (pair.0, pair.1));
    let paths = |nic: &crate::nic::Nic| -> Vec<(usize, Path)> {
        nic.paths
            .iter()
            .map(|path| (position(&path.gpu), path.path))
            .collect()
    };
    View {
        gpus: status.gpus.iter().map(gpu_view).collect(),
        links,
        numa: &status.numa,
        nics: status
            .nics
            .iter()
            .map(|nic| (nic.rdma, nic.numa_node, paths(nic)))
            .collect(),
        reserved_cpus: status.kubelet.reserved_cpus.as_ref(),
        topology_manager: (
            &status.kubelet.topology_manager_policy,
            &status.kubelet.topology_manager_scope,
        ),
        managers: managers(&status.kubelet),
    }
}

fn managers(kubelet: &Kubelet) -> Option<Managers<'_>> {
    let is_known = kubelet.topology_manager_policy_options.is_some()
        || kubelet.cpu_manager_policy_options.is_some()
        || kubelet.memory_manager_policy.is_some()
        || !matches!(kubelet.cpu_manager_policy.as_str(), "" | "unknown");
    is_known.then(|| Managers {
        topology_options: kubelet.topology_manager_policy_options.as_ref(),
        cpu_policy: &kubelet.cpu_manager_policy,
        cpu_options: kubelet.cpu_manager_policy_options.as_ref(),
        memory_policy: kubelet.memory_manager_policy.as_deref(),
    })
}

fn gpu_view(gpu: &crate::gpu::Gpu) -> GpuView<'_> {
    GpuView {
        model: &gpu.model,
        memory_bytes: gpu.memory_bytes,
        pcie: gpu.pcie.as_ref(),
        numa_node: gpu.numa_node,
        cpus: gpu.cpus.as_ref(),
        nvlink: gpu.nvlink.as_ref(),
        health: gpu.health.state,
        clique: gpu.fabric.as_ref().map(|fabric: &Fabric| fabric.clique_id),
        mig: gpu
            .mig
            .as_ref()
            .filter(|mig| !mig.instances.is_empty() || mig.mode != "disabled")
            .map(|mig| {
                (
                    mig.mode.as_str(),
                    mig.instances
                        .iter()
                        .map(|one| one.profile.as_str())
                        .collect(),
                )
            }),
        replicas: gpu.sharing.as_ref().map(|sharing| sharing.replicas),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Gpu;
    use crate::link::Link;

    fn pair(first: &str, second: &str, lanes: u32) -> Status {
        let gpu = |uuid: &str| Gpu {
            uuid: uuid.into(),
            model: "V100".to_owned(),
            ..Gpu::default()
        };
        let nvlink = PairNvLink {
            lanes,
            lanes_expected: 2,
            gb_per_second: 50.0,
            via: crate::link::Via::Direct,
        };
        Status {
            gpus: vec![gpu(first), gpu(second)],
            links: vec![Link {
                a: first.into(),
                b: second.into(),
                path: Path::Switch,
                nvlink: Some(nvlink),
            }],
            ..Status::default()
        }
    }

    #[test]
    fn equal_hardware_with_other_identities_has_an_equal_hash() {
        assert_eq!(
            of_status(&pair("GPU-a", "GPU-b", 2)),
            of_status(&pair("GPU-y", "GPU-x", 2))
        );
    }

    #[test]
    fn a_lost_lane_changes_the_hash() {
        assert_ne!(
            of_status(&pair("GPU-a", "GPU-b", 2)),
            of_status(&pair("GPU-a", "GPU-b", 1))
        );
    }

    #[test]
    fn the_time_of_a_reading_does_not_enter() {
        let mut later = pair("GPU-a", "GPU-b", 2);
        later.observed_at = Some("2026-01-01T00:00:00Z".to_owned());
        assert_eq!(of_status(&later), of_status(&pair("GPU-a", "GPU-b", 2)));
    }
}
