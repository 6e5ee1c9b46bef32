//! Allocate: what a container needs to use its devices. Pure.

use std::collections::{BTreeSet, HashMap};

use berth_placement::{Machine, place};
use berth_topology::assignment::{ALLOCATION_ENV, ContainerAssignment, Rank};
use berth_topology::claim::GpuClaim;
use berth_topology::ids::GpuUuid;
use berth_topology::node::Status;
use clap::ValueEnum;

use super::api::{CdiDevice, ContainerAllocateResponse, DeviceSpec};
use super::promises::Want;

/// What NVIDIA's container runtime reads.
const VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";
/// The class of devices in the specifications that `nvidia-ctk cdi generate` writes.
const CDI_KIND: &str = "nvidia.com/gpu";
/// How a container runtime finds CDI devices in annotations; ours begin with this.
const CDI_ANNOTATION: &str = "cdi.k8s.io/berth_";

/// How a container is told its devices. Named as NVIDIA's plugin names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceList {
    /// `NVIDIA_VISIBLE_DEVICES`, for NVIDIA's container runtime.
    Envvar,
    /// CDI names in annotations, for runtimes that read those.
    CdiAnnotations,
    /// CDI names in the kubelet's own field.
    CdiCri,
}

/// How an answer is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wording {
    /// How devices are told.
    pub lists: Vec<DeviceList>,
    /// Device files that every container with a GPU gets beside that GPU's own; `None` where device
    /// files are left to the container runtime.
    pub control_files: Option<Vec<String>>,
}

/// Ranks on exactly `devices`, in ring order. What was promised is taken word for word; anything
/// else is ordered by the wishes of who is thought to ask.
#[must_use]
pub fn ranks(
    devices: &BTreeSet<GpuUuid>,
    want: Option<&Want>,
    machine: &Machine,
) -> ContainerAssignment {
    if let Some(promise) = want.and_then(|want| want.promise.as_ref())
        && want.is_some_and(|want| want.promised() == *devices)
    {
        return promise.clone();
    }
    let set = machine.set_of(devices);
    if set.len() != devices.len() {
        return unordered(devices);
    }
    let bare = GpuClaim::of_count(devices.len());
    let wanted = want.map(|want| want.claim.clone());
    let grouped = wanted.as_ref().map(|claim| GpuClaim {
        tensor_parallel_size: claim.tensor_parallel_size,
        ..bare.clone()
    });
    let claims = [wanted, grouped, Some(bare)].into_iter().flatten();
    let mut fitting = claims.filter(|claim| claim.gpu_count == devices.len());
    let placed = fitting.find_map(|claim| place(machine, set, &claim).ok());
    placed.map_or_else(|| unordered(devices), |placed| placed.assignment())
}

/// Everything that the kubelet hands to the container runtime for those ranks.
#[must_use]
pub fn response(
    ranks: &ContainerAssignment,
    status: &Status,
    wording: &Wording,
) -> ContainerAllocateResponse {
    let uuids: Vec<&str> = ranks.gpus().map(GpuUuid::as_str).collect();
    let names: Vec<String> = uuids
        .iter()
        .map(|uuid| format!("{CDI_KIND}={uuid}"))
        .collect();
    let mut response = ContainerAllocateResponse {
        envs: HashMap::from([(ALLOCATION_ENV.to_owned(), ranks.encode())]),
        ..ContainerAllocateResponse::default()
    };
    for list in &wording.lists {
        match list {
            DeviceList::Envvar => {
                let visible = (VISIBLE_DEVICES.to_owned(), uuids.join(","));
                response.envs.extend([visible]);
            }
            DeviceList::CdiAnnotations => {
                let first = uuids.first().copied().unwrap_or_default();
                let named = (format!("{CDI_ANNOTATION}{first}"), names.join(","));
                response.annotations.extend([named]);
            }
            DeviceList::CdiCri => {
                let devices = names.iter().cloned().map(|name| CdiDevice { name });
                response.cdi_devices = devices.collect();
            }
        }
    }
    if let Some(control_files) = &wording.control_files {
        response.devices = files(ranks, status, control_files);
    }
    response
}

/// A MIG instance is opened through capability files that are not known here: only whole GPUs.
fn files(ranks: &ContainerAssignment, status: &Status, control: &[String]) -> Vec<DeviceSpec> {
    let minors = ranks.gpus().filter_map(|uuid| status.gpu(uuid)?.minor);
    let own = minors.map(|minor| format!("/dev/nvidia{minor}"));
    let spec = |path: String| DeviceSpec {
        container_path: path.clone(),
        host_path: path,
        permissions: "rw".to_owned(),
    };
    own.chain(control.iter().cloned()).map(spec).collect()
}

/// Of devices whose wiring is not known.
fn unordered(devices: &BTreeSet<GpuUuid>) -> ContainerAssignment {
    let numbered = devices.iter().enumerate();
    ContainerAssignment {
        ranks: numbered
            .map(|(rank, gpu)| Rank {
                rank,
                gpu: Some(gpu.clone()),
                ..Rank::default()
            })
            .collect(),
        ..ContainerAssignment::default()
    }
}

#[cfg(test)]
mod tests;
