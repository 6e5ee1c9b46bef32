//! What the plugin's tests speak of: the eight GPUs of a DGX H100 by number, and pods of node `n1`.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_topology::allocation::Allocation;
use berth_topology::assignment::{Assignment, ContainerAssignment, Rank};
use berth_topology::ids::{GpuUuid, NodeName, PodUid};
use berth_topology::names;
use berth_topology::node::Status;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::pods::Pods;
use super::promises::Promises;
use crate::fixtures::recorded;

/// Its resource.
pub(crate) const RESOURCE: &str = "nvidia.com/gpu";

/// GPUs 0 to 3 are near NUMA node 0, the others near 1; NVLink joins all alike.
pub(crate) fn dgx_h100() -> Arc<Status> {
    Arc::new(recorded("dgx-h100"))
}

/// `"0 3"` as UUIDs.
pub(crate) fn gpus(numbers: &str) -> Vec<GpuUuid> {
    let status = dgx_h100();
    let numbers = numbers.split_whitespace().map(|number| {
        let number: usize = number.parse().expect("a number");
        status.gpus[number].uuid.clone()
    });
    numbers.collect()
}

/// UUIDs as `"0 3"`, in their order.
pub(crate) fn numbers<'a>(uuids: impl IntoIterator<Item = &'a GpuUuid>) -> String {
    let status = dgx_h100();
    let number = |uuid: &GpuUuid| {
        let position = status.gpus.iter().position(|gpu| gpu.uuid == *uuid);
        position.map_or_else(|| uuid.to_string(), |position| position.to_string())
    };
    let numbers: Vec<String> = uuids.into_iter().map(number).collect();
    numbers.join(" ")
}

/// UUIDs as `"0 3"`, ascending.
pub(crate) fn sorted(uuids: &BTreeSet<GpuUuid>) -> String {
    let text = numbers(uuids);
    let mut numbers: Vec<&str> = text.split(' ').collect();
    numbers.sort_unstable();
    numbers.join(" ")
}

/// A pod whose container `main` asks for so many GPUs.
pub(crate) fn pod(name: &str, gpu_count: usize) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {},
        },
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "main", "resources": {"limits": {RESOURCE: gpu_count.to_string()}}}],
        },
    }))
    .expect("a pod")
}

/// With another annotation.
pub(crate) fn annotated(pod: Pod, name: &str, value: &str) -> Pod {
    let mut pod = pod;
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(name.to_owned(), value.to_owned());
    pod
}

/// With an init container before `main`.
pub(crate) fn with_init(pod: Pod, name: &str, gpu_count: usize) -> Pod {
    let mut pod = pod;
    let container = json!({
        "name": name, "resources": {"limits": {RESOURCE: gpu_count.to_string()}},
    });
    let container = serde_json::from_value(container).expect("a container");
    let spec = pod.spec.as_mut().expect("a spec");
    spec.init_containers.get_or_insert_default().push(container);
    pod
}

/// Bound with a promise for `main`, in rank order.
pub(crate) fn promised(pod: Pod, ranks: &str) -> Pod {
    let ranks = gpus(ranks).into_iter().enumerate();
    let ranks = ranks.map(|(rank, gpu)| Rank {
        rank,
        gpu: Some(gpu),
        ..Rank::default()
    });
    let main = ContainerAssignment {
        ranks: ranks.collect(),
        ..ContainerAssignment::default()
    };
    let assignment = Assignment {
        schema: names::SCHEMA.to_owned(),
        pod_uid: pod.metadata.uid.clone().map(PodUid),
        node: Some(node()),
        topology_hash: None,
        containers: [("main".to_owned(), main)].into(),
    };
    annotated(pod, names::ASSIGNMENT, &assignment.encode())
}

/// The node of all pods.
pub(crate) fn node() -> NodeName {
    "n1".into()
}

/// That container of that pod holds those GPUs.
pub(crate) fn row(pod: &str, container: &str, held: &str) -> Allocation {
    Allocation {
        pod_uid: Some(PodUid(format!("uid-{pod}"))),
        namespace: "default".to_owned(),
        name: pod.to_owned(),
        container: container.to_owned(),
        resource: RESOURCE.to_owned(),
        devices: gpus(held),
        cpus: None,
    }
}

/// Pods that a watch told of one after the other.
pub(crate) fn bound(pods: impl IntoIterator<Item = Pod>) -> Pods {
    let mut bound = Pods::default();
    for pod in pods {
        bound.apply(pod);
    }
    bound
}

/// What is promised to them.
pub(crate) fn promises(pods: impl IntoIterator<Item = Pod>, rows: &[Allocation]) -> Promises {
    Promises::read(&bound(pods), &node(), RESOURCE, rows)
}
