//! What the kubelet looks at, besides the GPUs, when it admits a pod: who starts when, and which
//! CPUs and other devices come with the GPUs.
//!
//! The kubelet's CPU, memory and device managers each name NUMA nodes that would do, and its
//! topology manager takes those on which they agree: so the GPUs of a pod depend on its CPUs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use crate::quantity;

/// What a pod needs besides GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodNeeds {
    /// Every container, in the order in which the kubelet admits them: init containers and sidecars
    /// as listed, then the others.
    pub containers: Vec<ContainerNeeds>,
    /// QoS class Guaranteed: only then are CPUs and memory given exclusively.
    pub is_guaranteed: bool,
    /// Asks for resources as a pod (`spec.resources`), which an alpha gate gives another meaning.
    pub has_pod_resources: bool,
}

/// What one container needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerNeeds {
    /// The container's name.
    pub name: String,
    /// When it runs.
    pub phase: Phase,
    /// Devices of the resource.
    pub gpu_count: usize,
    /// Names the resource, be it with 0: the kubelet then wants one NUMA node for nothing.
    pub names_gpus: bool,
    /// CPUs that a `static` CPU manager gives to it alone: its request where that is whole and the
    /// pod is Guaranteed, else 0.
    pub cpu_count: usize,
    /// Asks for another extended resource, whose devices have NUMA nodes of their own.
    pub has_other_devices: bool,
}

/// When a container runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Before the others, one after the other; what it held is used again.
    Init,
    /// From its place among the init containers until the pod ends.
    Sidecar,
    /// After all of them.
    #[default]
    Main,
}

// === impl PodNeeds ===

impl PodNeeds {
    pub(super) fn of_pod(pod: &Pod, resource: &str) -> Self {
        let Some(spec) = &pod.spec else {
            return Self::default();
        };
        let is_guaranteed = is_guaranteed(pod, spec);
        let read = |phase: Phase, container: &Container| ContainerNeeds {
            name: container.name.clone(),
            phase,
            gpu_count: gpu_count(container, resource),
            names_gpus: limits(container).is_some_and(|limits| limits.contains_key(resource)),
            cpu_count: if is_guaranteed {
                whole_cpus(container)
            } else {
                0
            },
            has_other_devices: has_other_devices(container, resource),
        };
        let first = spec.init_containers.iter().flatten();
        let first = first.map(|container| {
            let is_sidecar = container.restart_policy.as_deref() == Some("Always");
            let phase = if is_sidecar {
                Phase::Sidecar
            } else {
                Phase::Init
            };
            read(phase, container)
        });
        let main = spec.containers.iter();
        Self {
            containers: first
                .chain(main.map(|container| read(Phase::Main, container)))
                .collect(),
            is_guaranteed,
            has_pod_resources: spec.resources.is_some(),
        }
    }

    /// CPUs that the pod holds alone, under a `static` CPU manager.
    #[must_use]
    pub fn cpu_count(&self) -> usize {
        together(&self.containers, |container| container.cpu_count)
    }
}

/// What the pod needs at once of what `count` tells of each container: sidecars add up as they
/// start, each init container stands beside those before it, the others beside all sidecars.
///
/// Source: KEP 753; `resource.PodLimits` and the CPU manager's `podGuaranteedCPUs`.
#[must_use]
pub(super) fn together(
    containers: &[ContainerNeeds],
    count: impl Fn(&ContainerNeeds) -> usize,
) -> usize {
    let (mut held, mut most) = (0_usize, 0_usize);
    for container in containers {
        let count = count(container);
        match container.phase {
            Phase::Init => most = most.max(held.saturating_add(count)),
            Phase::Sidecar | Phase::Main => held = held.saturating_add(count),
        }
    }
    most.max(held)
}

/// As the API server has said, else by its rule (`ComputePodQOS`): in every container CPU and memory
/// are limited and asked for alike.
fn is_guaranteed(pod: &Pod, spec: &PodSpec) -> bool {
    let said = pod
        .status
        .as_ref()
        .and_then(|status| status.qos_class.as_deref());
    if let Some(class) = said {
        return class == "Guaranteed";
    }
    let mut all = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    !spec.containers.is_empty()
        && all.all(|container| {
            ["cpu", "memory"].iter().all(|resource| {
                let limit = milli(limits(container), resource);
                // A request that is not named is the limit: the API server fills it in.
                let request = milli(requests(container), resource).or(limit);
                limit.is_some_and(|limit| limit > 0) && request == limit
            })
        })
}

/// The request in whole CPUs; 0 where it is none, or not whole.
fn whole_cpus(container: &Container) -> usize {
    let asked = milli(requests(container), "cpu").or_else(|| milli(limits(container), "cpu"));
    asked
        .filter(|milli| milli.is_multiple_of(1_000))
        .and_then(|milli| usize::try_from(milli / 1_000).ok())
        .unwrap_or(0)
}

/// A count that cannot be read is refused with the claim.
fn gpu_count(container: &Container, resource: &str) -> usize {
    super::gpu_count(container, resource).unwrap_or(0)
}

/// Extended resources have a domain of their own (`kubernetes.io/` is the API's).
fn has_other_devices(container: &Container, resource: &str) -> bool {
    let Some(limits) = limits(container) else {
        return false;
    };
    let is_extended = |name: &str| {
        name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
    };
    limits
        .keys()
        .any(|name| name != resource && is_extended(name))
}

type Quantities = BTreeMap<String, Quantity>;

fn limits(container: &Container) -> Option<&Quantities> {
    container.resources.as_ref()?.limits.as_ref()
}

fn requests(container: &Container) -> Option<&Quantities> {
    container.resources.as_ref()?.requests.as_ref()
}

fn milli(list: Option<&Quantities>, resource: &str) -> Option<u64> {
    quantity::parse_milli(&list?.get(resource)?.0)
}
