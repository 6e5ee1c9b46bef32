//! What a waiting pod says of its set, as another process takes it up.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::fixtures::*;
use crate::index::Index;

fn note() -> Note {
    Note {
        node: "a".to_owned(),
        victims: ["u-p0".into(), "u-p1".into()].into(),
        seconds: 90,
    }
}

/// A pod whose status is what the patch of its note makes of it.
fn saying(note: &Note, is_kept: bool) -> Pod {
    let mut pod = pod("high", 4);
    let uid = PodUid::from(pod.metadata.uid.as_deref().unwrap());
    let mut patch = note.patch(&uid, is_kept, Timestamp::UNIX_EPOCH);
    assert_eq!(patch["metadata"]["uid"], "u-high");
    pod.status = Some(serde_json::from_value(patch["status"].take()).unwrap());
    pod
}

/// Whether a set is kept at that second of a process that began at `start`.
fn holds(index: &mut Index, start: Instant, second: u64) -> bool {
    index.snapshot(start + Duration::from_secs(second));
    index.hold_of(&"u-high".into()).is_some()
}

#[test]
fn a_process_that_did_not_evict_keeps_the_set_as_long_as_the_pod_says() {
    let (mut index, start) = (cluster(&["a"]), Instant::now());
    index.apply_pod(&saying(&note(), true));
    assert!(holds(&mut index, start, 0) && holds(&mut index, start, 89));
    assert!(!holds(&mut index, start, 90), "it is over");
    index.apply_pod(&saying(&note(), true));
    assert!(!holds(&mut index, start, 91), "once is enough");
    let again = Note {
        seconds: 91,
        ..note()
    };
    index.apply_pod(&saying(&again, true));
    assert!(holds(&mut index, start, 92), "others were evicted for it");
}

#[test]
fn it_is_over_when_the_pod_says_so_or_is_bound_or_gone() {
    let (mut index, start) = (cluster(&["a"]), Instant::now());
    index.apply_pod(&saying(&note(), true));
    assert!(holds(&mut index, start, 1));
    index.apply_pod(&saying(&note(), false));
    assert!(!holds(&mut index, start, 2));
    index.apply_pod(&saying(&note(), true));
    assert!(holds(&mut index, start, 3));
    index.apply_pod(&bound(saying(&note(), true), "a", &[0, 1, 2, 3]));
    assert!(!holds(&mut index, start, 4));
    index.delete_pod("u-high");
    index.apply_pod(&saying(&note(), true));
    assert!(holds(&mut index, start, 5));
    index.delete_pod("u-high");
    assert!(!holds(&mut index, start, 6));
}

#[test]
fn who_evicts_keeps_what_it_decided_and_forgets_what_was_never_said() {
    let (mut index, start) = (cluster(&["a"]), Instant::now());
    index.apply_pod(&pod("high", 4));
    index.hold(&"u-high".into(), note().hold(start));
    index.let_unsaid_go();
    assert!(!holds(&mut index, start, 1), "nobody was evicted yet");
    index.hold(&"u-high".into(), note().hold(start));
    index.apply_pod(&saying(&note(), true));
    index.let_unsaid_go();
    assert!(holds(&mut index, start, 89));
    index.let_go(&"u-high".into());
    index.apply_pod(&saying(&note(), true));
    assert!(!holds(&mut index, start, 89), "it was given up");
}

#[test]
fn what_nobody_of_ours_wrote_is_not_taken_for_a_note() {
    let long = Note {
        seconds: 1_000_000,
        ..note()
    };
    assert_eq!(Note::of_pod(&saying(&note(), true)), Some(note()));
    assert_eq!(Note::of_pod(&saying(&long, true)), None);
    assert_eq!(Note::of_pod(&pod("high", 4)), None);
    for message in [
        None,
        Some("not JSON"),
        Some("{}"),
        Some(&*" ".repeat(1 << 20)),
    ] {
        let mut pod = saying(&note(), true);
        let conditions = pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions[0].message = message.map(str::to_owned);
        assert_eq!(Note::of_pod(&pod), None, "{message:?}");
    }
}
