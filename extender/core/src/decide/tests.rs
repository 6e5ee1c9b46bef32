//! What is free, who is refused and why, from plain objects.

use std::time::{Duration, Instant};

use berth_topology::allocation::Allocation;

use super::*;
use crate::fixtures::*;
use crate::index::{Index, Kind};

#[test]
fn filter_answers_only_with_names_it_was_given() {
    let mut index = cluster(&["a", "b", "c"]);
    let snapshot = snapshot(&mut index);
    let verdicts = filter(&snapshot, &ask(&pod("p", 2)), &["b", "x"]);
    let named: Vec<_> = verdicts.offered.iter().map(|one| one.name).collect();
    assert_eq!(named, ["b", "x"]);
    assert_eq!(verdicts.outcomes, [Outcome::Fits(10), Outcome::Refused(0)]);
    assert_eq!(verdicts.reasons, [No::Refused(Refusal::NoTopology)]);
}

#[test]
fn a_pod_of_another_resource_fits_everywhere_even_on_nodes_unknown_to_us() {
    let mut index = cluster(&["a"]);
    let snapshot = snapshot(&mut index);
    let ask = ask(&pod("p", 0));
    let verdicts = filter(&snapshot, &ask, &["a", "x"]);
    assert_eq!(verdicts.feasible_count(), 2);
    let scores = prioritize(&snapshot, &ask, &verdicts.offered, Preference::Pack);
    let told: Vec<_> = scores
        .iter()
        .map(|(one, score)| (one.name, *score))
        .collect();
    assert_eq!(told, [("a", 0), ("x", 0)]);
}

#[test]
fn filter_holds_nothing_however_often_it_is_asked() {
    let mut index = cluster(&["a"]);
    for _ in 0..3 {
        assert_eq!(verdict(&mut index, &pod("p", 8), "a"), "fits");
    }
    assert_eq!(verdict(&mut index, &pod("q", 8), "a"), "fits");
}

#[test]
fn what_leaving_pods_could_resolve_is_told_from_what_nothing_resolves() {
    let mut index = cluster(&["a"]);
    index.apply_pod(&bound(pod("p", 4), "a", &[0, 1, 2, 3]));
    index.apply_pod(&bound(pod("q", 1), "a", &[4]));
    let mut check = |pod: &Pod, kind: &str, resolvable: bool| {
        let no = judge(&snapshot(&mut index), &ask(pod), "a").unwrap_err();
        assert_eq!((no.kind(), no.is_resolvable()), (kind, resolvable));
    };
    check(&pod("r", 4), "NotEnoughFree", true);
    check(&pod("r", 9), "TooFewGpus", false);
    check(
        &annotated(pod("r", 1), "berth.dev/gpu-model", "H100"),
        "WrongModel",
        false,
    );
    check(
        &annotated(pod("r", 1), "berth.dev/link", "fast"),
        "BadClaim",
        false,
    );
    let whole = annotated(pod("r", 4), "berth.dev/link", "nvlink");
    check(
        &annotated(whole, "berth.dev/link-policy", "require"),
        "NotEnoughFree",
        true,
    );
}

#[test]
fn a_bad_annotation_is_refused_with_its_name_and_what_is_allowed() {
    let mut index = cluster(&["a"]);
    let no = judge(
        &snapshot(&mut index),
        &ask(&annotated(pod("p", 2), "berth.dev/numa", "both")),
        "a",
    );
    assert_eq!(
        no.unwrap_err().to_string(),
        "annotation berth.dev/numa is \"both\"; allowed: single, prefer, any"
    );
}

#[test]
fn a_node_that_vanishes_is_refused_and_its_pods_count_again_when_it_is_back() {
    let mut index = cluster(&["a"]);
    index.apply_pod(&bound(pod("p", 4), "a", &[0, 1, 2, 3]));
    let before = snapshot(&mut index);
    index.delete_node("a");
    assert_eq!(verdict(&mut index, &pod("q", 1), "a"), "NoTopology");
    assert!(
        judge(&before, &ask(&pod("q", 1)), "a").is_ok(),
        "a snapshot does not change"
    );
    index.apply_node(&node("a"));
    assert_eq!(free_count(&mut index, "a"), 4);
}

#[test]
fn a_node_whose_agent_is_silent_is_refused_as_stale_and_comes_back() {
    let mut index = cluster(&["a"]);
    let later = Instant::now() + Duration::from_secs(61);
    let kind = |index: &mut Index, at| {
        judge(&index.snapshot(at), &ask(&pod("p", 1)), "a").map_err(|no| no.kind())
    };
    assert_eq!(kind(&mut index, later), Err("Stale"));
    let before = index.snapshot(later).generation;
    index.apply_lease(&renewed("a", -77), later);
    assert!(kind(&mut index, later).is_ok());
    assert!(
        index.snapshot(later).generation > before,
        "refused pods are looked at again"
    );
}

