//! The kubelet's managers: which of their policies keep a promise from being exact.

use std::collections::BTreeMap;

use berth_topology::kubelet::Kubelet;
use berth_topology::node::Status;

use super::{Finding, at, note, ok, status, unknown, warning};
use crate::doctor::facts::Facts;

/// `max-allowable-numa-nodes` where it is not set (k/k:pkg/kubelet/cm/topologymanager/policy_options.go).
const NUMA_NODES_ALLOWED: usize = 8;
const UNKNOWN: &str = "unknown";

/// Policies by themselves, and together with the machine.
pub(super) fn policies(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let Some(status) = status(facts) else {
        return Vec::new();
    };
    if status.gpus.is_empty() {
        return Vec::new();
    }
    let Some((kubelet, from)) = kubelet(facts, status) else {
        return vec![unread(check, facts, status)];
    };
    let mut found = Vec::new();
    found.extend(disagreement(check, facts, status));
    found.extend(topology_manager(check, &kubelet, status, &from));
    found.extend(cpu_manager(check, &kubelet, &from));
    found.extend(memory_manager(check, &kubelet, &from));
    if found.is_empty() {
        found.push(
            ok(check, "nothing in the kubelet's policies is in the way")
                .read(summary(&kubelet), &from),
        );
    }
    found
}

fn unread(check: &'static str, facts: &Facts, status: &Status) -> Finding {
    let why = facts.configz.as_ref().err().cloned().unwrap_or_default();
    let asked = status
        .unknowns
        .iter()
        .find(|unknown| unknown.what == "kubelet");
    let by_agent = asked.map(|unknown| (unknown.why.clone(), at(facts, "unknowns")));
    unknown(check, "the kubelet's policies are not known: no promise is exact but with --numa-hints=off")
        .read(UNKNOWN, at(facts, "kubelet.topologyManagerPolicy"))
        .read_all(by_agent)
        .read(why, "configz")
        .fix("start the agent with --kubelet-configz or --kubelet-config; berth doctor --node NODE reads them through the API server (get nodes/proxy)")
}

/// The kubelet's own configuration, else what the agent published.
fn kubelet(facts: &Facts, status: &Status) -> Option<(Kubelet, String)> {
    if let Ok(configured) = &facts.configz {
        return Some((configured.clone(), "the kubelet's configz".to_owned()));
    }
    let is_known = status.kubelet.topology_manager_policy != UNKNOWN;
    is_known.then(|| (status.kubelet.clone(), at(facts, "kubelet")))
}

fn disagreement(check: &'static str, facts: &Facts, status: &Status) -> Option<Finding> {
    let configured = facts.configz.as_ref().ok()?;
    let published = &status.kubelet;
    let differ = |one: &str, other: &str| one != UNKNOWN && other != UNKNOWN && one != other;
    let is_other = differ(
        &configured.topology_manager_policy,
        &published.topology_manager_policy,
    ) || differ(
        &configured.topology_manager_scope,
        &published.topology_manager_scope,
    ) || differ(
        &configured.cpu_manager_policy,
        &published.cpu_manager_policy,
    );
    is_other.then(|| {
        warning(check, "the agent publishes other policies than the kubelet runs with: the extender foresees the wrong kubelet")
            .read(summary(configured), "the kubelet's configz")
            .read(summary(published), at(facts, "kubelet"))
            .fix("restart the agent's pod; if it stays, see how it reads the kubelet's configuration")
    })
}

