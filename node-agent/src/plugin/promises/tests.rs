//! Who waits, in which order, for what.

use expect_test::{Expect, expect};
use serde_json::json;

use super::super::fixtures::{
    RESOURCE, annotated, dgx_h100, gpus, node, numbers, pod, promised, promises, row, sorted,
    with_init,
};
use super::*;

#[track_caller]
fn check(promises: &Promises, expected: Expect) {
    let mut text = String::new();
    for waiting in &promises.waiting {
        let wants = waiting.wants.iter().map(|want| {
            let promise = want.promise.iter().flat_map(ContainerAssignment::gpus);
            let (container, count) = (&want.container, want.claim.gpu_count);
            format!("{container} {count} [{}]", numbers(promise))
        });
        let wants: Vec<String> = wants.collect();
        text += &format!("{}: {}\n", waiting.name, wants.join(", "));
    }
    expected.assert_eq(&text);
}

#[test]
fn pods_that_wait_are_listed_with_their_promises_in_the_kubelets_order() {
    let pods = [
        promised(pod("b", 2), "5 4"),
        promised(pod("a", 1), "0"),
        pod("foreign", 3),
        pod("cpu-only", 0),
    ];
    check(
        &promises(pods, &[]),
        expect![[r#"
            default/b: main 2 [5 4]
            default/a: main 1 [0]
            default/foreign: main 3 []
        "#]],
    );
}

#[test]
fn a_container_that_has_its_devices_waits_no_more() {
    let pods = [promised(pod("a", 2), "0 1"), promised(pod("b", 2), "2 3")];
    let promises = promises(pods, &[row("a", "main", "2 3")]);
    check(
        &promises,
        expect![[r#"
            default/b: main 2 [2 3]
        "#]],
    );
    assert_eq!(sorted(&promises.given[0].promised), "0 1");
    assert_eq!(sorted(&promises.given[0].devices), "2 3");
}

#[test]
fn a_pod_that_the_kubelet_passed_over_comes_last_until_the_kubelet_starts_again() {
    let mut pods = Pods::default();
    for (name, ranks) in [("refused", "0"), ("given", "1"), ("new", "2")] {
        pods.apply(promised(pod(name, 1), ranks));
    }
    let rows = [row("given", "main", "1")];
    check(
        &Promises::read(&pods, &node(), RESOURCE, &rows),
        expect![[r#"
            default/new: main 1 [2]
            default/refused: main 1 [0]
        "#]],
    );
    pods.kubelet_started();
    pods.apply(promised(pod("later", 1), "3"));
    check(
        &Promises::read(&pods, &node(), RESOURCE, &rows),
        expect![[r#"
            default/new: main 1 [2]
            default/refused: main 1 [0]
            default/later: main 1 [3]
        "#]],
    );
}

#[test]
fn an_init_container_is_asked_for_first_and_has_no_promise_of_its_own() {
    let pod = || promised(with_init(pod("a", 2), "load", 1), "0 1");
    check(
        &promises([pod()], &[]),
        expect![[r#"
            default/a: load 1 [], main 2 [0 1]
        "#]],
    );
    let after = promises([pod()], &[row("a", "load", "0")]);
    check(
        &after,
        expect![[r#"
            default/a: main 2 [0 1]
        "#]],
    );
    assert!(after.waiting[0].hands_on(&row("a", "load", "0")));
    assert!(!after.waiting[0].hands_on(&row("b", "load", "0")));
}

#[test]
fn an_assignment_for_another_pod_another_node_or_another_count_promises_nothing() {
    let other_uid = {
        let mut pod = promised(pod("a", 1), "0");
        pod.metadata.uid = Some("made-anew".to_owned());
        pod
    };
    let other_count = promised(pod("b", 2), "0");
    let nonsense = annotated(pod("c", 1), names::ASSIGNMENT, "{");
    let pods = [other_uid, other_count, nonsense];
    check(
        &promises(pods, &[]),
        expect![[r#"
            default/a: main 1 []
            default/b: main 2 []
            default/c: main 1 []
        "#]],
    );
    let elsewhere = super::super::fixtures::bound([promised(pod("d", 1), "0")]);
    let read = Promises::read(&elsewhere, &"n2".into(), "nvidia.com/gpu", &[]);
    assert!(read.waiting[0].wants[0].promise.is_none());
    let none = Promises::read(&elsewhere, &node(), "nvidia.com/mig-1g.10gb", &[]);
    assert!(none.waiting.is_empty());
}

#[test]
fn a_pod_that_is_to_be_deleted_is_not_admitted_and_one_that_was_admitted_comes_last() {
    let with = |pod: Pod, status: serde_json::Value| {
        let mut pod = pod;
        pod.status = Some(serde_json::from_value(status).unwrap());
        pod
    };
    let mut deleted = promised(pod("deleted", 1), "0");
    deleted.metadata.deletion_timestamp = pod("x", 0).metadata.creation_timestamp;
    let running = with(promised(pod("runs", 1), "1"), json!({"phase": "Running"}));
    let starting = json!({"phase": "Pending", "containerStatuses": [{
        "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
    }]});
    let starting = with(promised(pod("starts", 1), "2"), starting);
    let new = with(promised(pod("new", 1), "3"), json!({"phase": "Pending"}));
    check(
        &promises([deleted, running, starting, new], &[]),
        expect![[r#"
            default/new: main 1 [3]
            default/runs: main 1 [1]
            default/starts: main 1 [2]
        "#]],
    );
}

#[test]
fn a_pod_with_a_bad_annotation_still_waits_for_its_count() {
    let bad = annotated(pod("a", 2), names::LINK, "string");
    check(
        &promises([bad], &[]),
        expect![[r#"
            default/a: main 2 []
        "#]],
    );
}

#[test]
fn what_a_swap_freed_is_found_through_any_number_of_swaps() {
    let pods = ["0", "1", "2", "3"].map(|gpu| promised(pod(&format!("p{gpu}"), 1), gpu));
    let set = |numbers: &str| gpus(numbers).into_iter().collect::<BTreeSet<_>>();
    let rows = [row("p0", "main", "3"), row("p1", "main", "0")];
    let swapped = promises(pods.clone(), &rows);
    let freed = swapped.instead_of(&set("3")).map(sorted);
    assert_eq!(freed.as_deref(), Some("1"));
    assert_eq!(swapped.instead_of(&set("2")), None);
    let circle = promises(pods, &[row("p0", "main", "1"), row("p1", "main", "0")]);
    assert_eq!(circle.instead_of(&set("0")), None);
}

#[test]
fn who_is_given_a_set_is_who_was_promised_it_else_the_first_of_that_size() {
    let pods = [
        pod("single", 1),
        promised(pod("a", 2), "0 1"),
        promised(pod("b", 2), "2 3"),
    ];
    let promises = promises(pods, &[]);
    let set = |numbers: &str| gpus(numbers).into_iter().collect::<BTreeSet<_>>();
    let name = |devices: &str| {
        let recipient = promises.recipient(&set(devices), &[]);
        recipient.map(|(waiting, _)| waiting.name.clone())
    };
    assert_eq!(name("2 3").as_deref(), Some("default/b"));
    assert_eq!(name("6 7").as_deref(), Some("default/a"));
    assert_eq!(name("6").as_deref(), Some("default/single"));
    assert_eq!(name("4 5 6"), None);
    assert_eq!(dgx_h100().gpus.len(), 8);
}

#[test]
fn who_reuses_the_devices_of_an_init_container_is_its_own_pod() {
    let pods = [
        pod("first", 2),
        promised(with_init(pod("a", 2), "load", 1), "4 5"),
    ];
    let rows = [row("a", "load", "4")];
    let promises = promises(pods, &rows);
    let set = gpus("4 7").into_iter().collect();
    let (waiting, want) = promises.recipient(&set, &rows).unwrap();
    assert_eq!(
        (waiting.name.as_str(), want.container.as_str()),
        ("default/a", "main")
    );
}
