//! Objects for tests, in one small vocabulary: node `n`, GPUs `n-0` to `n-7` in two NVLink quads.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use berth_topology::allocation::Allocation;
use berth_topology::assignment::{Assignment, ContainerAssignment, Rank};
use berth_topology::cpus::CpuList;
use berth_topology::gpu::{Fabric, Gpu, GpuNvLink, Health, HealthState, Mig, MigInstance};
use berth_topology::ids::{GpuIndex, GpuUuid, NumaId, PodUid};
use berth_topology::kubelet::{Kubelet, Plugin, PluginOwner};
use berth_topology::link::{Link, PairNvLink, Path, Via};
use berth_topology::node::{NodeTopology, Status};
use berth_topology::numa::NumaNode;
use berth_topology::{lease, names};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::decide::{self, Ask};
use crate::index::Index;
use crate::snapshot::Snapshot;

/// What pods ask for.
pub const RESOURCE: &str = names::DEFAULT_RESOURCE;

/// What pods ask for where GPUs are partitioned.
pub const MIG_RESOURCE: &str = "nvidia.com/mig-1g.10gb";

/// A Ready Node.
pub fn node(name: &str) -> Node {
    let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    serde_json::from_value(json!({"metadata": {"name": name}, "status": status}))
        .expect("a fixture is well formed")
}

/// What the agent of that node publishes: eight healthy GPUs.
pub fn topology(name: &str) -> NodeTopology {
    NodeTopology::new(name, status(name, 8))
}

/// GPUs in NVLink quads; quads meet across sockets.
pub fn status(name: &str, gpu_count: u32) -> Status {
    let uuid = |index: u32| GpuUuid(format!("{name}-{index}"));
    let gpu = |index| Gpu {
        uuid: uuid(index),
        index: GpuIndex(index),
        model: "Tesla V100-SXM2-16GB".to_owned(),
        memory_bytes: Some(16 << 30),
        numa_node: Some(NumaId(index / 4)),
        nvlink: Some(GpuNvLink {
            lanes: 6,
            lanes_expected: 6,
            gb_per_second: 150.0,
        }),
        health: Health {
            state: HealthState::Healthy,
            ..Health::default()
        },
        ..Gpu::default()
    };
    let lanes = PairNvLink {
        lanes: 2,
        lanes_expected: 2,
        gb_per_second: 50.0,
        via: Via::Direct,
    };
    let link = |a: u32, b: u32| {
        let is_quad = a / 4 == b / 4;
        let path = if is_quad {
            Path::HostBridge
        } else {
            Path::System
        };
        Link {
            a: uuid(a),
            b: uuid(b),
            path,
            nvlink: is_quad.then(|| lanes.clone()),
        }
    };
    let pairs = (0..gpu_count).flat_map(|a| (a + 1..gpu_count).map(move |b| (a, b)));
    Status {
        gpus: (0..gpu_count).map(gpu).collect(),
        links: pairs.map(|(a, b)| link(a, b)).collect(),
        hash: "h".to_owned(),
        ..Status::default()
    }
}

/// The same machine with a kubelet of which everything is known, and Berth's plugin: what is promised
/// there is exact.
pub fn exact(name: &str, policy: &str) -> Status {
    let node = |id: u32| NumaNode {
        id: NumaId(id),
        cpus: (id * 16..id * 16 + 16).collect(),
        ..NumaNode::default()
    };
    Status {
        numa: (0..2).map(node).collect(),
        kubelet: Kubelet {
            topology_manager_policy: policy.to_owned(),
            topology_manager_scope: "container".to_owned(),
            cpu_manager_policy: "static".to_owned(),
            topology_manager_policy_options: Some(BTreeMap::new()),
            cpu_manager_policy_options: Some(BTreeMap::new()),
            memory_manager_policy: Some("None".to_owned()),
            reserved_cpus: Some(CpuList::default()),
        },
        plugins: vec![Plugin {
            resource: RESOURCE.to_owned(),
            owner: PluginOwner::Berth,
            registered: true,
            exact: true,
            unaligned: false,
        }],
        ..status(name, 8)
    }
}

/// The same machine; each GPU of `parted` is in three MIG instances, `MIG-n-3-0` and so on.
pub fn partitioned(name: &str, parted: &[usize]) -> Status {
    let mut status = status(name, 8);
    for gpu in parted {
        let instance = |number: u32| MigInstance {
            uuid: GpuUuid(format!("MIG-{name}-{gpu}-{number}")),
            profile: "1g.10gb".to_owned(),
            memory_bytes: 10 << 30,
            compute_slices: 1,
            ..MigInstance::default()
        };
        status.gpus[*gpu].mig = Some(Mig {
            mode: "enabled".to_owned(),
            instances: (0..3).map(instance).collect(),
        });
    }
    status
}

/// The node's GPUs are members of that NVLink fabric clique.
pub fn in_clique(index: &mut Index, name: &str, clique_id: u32, state: &str) {
    let mut member = topology(name);
    let fabric = Fabric {
        cluster_uuid: "3f0e".to_owned(),
        clique_id,
        state: state.to_owned(),
        ..Fabric::default()
    };
    for gpu in &mut member.status.get_or_insert_default().gpus {
        gpu.fabric = Some(fabric.clone());
    }
    index.apply_topology(&member);
}

/// The Node of that name, in that rack.
pub fn in_rack(name: &str, rack: &str) -> Node {
    let mut node = node(name);
    let labels = [("topology.kubernetes.io/rack".to_owned(), rack.to_owned())];
    node.metadata.labels = Some(labels.into());
    node
}

/// A pending pod `ns/NAME` with uid `u-NAME` whose one container `c` wants that many GPUs.
pub fn pod(name: &str, gpu_count: usize) -> Pod {
    pod_of(RESOURCE, name, gpu_count)
}