#[test]
fn a_node_without_an_agent_has_no_topology() {
    let mut index = cluster(&["a"]);
    index.apply_node(&node("b"));
    assert_eq!(verdict(&mut index, &pod("p", 1), "b"), "NoTopology");
    let empty = berth_topology::node::NodeTopology {
        status: None,
        ..topology("b")
    };
    index.apply_topology(&empty);
    assert_eq!(verdict(&mut index, &pod("p", 1), "b"), "NoTopology");
}

#[test]
fn pods_bound_by_others_count_until_the_kubelet_names_their_gpus() {
    let mut index = cluster(&["a"]);
    index.apply_pod(&bound_by_other(pod("static", 3), "a"));
    assert_eq!(free_count(&mut index, "a"), 5);
    let mut told = topology("a");
    told.status.as_mut().unwrap().allocations = vec![allocation("static", "a", &[0, 1, 2])];
    index.apply_topology(&told);
    assert_eq!(free_count(&mut index, "a"), 5);
    let placed = choose(&snapshot(&mut index), &ask(&pod("any", 4)), "a").unwrap();
    assert_eq!(placed.gpus.iter().collect::<Vec<_>>(), [4, 5, 6, 7]);
}

#[test]
fn an_assignment_that_is_not_for_this_pod_and_node_is_not_believed() {
    let mut index = cluster(&["a", "b"]);
    let mut forged = bound(pod("p", 2), "b", &[0, 1]);
    forged.spec.as_mut().unwrap().node_name = Some("a".to_owned());
    index.apply_pod(&forged);
    let room = snapshot(&mut index).node("a").unwrap().room;
    assert_eq!((room.free.len(), room.unknown_count), (8, 2));
    let mut other_count = bound(pod("q", 2), "b", &[0]);
    other_count.metadata.uid = Some("u-q".to_owned());
    index.apply_pod(&other_count);
    assert_eq!(
        snapshot(&mut index).node("b").unwrap().room.unknown_count,
        2
    );
}

#[test]
fn an_allocation_of_a_deleted_or_finished_pod_no_longer_counts() {
    let mut index = cluster(&["a"]);
    let mut told = topology("a");
    told.status.as_mut().unwrap().allocations =
        vec![allocation("p", "a", &[0]), allocation("q", "a", &[1])];
    index.apply_topology(&told);
    assert_eq!(free_count(&mut index, "a"), 6, "pods that are not seen yet");
    index.apply_pod(&bound(pod("p", 1), "a", &[0]));
    index.apply_pod(&in_phase(bound(pod("q", 1), "a", &[1]), "Failed"));
    assert_eq!(free_count(&mut index, "a"), 7);
    index.delete_pod("u-p");
    index.delete_pod("u-q");
    assert_eq!(free_count(&mut index, "a"), 8);
}

#[test]
fn allocations_of_another_resource_are_none_of_ours() {
    let mut index = cluster(&["a"]);
    let mut told = topology("a");
    let other = Allocation {
        resource: "vendor.com/nic".to_owned(),
        ..allocation("x", "a", &[0, 1])
    };
    told.status.as_mut().unwrap().allocations = vec![other];
    index.apply_topology(&told);
    assert_eq!(free_count(&mut index, "a"), 8);
}

#[test]
fn init_containers_reuse_the_gpus_of_the_others() {
    let mut index = cluster(&["a"]);
    let mut with_init = pod("p", 4);
    let spec = with_init.spec.as_mut().unwrap();
    let mut init = spec.containers[0].clone();
    init.name = "warm".to_owned();
    spec.init_containers = Some(vec![init]);
    index.apply_pod(&bound(with_init, "a", &[0, 1, 2, 3]));
    assert_eq!(free_count(&mut index, "a"), 4);
}

#[test]
fn a_relist_forgets_what_is_gone() {
    let mut index = cluster(&["a", "b"]);
    index.apply_pod(&bound(pod("p", 8), "a", &[0, 1, 2, 3, 4, 5, 6, 7]));
    index.lost(Kind::Pods, Instant::now());
    assert_eq!(
        free_count(&mut index, "a"),
        0,
        "what was seen stays while nothing can be seen"
    );
    index.reset_pods(Vec::new());
    assert_eq!(free_count(&mut index, "a"), 8);
    index.reset_nodes(&[node("b")]);
    assert_eq!(verdict(&mut index, &pod("q", 1), "a"), "NoTopology");
    index.reset_topologies(&[]);
    assert_eq!(verdict(&mut index, &pod("q", 1), "b"), "NoTopology");
}

#[test]
fn readiness_waits_for_every_kind() {
    let now = Instant::now();
    let mut index = Index::new(RESOURCE, Duration::from_secs(60), now);
    index.reset_nodes(&[]);
    index.reset_topologies(&[]);
    index.reset_pods(Vec::new());
    assert!(!index.is_synced());
    index.reset_leases(&[], now);
    assert!(index.is_synced());
}