fn topology_manager(
    check: &'static str,
    kubelet: &Kubelet,
    status: &Status,
    from: &str,
) -> Vec<Finding> {
    let policy = kubelet.topology_manager_policy.as_str();
    let aligns = ["best-effort", "restricted", "single-numa-node"].contains(&policy);
    if !aligns {
        return Vec::new();
    }
    let mut found = Vec::new();
    let option = |name: &str| {
        let options = kubelet.topology_manager_policy_options.as_ref();
        options
            .and_then(|options| options.get(name))
            .and_then(|text| text.parse::<usize>().ok())
    };
    let allowed = option("max-allowable-numa-nodes").unwrap_or(NUMA_NODES_ALLOWED);
    let nodes = status.numa.len();
    if nodes > allowed {
        found.push(
            warning(check, format!("{nodes} NUMA nodes with topology manager {policy}, which allows {allowed}: what it takes is not foreseen, and a kubelet without the option does not start"))
                .read(policy, from)
                .read(nodes.to_string(), "status.numa")
                .fix("topologyManagerPolicyOptions: {max-allowable-numa-nodes: \"N\"}, or topologyManagerPolicy: none"),
        );
    }
    let per_node = gpus_by_node(status);
    let most = per_node.values().max().copied().unwrap_or_default();
    if policy == "single-numa-node" && per_node.len() > 1 {
        found.push(
            warning(check, format!("single-numa-node admits no container of more than {most} GPUs, of {} here", status.gpus.len()))
                .read(policy, from)
                .read(spread(&per_node), "status.gpus[].numaNode")
                .fix("topologyManagerPolicy: restricted or best-effort; or keep larger pods off the node"),
        );
    }
    let unplaced = status
        .gpus
        .iter()
        .filter(|gpu| gpu.numa_node.is_none())
        .count();
    if unplaced > 0 && policy != "best-effort" {
        found.push(
            warning(check, format!("{policy} with {unplaced} GPUs whose NUMA node is not known: they count as near every node"))
                .read(policy, from)
                .fix("see the check `numa`"),
        );
    }
    if kubelet.cpu_manager_policy == "none" {
        found.push(
            note(check, format!("topology manager {policy} aligns GPUs with nothing: the CPU manager gives no CPUs of their own"))
                .read(summary(kubelet), from)
                .fix("cpuManagerPolicy: static with reservedSystemCPUs"),
        );
    }
    found
}

fn gpus_by_node(status: &Status) -> BTreeMap<u32, usize> {
    let mut by_node = BTreeMap::new();
    for node in status.gpus.iter().filter_map(|gpu| gpu.numa_node) {
        *by_node.entry(node.0).or_default() += 1;
    }
    by_node
}

fn spread(by_node: &BTreeMap<u32, usize>) -> String {
    let parts: Vec<String> = by_node
        .iter()
        .map(|(node, count)| format!("node {node}: {count}"))
        .collect();
    parts.join(", ")
}

fn cpu_manager(check: &'static str, kubelet: &Kubelet, from: &str) -> Vec<Finding> {
    if kubelet.cpu_manager_policy != "static" {
        return Vec::new();
    }
    let mut found = Vec::new();
    if kubelet.topology_manager_policy == "none" {
        found.push(
            warning(check, "the CPU manager gives CPUs of their own without looking at GPUs: a pod's CPUs may be on the other socket")
                .read(summary(kubelet), from)
                .fix("topologyManagerPolicy: restricted (or best-effort)"),
        );
    }
    if kubelet
        .reserved_cpus
        .as_ref()
        .is_none_or(|cpus| cpus.is_empty())
    {
        found.push(
            note(check, "which CPUs the kubelet keeps for the system is not known: exclusive CPUs are not foreseen")
                .read("absent", from)
                .fix("reservedSystemCPUs in the kubelet's configuration"),
        );
    }
    found
}

fn memory_manager(check: &'static str, kubelet: &Kubelet, from: &str) -> Option<Finding> {
    let policy = kubelet.memory_manager_policy.as_deref()?;
    (policy == "Static").then(|| {
        note(
            check,
            "the memory manager gives memory by NUMA node: for guaranteed pods no promise is exact",
        )
        .read(policy, from)
        .fix("memoryManagerPolicy: None, where promises matter more")
    })
}

fn summary(kubelet: &Kubelet) -> String {
    format!(
        "topology manager {} (scope {}), CPU manager {}, memory manager {}",
        kubelet.topology_manager_policy,
        kubelet.topology_manager_scope,
        kubelet.cpu_manager_policy,
        kubelet.memory_manager_policy.as_deref().unwrap_or(UNKNOWN)
    )
}
