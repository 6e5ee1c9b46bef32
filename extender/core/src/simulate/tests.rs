//! Requests that an autoscaler would send, and some that nobody should.

use std::cell::Cell;

use berth_topology::ids::GpuIndex;
use serde_json::json;

use super::*;
use crate::fixtures::*;

fn request(value: serde_json::Value) -> Request {
    serde_json::from_value(value).unwrap()
}

fn answer(value: serde_json::Value) -> Vec<Simulated> {
    simulate(&request(value), RESOURCE, || true).unwrap()
}

#[test]
fn residents_hold_their_gpus_on_their_node_only() {
    let held: Vec<String> = (0..6).map(|index| format!("a-{index}")).collect();
    let answers = answer(json!({
        "nodes": [topology("a"), topology("b")],
        "residents": [{"node": "a", "gpus": held}],
        "pods": [pod("four", 4), pod("two", 2)],
    }));
    let kinds = |pod: &Simulated| -> Vec<Option<String>> {
        let reasons = pod.nodes.values();
        reasons
            .map(|one| one.reason.as_ref().map(|reason| reason.kind.clone()))
            .collect()
    };
    assert_eq!(kinds(&answers[0]), [Some("NotEnoughFree".to_owned()), None]);
    assert_eq!(kinds(&answers[1]), [None, None]);
    assert_eq!(answers[0].pod, "ns/four");
    assert_eq!(answers[0].nodes["b"].score, Some(10));
}

#[test]
fn a_template_stands_for_as_many_nodes_as_asked_and_no_two_share_a_gpu() {
    let answers = answer(json!({
        "templates": [{"node": topology("new"), "count": 3}],
        "residents": [{"node": "new-1", "gpus": ["new-1/0"]}],
        "pods": [pod("all", 8)],
    }));
    let nodes = &answers[0].nodes;
    assert_eq!(
        nodes.keys().collect::<Vec<_>>(),
        ["new-0", "new-1", "new-2"]
    );
    assert!(!nodes["new-1"].feasible);
    let gpus: Vec<String> = ["new-0", "new-2"]
        .iter()
        .flat_map(|node| nodes[*node].ranks["c"].gpus())
        .map(ToString::to_string)
        .collect();
    let distinct: BTreeSet<&String> = gpus.iter().collect();
    assert_eq!(distinct.len(), 16, "{gpus:?}");
    assert!(distinct.contains(&"new-2/7".to_owned()));
}

#[test]
fn a_promise_is_exact_where_the_kubelet_and_its_plugin_say_so() {
    let mut held = exact("b", "single-numa-node");
    let truths = [("r", "0-15", 0..4), ("gone", "16-31", 4..8)];
    held.allocations = truths
        .map(|(pod, cpus, gpus)| Allocation {
            cpus: Some(cpus.parse().unwrap()),
            ..allocation(pod, "b", &gpus.collect::<Vec<u32>>())
        })
        .to_vec();
    let mut busy = pod("busy", 1);
    let limits = json!({RESOURCE: "1", "cpu": "2", "memory": "1Gi"});
    busy.spec.as_mut().unwrap().containers[0].resources =
        serde_json::from_value(json!({"limits": limits})).unwrap();
    let answers = answer(json!({
        "nodes": [NodeTopology::new("a", exact("a", "single-numa-node")),
                  NodeTopology::new("b", held), topology("c")],
        // NUMA node 0 is held; `gone` has left since.
        "residents": [{"node": "b", "gpus": ["b-0", "b-1", "b-2", "b-3"]}],
        "pods": [pod("two", 2), pod("six", 6), busy],
    }));
    let told = |pod: usize, node: &str| {
        let one = &answers[pod].nodes[node];
        let reason = one.reason.as_ref().map(|reason| reason.kind.clone());
        (one.exact, one.inexact.map(str::to_owned).or(reason))
    };
    assert_eq!(told(0, "a"), (Some(true), None));
    assert_eq!(
        told(0, "c"),
        (Some(false), Some("PluginNotOurs".to_owned()))
    );
    let never = Some("KubeletNeverAdmits".to_owned());
    assert_eq!(told(1, "a"), (None, never));
    // The CPUs of a container whose GPUs no resident holds are free again.
    assert_eq!(told(2, "b"), (Some(true), None));
    assert_eq!(
        answers[2].nodes["b"].ranks["c"].ranks[0].index,
        Some(GpuIndex(4))
    );
}

#[track_caller]
fn check_refused(value: serde_json::Value, sentence: &str) {
    let error = simulate(&request(value), RESOURCE, || true).unwrap_err();
    assert!(error.to_string().contains(sentence), "{error}");
}

#[test]
fn what_cannot_be_answered_is_refused_with_a_sentence() {
    let two = [topology("a"), topology("a")];
    check_refused(json!({"nodes": two}), "two nodes are named \"a\"");
    check_refused(json!({"nodes": [topology("")]}), "no metadata.name");
    let resident = json!([{"node": "b", "gpus": []}]);
    check_refused(
        json!({"residents": resident}),
        "node \"b\", which is not among",
    );
    let many = json!([{"node": topology("a"), "count": 5_001}]);
    check_refused(json!({"templates": many}), "at most 5000 nodes");
    let most = json!([{"node": topology("a"), "count": u64::MAX}]);
    check_refused(json!({"templates": most}), "too many");
}

#[test]
fn it_stops_when_its_time_is_over() {
    let asked = request(json!({
        "templates": [{"node": topology("a"), "count": 10}],
        "pods": [pod("p", 1), pod("q", 2)],
    }));
    let left = Cell::new(15);
    let may_go_on = || {
        left.set(left.get() - 1);
        left.get() > 0
    };
    assert_eq!(simulate(&asked, RESOURCE, may_go_on), Err(Error::TooLong));
}

#[test]
fn a_node_without_a_topology_and_one_of_a_dra_driver_are_refused() {
    let mut dra = topology("b");
    let plugin = json!([{"resource": RESOURCE, "owner": "dra"}]);
    dra.status.as_mut().unwrap().plugins = serde_json::from_value(plugin).unwrap();
    let bare = json!({"metadata": {"name": "a"}});
    let answers = answer(json!({"nodes": [bare, dra], "pods": [pod("p", 1)]}));
    let kind = |node: &str| answers[0].nodes[node].reason.clone().unwrap().kind;
    assert_eq!(
        (kind("a"), kind("b")),
        ("NoTopology".to_owned(), "DraManaged".to_owned())
    );
}
