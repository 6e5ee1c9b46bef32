//! A node's topology as NodeResourceTopology: a zone for each NUMA node, with CPUs and GPUs. Pure.
//!
//! Names and policies as scheduler-plugins' NodeResourceTopologyMatch reads them.

use std::collections::BTreeSet;

use berth_topology::gpu::Gpu;
use berth_topology::ids::{GpuUuid, NodeName};
use berth_topology::kubelet::Kubelet;
use berth_topology::node::Status;
use berth_topology::numa::NumaNode;
use serde_json::{Value, json};

pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "berth-node-agent";

pub(super) fn of(node: &NodeName, status: &Status, resource: &str) -> Value {
    let zones: Vec<Value> = status
        .numa
        .iter()
        .map(|numa| zone(numa, status, resource))
        .collect();
    json!({
        "apiVersion": "topology.node.k8s.io/v1alpha2",
        "kind": "NodeResourceTopology",
        "metadata": { "name": node.as_str(), "labels": { (MANAGED_BY): MANAGER } },
        "topologyPolicies": [policy(&status.kubelet)],
        "attributes": [
            { "name": "topologyManagerPolicy", "value": status.kubelet.topology_manager_policy },
            { "name": "topologyManagerScope", "value": status.kubelet.topology_manager_scope },
        ],
        "zones": zones,
    })
}

fn zone(numa: &NumaNode, status: &Status, resource: &str) -> Value {
    let costs: Vec<Value> = status
        .numa
        .iter()
        .zip(&numa.distances)
        .map(|(other, distance)| json!({ "name": name(other), "value": distance }))
        .collect();
    let mut resources = Vec::new();
    if !numa.cpus.is_empty() {
        resources.push(cpus(numa, status));
    }
    let here = |gpu: &&Gpu| gpu.numa_node == Some(numa.id) && !is_partitioned(gpu);
    let gpus: Vec<&Gpu> = status.gpus.iter().filter(here).collect();
    if !gpus.is_empty() {
        resources.push(devices(&gpus, status, resource));
    }
    json!({ "name": name(numa), "type": "Node", "costs": costs, "resources": resources })
}

/// As NFD's topology updater names them.
fn name(numa: &NumaNode) -> String {
    format!("node-{}", numa.id)
}

/// Its instances are devices of other resources.
fn is_partitioned(gpu: &Gpu) -> bool {
    gpu.mig.as_ref().is_some_and(|mig| mig.mode == "enabled")
}

/// Less the CPUs that the kubelet keeps for the system, and those that containers hold alone.
fn cpus(numa: &NumaNode, status: &Status) -> Value {
    let reserved = status.kubelet.reserved_cpus.clone().unwrap_or_default();
    let allocatable = numa.cpus.difference(&reserved);
    let held = status
        .allocations
        .iter()
        .filter_map(|allocation| allocation.cpus.as_ref());
    let available = held.fold(allocatable.clone(), |left, held| left.difference(held));
    amounts("cpu", numa.cpus.len(), allocatable.len(), available.len())
}

fn devices(gpus: &[&Gpu], status: &Status, resource: &str) -> Value {
    let held: BTreeSet<&GpuUuid> = status
        .allocations
        .iter()
        .flat_map(|allocation| &allocation.devices)
        .collect();
    let usable = || gpus.iter().filter(|gpu| gpu.is_usable());
    let free = usable().filter(|gpu| !held.contains(&gpu.uuid)).count();
    amounts(resource, gpus.len(), usable().count(), free)
}

fn amounts(name: &str, capacity: usize, allocatable: usize, available: usize) -> Value {
    json!({
        "name": name,
        "capacity": capacity.to_string(),
        "allocatable": allocatable.to_string(),
        "available": available.to_string(),
    })
}

/// `TopologyManagerPolicy` of v1alpha2's types, which the CRD requires.
fn policy(kubelet: &Kubelet) -> &'static str {
    let is_pod = kubelet.topology_manager_scope == "pod";
    match (kubelet.topology_manager_policy.as_str(), is_pod) {
        ("single-numa-node", true) => "SingleNUMANodePodLevel",
        ("single-numa-node", false) => "SingleNUMANodeContainerLevel",
        ("restricted", true) => "RestrictedPodLevel",
        ("restricted", false) => "RestrictedContainerLevel",
        ("best-effort", true) => "BestEffortPodLevel",
        ("best-effort", false) => "BestEffortContainerLevel",
        _ => "None",
    }
}

#[cfg(test)]
mod tests {
    use berth_topology::allocation::Allocation;
    use berth_topology::gpu::HealthState;

    use super::*;
    use crate::fixtures::recorded;

    #[test]
    fn a_zone_has_the_cpus_and_gpus_of_its_numa_node() {
        let mut status = recorded("dgx-h100");
        status.gpus[5].health.state = HealthState::Failed;
        status.kubelet.topology_manager_policy = "restricted".to_owned();
        status.kubelet.reserved_cpus = Some("0-1".parse().unwrap());
        status.allocations = vec![Allocation {
            devices: vec![status.gpus[0].uuid.clone()],
            cpus: Some("2-9".parse().unwrap()),
            ..Allocation::default()
        }];
        let object = of(&"n".into(), &status, "nvidia.com/gpu");
        assert_eq!(object["metadata"]["name"], "n");
        assert_eq!(
            object["topologyPolicies"],
            json!(["RestrictedContainerLevel"])
        );
        let zones = object["zones"].as_array().unwrap();
        assert_eq!(
            zones[0]["resources"],
            json!([
                {"name": "cpu", "capacity": "112", "allocatable": "110", "available": "102"},
                {"name": "nvidia.com/gpu", "capacity": "4", "allocatable": "4", "available": "3"},
            ])
        );
        assert_eq!(zones[1]["resources"][1]["allocatable"], "3");
        assert_eq!(zones[1]["name"], "node-1");
        assert_eq!(zones[0]["costs"][0], json!({"name": "node-0", "value": 10}));
    }

    #[test]
    fn memory_only_nodes_have_no_cpus_and_gpus_of_unknown_nodes_are_in_no_zone() {
        let mut status = recorded("gb200-tray");
        status.gpus[0].numa_node = None;
        let object = of(&"n".into(), &status, "nvidia.com/gpu");
        let zones = object["zones"].as_array().unwrap();
        assert_eq!(zones.len(), 34);
        let resources = |zone: &Value| zone["resources"].as_array().unwrap().len();
        assert_eq!(zones.iter().filter(|zone| resources(zone) == 0).count(), 32);
        assert_eq!(zones[0]["resources"][1]["capacity"], "1");
        assert_eq!(object["topologyPolicies"], json!(["None"]));
    }
}
