//! Who holds which devices, and whether some may be given to somebody else. Pure.
//!
//! From the kubelet's checkpoint, which has every container that it gave something, and from its
//! PodResources, which has CPUs and what runs without an object in the API server. What we answered
//! and the kubelet has not yet written down counts as well.

use std::collections::BTreeSet;

use berth_topology::allocation::Allocation;
use berth_topology::cpus::CpuList;
use berth_topology::ids::{GpuUuid, PodUid};
use k8s_openapi::api::core::v1::Pod;

use super::checkpoint::{self, Checkpoint, Stamp};
use super::pod_resources::{ContainerResources, PodResources};
use super::pods::{self, Pods};

/// What we answered to an Allocate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// For whom, as far as that can be told: the kubelet does not say.
    pub row: Allocation,
    /// The checkpoint when it was answered. Once the kubelet has written another, that one counts.
    pub written_before: Option<Stamp>,
}

/// Why devices are not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {device} is still held by container {container} of pod {pod}")]
pub struct Refusal {
    /// The device.
    pub device: GpuUuid,
    /// Who holds it, `namespace/name`.
    pub pod: String,
    /// Its container.
    pub container: String,
}

/// Everything that containers of living pods hold. `listed` is PodResources as [`joined`] when it was
/// read; `grants` are ours.
#[must_use]
pub fn rows(
    checkpoint: &Checkpoint,
    listed: &[Allocation],
    grants: &[Grant],
    pods: &Pods,
) -> Vec<Allocation> {
    let lives = |row: &&Allocation| {
        let uid = row.pod_uid.as_ref();
        uid.is_none_or(|uid| pods.by_uid(uid).is_some())
    };
    let mut rows: Vec<Allocation> = listed.iter().filter(lives).cloned().collect();
    for entry in &checkpoint.entries {
        let Some(pod) = pods.by_kubelet_uid(&entry.pod_uid) else {
            continue;
        };
        let row = Allocation {
            container: entry.container.clone(),
            resource: entry.resource.clone(),
            devices: entry.devices.clone(),
            ..of_pod(pod)
        };
        add(&mut rows, row);
    }
    for grant in grants.iter().filter(|grant| lives(&&grant.row)) {
        let is_booked = grant.row.devices.iter().all(|device| holds(&rows, device));
        if !is_booked && grant.written_before == checkpoint.stamp {
            add(&mut rows, grant.row.clone());
        }
    }
    rows.sort_by(|a, b| key(a).cmp(&key(b)));
    rows
}

/// PodResources with the uids of the pods that are known by their names.
#[must_use]
pub fn joined(listed: &[PodResources], pods: &Pods) -> Vec<Allocation> {
    let mut rows = Vec::new();
    for pod in listed {
        let known = pods.by_name(&pod.namespace, &pod.name);
        let named = Allocation {
            pod_uid: known.map(pods::uid),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            ..Allocation::default()
        };
        for container in &pod.containers {
            add_container(&mut rows, &named, container);
        }
    }
    rows
}

/// Whether one of `devices` is held by a container of a pod that lives in the API server. What
/// PodResources listed of a pod that is not there may have ended since: the kubelet knows better.
/// `hands_on` are init containers of the pod that is being given some.
///
/// # Errors
/// Who holds it.
pub fn check(
    rows: &[Allocation],
    resource: &str,
    devices: &BTreeSet<GpuUuid>,
    hands_on: impl Fn(&Allocation) -> bool,
) -> Result<(), Refusal> {
    let of_resource = rows.iter().filter(|row| row.resource == resource);
    let living = of_resource.filter(|row| row.pod_uid.is_some());
    for row in living.filter(|row| !hands_on(row)) {
        if let Some(device) = row.devices.iter().find(|device| devices.contains(device)) {
            return Err(Refusal {
                device: device.clone(),
                pod: format!("{}/{}", row.namespace, row.name),
                container: row.container.clone(),
            });
        }
    }
    Ok(())
}

fn add_container(rows: &mut Vec<Allocation>, pod: &Allocation, container: &ContainerResources) {
    let ids = container.cpu_ids.iter();
    let cpus: CpuList = ids.filter_map(|id| u32::try_from(*id).ok()).collect();
    let named = Allocation {
        container: container.name.clone(),
        cpus: (!cpus.is_empty()).then_some(cpus),
        ..pod.clone()
    };
    for devices in &container.devices {
        let ids = devices.device_ids.iter();
        let row = Allocation {
            resource: devices.resource_name.clone(),
            devices: ids.map(|id| checkpoint::device(id)).collect(),
            ..named.clone()
        };
        add(rows, row);
    }
    if container.devices.is_empty() && named.cpus.is_some() {
        rows.push(named);
    }
}

/// To the row of the same container and resource, if there is one: PodResources has an entry for
/// each device.
fn add(rows: &mut Vec<Allocation>, row: Allocation) {
    let is_same = |known: &&mut Allocation| {
        known.container == row.container
            && known.resource == row.resource
            && known.pod_uid == row.pod_uid
            && (known.namespace == row.namespace && known.name == row.name)
    };
    let Some(known) = rows.iter_mut().find(is_same) else {
        let mut row = row;
        row.devices.sort();
        row.devices.dedup();
        rows.push(row);
        return;
    };
    known.devices.extend(row.devices);
    known.devices.sort();
    known.devices.dedup();
}

fn of_pod(pod: &Pod) -> Allocation {
    Allocation {
        pod_uid: Some(pods::uid(pod)),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        ..Allocation::default()
    }
}

fn holds(rows: &[Allocation], device: &GpuUuid) -> bool {
    rows.iter().any(|row| row.devices.contains(device))
}

fn key(row: &Allocation) -> (&str, &str, Option<&PodUid>, &str, &str) {
    let uid = row.pod_uid.as_ref();
    (
        &row.namespace,
        &row.name,
        uid,
        &row.container,
        &row.resource,
    )
}

#[cfg(test)]
mod tests;
