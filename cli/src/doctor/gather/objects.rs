//! What the doctor takes out of Kubernetes' objects. Pure.

use std::collections::BTreeSet;

use berth_topology::assignment::Assignment;
use berth_topology::kubelet::Kubelet;
use berth_topology::raw::Configz;
use berth_topology::{crd as ours, names};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodStatus};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};

use crate::doctor::facts::{Fact, SeenAgent, SeenCrd, SeenNode, SeenPod, SeenScheduler};

/// Deeper than any schema of ours.
const SCHEMA_DEPTH_MAX: usize = 16;
const SHM: &str = "/dev/shm";

pub(super) fn node(node: Node) -> SeenNode {
    let status = node.status.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    let allocatable = status.allocatable.unwrap_or_default();
    let extended = allocatable
        .into_iter()
        .filter(|(name, _)| name.contains('/'));
    SeenNode {
        labels: node.metadata.labels.unwrap_or_default(),
        is_ready: ready.map(|condition| condition.status == "True"),
        is_cordoned: node.spec.and_then(|spec| spec.unschedulable) == Some(true),
        allocatable: extended
            .map(|(name, quantity)| (name, quantity.0))
            .collect(),
        kubelet_version: status
            .node_info
            .map(|info| info.kubelet_version)
            .unwrap_or_default(),
    }
}

pub(super) fn renew_time(lease: &Lease) -> String {
    let time = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.renew_time.as_ref());
    time.map_or("absent".to_owned(), |time| time.0.to_string())
}

pub(super) fn crd(crd: &CustomResourceDefinition) -> SeenCrd {
    let served = crd.spec.versions.iter().filter(|version| version.served);
    SeenCrd {
        served: served.map(|version| version.name.clone()).collect(),
        fields: fields(crd),
        expected_fields: fields(&ours::definition()),
    }
}

/// Paths of everything in our version's schema: `status.gpus[].uuid`.
fn fields(crd: &CustomResourceDefinition) -> BTreeSet<String> {
    let version = crd
        .spec
        .versions
        .iter()
        .find(|version| version.name == names::VERSION);
    let schema = version.and_then(|version| version.schema.as_ref());
    let schema = schema.and_then(|schema| schema.open_api_v3_schema.as_ref());
    let mut found = BTreeSet::new();
    if let Some(status) = schema.and_then(|schema| schema.properties.as_ref()?.get("status")) {
        collect(status, "status", 0, &mut found);
    }
    found
}

fn collect(schema: &JSONSchemaProps, path: &str, depth: usize, found: &mut BTreeSet<String>) {
    if depth > SCHEMA_DEPTH_MAX {
        return;
    }
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        collect(field, &path, depth + 1, found);
        found.insert(path);
    }
    let items = schema.items.as_ref().map(serde_json::to_value);
    let items = items.and_then(|value| serde_json::from_value(value.ok()?).ok());
    if let Some(items) = items {
        collect(&items, &format!("{path}[]"), depth + 1, found);
    }
}

pub(super) fn agent(pod: Pod) -> SeenAgent {
    let status = pod.status.unwrap_or_default();
    let containers = status.container_statuses.clone().unwrap_or_default();
    SeenAgent {
        name: pod.metadata.name.unwrap_or_default(),
        phase: status.phase.clone().unwrap_or_default(),
        is_ready: !containers.is_empty() && containers.iter().all(|container| container.ready),
        restart_count: containers
            .iter()
            .map(|container| container.restart_count)
            .sum(),
        reason: reason(&status),
    }
}

fn reason(status: &PodStatus) -> Option<String> {
    let containers = status.container_statuses.iter().flatten();
    let mut states = containers.filter_map(|container| container.state.as_ref());
    let of_container = states.find_map(|state| {
        let waiting = state
            .waiting
            .as_ref()
            .and_then(|waiting| waiting.reason.clone());
        waiting.or_else(|| state.terminated.as_ref()?.reason.clone())
    });
    of_container.or_else(|| status.reason.clone())
}

/// Only pods that were promised GPUs or ask for NVIDIA's, and that have not ended.
pub(super) fn pod(pod: Pod) -> Option<SeenPod> {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let annotations = pod.metadata.annotations.unwrap_or_default();
    let assignment = annotations.get(names::ASSIGNMENT);
    let assignment =
        assignment.map(|text| Assignment::decode(text).map_err(|error| error.to_string()));
    let spec = pod.spec.unwrap_or_default();
    let gpus_max = spec.containers.iter().map(gpus).max().unwrap_or_default();
    if gpus_max == 0 && assignment.is_none() {
        return None;
    }
    let mounts = spec
        .containers
        .iter()
        .flat_map(|container| container.volume_mounts.iter().flatten());
    let namespace = pod.metadata.namespace.unwrap_or_default();
    Some(SeenPod {
        name: format!("{namespace}/{}", pod.metadata.name.unwrap_or_default()),
        uid: pod.metadata.uid.unwrap_or_default(),
        gpus_max,
        assignment,
        has_own_shm: mounts.into_iter().any(|mount| mount.mount_path == SHM),
    })
}

fn gpus(container: &Container) -> u64 {
    let limits = container
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.as_ref());
    let count = limits.and_then(|limits| limits.get(names::DEFAULT_RESOURCE));
    count
        .and_then(|count| count.0.parse().ok())
        .unwrap_or_default()
}

pub(super) fn scheduler(deployment: &Deployment) -> SeenScheduler {
    let wanted = deployment.spec.replicas;
    let ready = deployment
        .status
        .as_ref()
        .and_then(|status| status.ready_replicas);
    SeenScheduler {
        wanted: wanted.unwrap_or(1),
        ready: ready.unwrap_or_default(),
    }
}

/// `{"kubeletconfig": {…}}`; what is left out of it is the kubelet's default.
pub(super) fn configz(text: &str) -> Fact<Kubelet> {
    let configz: Configz = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(Kubelet::of_config(&configz.kubeletconfig).0)
}
