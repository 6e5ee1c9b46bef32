//! Kubernetes objects of real size, as an API server writes them.

use std::path::Path;

use berth_topology::assignment::{Assignment, ContainerAssignment, Rank};
use berth_topology::lease;
use berth_topology::names;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::{Map, Value, json};

use crate::Outcome;

/// What stands for a node's name in a template.
const NODE: &str = "@NODE@";
/// Images that a node that runs models has pulled.
const IMAGES: usize = 25;

/// A node's JSON, but for its name.
#[derive(Debug)]
pub(crate) struct NodeTemplate(String);

/// A recorded machine's NodeTopology, but for its name.
#[derive(Debug)]
pub(crate) struct MachineTemplate {
    text: String,
    uuids: Vec<String>,
}

// === impl NodeTemplate ===

impl NodeTemplate {
    pub(crate) fn new() -> Self {
        let labels: Map<String, Value> = (0..40)
            .map(|number| {
                (
                    format!("feature.node.kubernetes.io/cpu-cpuid.F{number}"),
                    json!("true"),
                )
            })
            .collect();
        let image = |number: usize| {
            let digest = format!("{number:02x}").repeat(32);
            json!({"names": [format!("registry.example/models/engine-{number}@sha256:{digest}"),
                format!("registry.example/models/engine-{number}:1.{number}.0")], "sizeBytes": 9_000_000_000_u64})
        };
        let amounts = json!({"cpu": "128", "memory": "2113486824Ki", "pods": "110",
            names::DEFAULT_RESOURCE: "8", "ephemeral-storage": "1843186648Ki", "hugepages-2Mi": "0"});
        let condition = |kind: &str, status: &str| {
            json!({"type": kind, "status": status, "lastHeartbeatTime": "2026-11-26T00:00:00Z",
                "lastTransitionTime": "2026-11-20T00:00:00Z", "reason": "KubeletHasSufficient",
                "message": "kubelet is posting ready status and has sufficient resources available"})
        };
        let node = json!({
            "metadata": {"name": NODE, "uid": format!("uid-{NODE}"), "resourceVersion": "1",
                "creationTimestamp": "2026-11-20T00:00:00Z", "labels": labels,
                "annotations": {"node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
            "spec": {"podCIDR": "10.1.2.0/24", "providerID": format!("bench://{NODE}")},
            "status": {"capacity": amounts, "allocatable": amounts,
                "conditions": [condition("MemoryPressure", "False"), condition("DiskPressure", "False"),
                    condition("PIDPressure", "False"), condition("Ready", "True")],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": NODE}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
                "nodeInfo": {"machineID": NODE, "systemUUID": NODE, "bootID": NODE, "kernelVersion": "6.8.0",
                    "osImage": "Linux", "containerRuntimeVersion": "containerd://2.1.0", "kubeletVersion": "v1.37.1",
                    "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"},
                "images": (0..IMAGES).map(image).collect::<Vec<_>>()},
        });
        Self(node.to_string())
    }

    pub(crate) fn of(&self, node: &str) -> String {
        self.0.replace(NODE, node)
    }
}

// === impl MachineTemplate ===

impl MachineTemplate {
    /// From `machines/NAME.json`.
    pub(crate) fn read(name: &str) -> Outcome<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../machines/{name}.json"));
        let mut topology: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        topology["metadata"] =
            json!({"name": NODE, "uid": format!("uid-topology-{NODE}"), "resourceVersion": "1"});
        let gpus = topology["status"]["gpus"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let uuids = gpus.iter().filter_map(|gpu| gpu["uuid"].as_str());
        Ok(Self {
            uuids: uuids.map(str::to_owned).collect(),
            text: topology.to_string(),
        })
    }

    /// Each node has UUIDs of its own.
    pub(crate) fn of(&self, node: &str) -> String {
        self.text
            .replace(NODE, node)
            .replace("GPU-", &format!("GPU-{node}-"))
    }

    /// That node's GPUs.
    pub(crate) fn uuids(&self, node: &str) -> Vec<String> {
        let own = |uuid: &String| uuid.replace("GPU-", &format!("GPU-{node}-"));
        self.uuids.iter().map(own).collect()
    }
}

/// The Lease of that node's agent, renewed at that second.
pub(crate) fn lease(node: &str, second: i64, version: u64) -> Outcome<String> {
    let at = MicroTime(jiff::Timestamp::from_second(second)?);
    let mut lease = lease::encode(node, None, at);
    lease.metadata.resource_version = Some(version.to_string());
    Ok(serde_json::to_string(&lease)?)
}

/// A pod that asks for so many GPUs as the ranks of one model: about 4 kB, as the engine's are.
pub(crate) fn pod(name: &str, gpu_count: usize) -> Outcome<Pod> {
    let count = gpu_count.to_string();
    let resources = json!({"cpu": "16", "memory": "128Gi", names::DEFAULT_RESOURCE: count});
    let variable = |number: usize| json!({"name": format!("ENGINE_SETTING_{number}"), "value": format!("value-{number}")});
    let toleration = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    let field = |number: usize| {
        (
            format!("f:field{number}"),
            json!({".": {}, "f:name": {}, "f:value": {}}),
        )
    };
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "bench", "uid": format!("uid-{name}"),
            "creationTimestamp": "2026-11-25T00:00:00Z", "generation": 1,
            "labels": {"app": "engine", "pod-template-hash": "7c9f8d6b5", "berth.dev/model": "llama"},
            "annotations": {names::TENSOR_PARALLEL_SIZE: count},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "engine-7c9f8d6b5",
                "uid": "0f3c1c52-3a51-4a0e-9f5e-0123456789ab", "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                "time": "2026-11-25T00:00:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": (0..20).map(field).collect::<Map<_, _>>()}]},
        "spec": {
            "schedulerName": names::SCHEDULER, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
            "securityContext": {}, "enableServiceLinks": true, "terminationGracePeriodSeconds": 30,
            "tolerations": [toleration("node.kubernetes.io/not-ready"), toleration("node.kubernetes.io/unreachable")],
            "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": true}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}],
            "containers": [{"name": "engine", "image": "registry.example/models/engine:1.0.0",
                "args": ["--model=/models/llama", format!("--tensor-parallel-size={count}"), "--port=8000"],
                "env": (0..16).map(variable).collect::<Vec<_>>(),
                "ports": [{"containerPort": 8000, "protocol": "TCP"}],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8000}, "periodSeconds": 5},
                "resources": {"limits": resources, "requests": resources},
                "volumeMounts": [{"name": "models", "mountPath": "/models"}, {"name": "shm", "mountPath": "/dev/shm"}],
                "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent"}],
        },
        "status": {"phase": "Pending", "qosClass": "Guaranteed"},
    }))?)
}

/// The same pod, working with the other pods of that group.
pub(crate) fn grouped(mut pod: Pod, group: usize) -> Pod {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(names::GROUP_ANNOTATION.to_owned(), format!("job-{group}"));
    pod
}

/// The same pod, running on that node with those GPUs.
pub(crate) fn bound(mut pod: Pod, node: &str, gpus: &[String]) -> Pod {
    let rank = |(rank, gpu): (usize, &String)| Rank {
        rank,
        gpu: Some(gpu.as_str().into()),
        ..Rank::default()
    };
    let container = ContainerAssignment {
        ranks: gpus.iter().enumerate().map(rank).collect(),
        ..ContainerAssignment::default()
    };
    let assignment = Assignment {
        schema: names::SCHEMA.to_owned(),
        pod_uid: pod.metadata.uid.as_deref().map(Into::into),
        node: Some(node.into()),
        topology_hash: None,
        containers: [("engine".to_owned(), container)].into(),
    };
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(names::ASSIGNMENT.to_owned(), assignment.encode());
    pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
    pod.status.get_or_insert_default().phase = Some("Running".to_owned());
    pod
}