/// The same, of that resource.
pub fn pod_of(resource: &str, name: &str, count: usize) -> Pod {
    let limits = json!({resource: count.to_string()});
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}")},
        "spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]},
        "status": {"phase": "Pending"},
    }))
    .expect("a fixture is well formed")
}

/// The same pod, with an annotation.
pub fn annotated(mut pod: Pod, key: &str, value: &str) -> Pod {
    pod.metadata
        .annotations
        .get_or_insert_default()
        .insert(key.to_owned(), value.to_owned());
    pod
}

/// The same pod, bound without our doing.
pub fn bound_by_other(mut pod: Pod, node: &str) -> Pod {
    pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
    pod
}

/// The same pod, bound with an assignment of those GPUs.
pub fn bound(pod: Pod, node: &str, gpus: &[u32]) -> Pod {
    let rank = |(rank, index): (usize, &u32)| Rank {
        rank,
        gpu: Some(GpuUuid(format!("{node}-{index}"))),
        ..Rank::default()
    };
    let ranks = gpus.iter().enumerate().map(rank).collect();
    let container = ContainerAssignment {
        ranks,
        ..ContainerAssignment::default()
    };
    let assignment = Assignment {
        schema: names::SCHEMA.to_owned(),
        pod_uid: pod.metadata.uid.clone().map(PodUid),
        node: Some(node.into()),
        topology_hash: None,
        containers: [("c".to_owned(), container)].into(),
    };
    annotated(
        bound_by_other(pod, node),
        names::ASSIGNMENT,
        &assignment.encode(),
    )
}

/// The same pod with that priority.
pub fn ranked(mut pod: Pod, priority: i32) -> Pod {
    pod.spec.get_or_insert_default().priority = Some(priority);
    pod
}

/// The same pod, while it is being deleted.
pub fn terminating(mut pod: Pod) -> Pod {
    let at = serde_json::from_value(json!("2026-01-01T00:00:00Z"));
    pod.metadata.deletion_timestamp = Some(at.expect("a fixture is well formed"));
    pod
}

/// The same pod, nominated to that node: it waits for its victims to leave.
pub fn nominated(mut pod: Pod, node: &str) -> Pod {
    pod.status.get_or_insert_default().nominated_node_name = Some(node.to_owned());
    pod
}

/// The same pod with that label.
pub fn labelled(mut pod: Pod, key: &str, value: &str) -> Pod {
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(key.to_owned(), value.to_owned());
    pod
}

/// The same pod, which takes no set but one that NVLink joins.
pub fn nvlinked(pod: Pod) -> Pod {
    annotated(
        annotated(pod, names::LINK, "nvlink"),
        names::LINK_POLICY,
        "require",
    )
}

/// The disruption budget `ns/NAME` over pods with the label `app=NAME`.
pub fn budget(name: &str, allowed: i32) -> PodDisruptionBudget {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"selector": {"matchLabels": {"app": name}}},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 0, "desiredHealthy": 0,
            "expectedPods": 0},
    }))
    .expect("a fixture is well formed")
}

/// The same pod in another phase.
pub fn in_phase(mut pod: Pod, phase: &str) -> Pod {
    pod.status.get_or_insert_default().phase = Some(phase.to_owned());
    pod
}

/// What the kubelet gave to container `c` of that pod.
pub fn allocation(pod: &str, node: &str, gpus: &[u32]) -> Allocation {
    Allocation {
        pod_uid: Some(PodUid(format!("u-{pod}"))),
        namespace: "ns".to_owned(),
        name: pod.to_owned(),
        container: "c".to_owned(),
        resource: RESOURCE.to_owned(),
        devices: gpus
            .iter()
            .map(|index| GpuUuid(format!("{node}-{index}")))
            .collect(),
        cpus: None,
    }
}

/// A lease whose renewal carries that time.
pub fn renewed(node: &str, second: i64) -> Lease {
    lease::encode(
        node,
        None,
        MicroTime(Timestamp::from_second(second).expect("a fixture is well formed")),
    )
}

/// An index that has listed those nodes and nothing else.
pub fn cluster(nodes: &[&str]) -> Index {
    let machines: Vec<NodeTopology> = nodes.iter().map(|name| topology(name)).collect();
    cluster_of(RESOURCE, &machines)
}

/// The same with those machines, for that resource.
pub fn cluster_of(resource: &str, machines: &[NodeTopology]) -> Index {
    let now = Instant::now();
    let mut index = Index::new(resource, Duration::from_secs(60), now);
    let names = machines.iter().map(NodeTopology::name);
    index.reset_nodes(&names.clone().map(node).collect::<Vec<_>>());
    index.reset_topologies(machines);
    index.reset_pods(Vec::new());
    let leases: Vec<Lease> = names.map(|name| renewed(name, 1)).collect();
    index.reset_leases(&leases, now);
    index.reset_budgets(&[]);
    index
}

/// What a request sees that comes now.
pub fn snapshot(index: &mut Index) -> Snapshot {
    index.snapshot(Instant::now())
}

/// What that pod asks.
pub fn ask(pod: &Pod) -> Ask {
    Ask::of_pod(pod, RESOURCE)
}

/// `fits` or the reason, for one node.
pub fn verdict(index: &mut Index, pod: &Pod, node: &str) -> String {
    match decide::judge(&snapshot(index), &ask(pod), node) {
        Ok(_) => "fits".to_owned(),
        Err(no) => no.kind().to_owned(),
    }
}

/// How many GPUs a pod could still get on that node.
pub fn free_count(index: &mut Index, node: &str) -> usize {
    let fits = |count: &usize| verdict(index, &pod("probe", *count), node) == "fits";
    (1..=8).rev().find(fits).unwrap_or(0)
}
