//! Who is poked, when, and who is forgotten.

use super::*;
use crate::bind;
use crate::fixtures::*;

/// A full node `a`, and a pod that was refused there.
fn refused() -> (Index, Waiting) {
    let mut index = cluster(&["a", "b"]);
    for name in ["a", "b"] {
        index.apply_pod(&bound(
            pod(&format!("on-{name}"), 8),
            name,
            &[0, 1, 2, 3, 4, 5, 6, 7],
        ));
    }
    let mut waiting = Waiting::default();
    for name in ["p", "q"] {
        index.apply_pod(&pod(name, 2));
        waiting.refused(&ask(&pod(name, 2)), &snapshot(&mut index), Instant::now());
    }
    (index, waiting)
}

#[test]
fn a_node_is_poked_at_most_once_a_second() {
    let (mut index, mut waiting) = refused();
    let now = Instant::now();
    assert_eq!(waiting.due(&index.snapshot(now), now), None);
    index.delete_pod("u-on-a");
    let first = waiting.due(&index.snapshot(now), now).unwrap();
    assert_eq!(&*first.node, "a");
    waiting.done(&first);
    assert_eq!(
        waiting.due(&index.snapshot(now), now),
        None,
        "the other pod waits"
    );
    let later = now + Duration::from_millis(1_001);
    assert_ne!(
        waiting.due(&index.snapshot(later), later).unwrap().uid,
        first.uid
    );
}

#[test]
fn a_poke_that_failed_is_made_again() {
    let (mut index, mut waiting) = refused();
    index.delete_pod("u-on-a");
    let now = Instant::now();
    assert!(waiting.due(&index.snapshot(now), now).is_some());
    let later = now + Duration::from_secs(2);
    assert!(waiting.due(&index.snapshot(later), later).is_some());
}

#[test]
fn a_pod_whose_bind_is_not_confirmed_is_tried_on_every_node_once_that_bind_is_over() {
    let mut index = cluster(&["a", "b"]);
    index.apply_pod(&pod("p", 8));
    let now = Instant::now();
    let request = bind::Request {
        uid: "u-p".into(),
        node: "a".to_owned(),
        ..bind::Request::default()
    };
    bind::prepare(&mut index, &request, None, now).unwrap();
    let lost = Err(bind::Error::Unsure(String::new()));
    bind::settle(&mut index, &request.uid, &lost, now);
    // Somebody else fills the node, so that kube-scheduler offers only the other one.
    index.apply_pod(&bound_by_other(pod("q", 8), "a"));
    let mut waiting = Waiting::default();
    waiting.refused(&ask(&pod("p", 8)), &index.snapshot(now), now);
    assert_eq!(waiting.due(&index.snapshot(now), now), None);
    let later = now + Duration::from_secs(16);
    assert_eq!(waiting.due(&index.snapshot(later), later), None);
    index.confirmed(&request.uid, Some(&pod("p", 8)), later, later);
    let poke = waiting.due(&index.snapshot(later), later).unwrap();
    assert_eq!(&*poke.node, "b", "which has not changed at all");
}

#[test]
fn pods_that_are_bound_or_gone_are_forgotten() {
    let (mut index, mut waiting) = refused();
    index.apply_pod(&bound(pod("p", 2), "b", &[0, 1]));
    index.delete_pod("u-q");
    waiting.prune(&index, Instant::now());
    assert!(waiting.pods.is_empty());
}

#[test]
fn a_pod_that_is_refused_again_waits_for_the_next_change() {
    let (mut index, mut waiting) = refused();
    index.delete_pod("u-on-a");
    let now = Instant::now();
    waiting.accepted(&PodUid::from("u-q"));
    waiting.refused(&ask(&pod("p", 2)), &index.snapshot(now), now);
    assert_eq!(waiting.due(&index.snapshot(now), now), None);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut index = cluster(&["a"]);
    let mut waiting = Waiting::default();
    let snapshot = snapshot(&mut index);
    for number in 0..WAITING_MAX + 10 {
        waiting.refused(
            &ask(&pod(&format!("p{number}"), 9)),
            &snapshot,
            Instant::now(),
        );
    }
    assert_eq!(waiting.pods.len(), WAITING_MAX);
}
