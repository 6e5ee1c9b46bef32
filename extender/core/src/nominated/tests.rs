//! For whom a set is kept, from whom, and for how long.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_topology::ids::PodUid;

use crate::decide::{choose, judge};
use crate::fixtures::*;
use crate::held::Hold;
use crate::index::Index;

/// Node `a` is full: `low` on the first quad is leaving for `high`, `rest` stays on the second.
fn freed_for_high() -> Index {
    let mut index = cluster(&["a"]);
    index.apply_pod(&terminating(bound(pod("low", 4), "a", &[0, 1, 2, 3])));
    index.apply_pod(&bound(pod("rest", 3), "a", &[4, 5, 6]));
    index.apply_pod(&nominated(ranked(nvlinked(pod("high", 4)), 100), "a"));
    index
}

fn gpus(index: &mut Index, pod: &k8s_openapi::api::core::v1::Pod) -> Vec<usize> {
    let placed = choose(&snapshot(index), &ask(pod), "a").unwrap();
    placed.gpus.iter().collect()
}

#[test]
fn a_victim_holds_its_gpus_until_it_is_gone_and_then_they_are_its_preemptors_only() {
    let mut index = freed_for_high();
    let high = ranked(nvlinked(pod("high", 4)), 100);
    assert_eq!(verdict(&mut index, &high, "a"), "NotEnoughFree");
    index.delete_pod("u-low");
    assert_eq!(gpus(&mut index, &high), [0, 1, 2, 3]);
    assert_eq!(
        gpus(&mut index, &pod("other", 1)),
        [7],
        "what is left beside the set"
    );
    assert_eq!(verdict(&mut index, &pod("other", 2), "a"), "Promised");
}

#[test]
fn a_pod_of_higher_priority_does_not_yield_one_of_equal_priority_does() {
    let mut index = freed_for_high();
    index.delete_pod("u-low");
    assert_eq!(
        verdict(&mut index, &ranked(pod("other", 4), 101), "a"),
        "fits"
    );
    assert_eq!(
        verdict(&mut index, &ranked(pod("other", 4), 100), "a"),
        "Promised"
    );
}

#[test]
fn bind_gives_nobody_else_the_set_either() {
    let mut index = freed_for_high();
    index.delete_pod("u-low");
    let no = choose(&snapshot(&mut index), &ask(&pod("other", 2)), "a").unwrap_err();
    assert_eq!(no.kind(), "NotEnoughFree");
}

#[test]
fn the_set_is_kept_as_long_as_the_nomination_stands() {
    let high = || ranked(nvlinked(pod("high", 4)), 100);
    type End = fn(&mut Index);
    let ends: [(&str, End); 5] = [
        ("cleared", |index| {
            index.apply_pod(&ranked(nvlinked(pod("high", 4)), 100));
        }),
        ("gone", |index| index.delete_pod("u-high")),
        ("being deleted", |index| {
            index.apply_pod(&terminating(nominated(ranked(pod("high", 4), 100), "a")));
        }),
        ("finished", |index| {
            index.apply_pod(&in_phase(
                nominated(ranked(pod("high", 4), 100), "a"),
                "Failed",
            ));
        }),
        ("bound elsewhere", |index| {
            index.apply_pod(&bound(
                nominated(ranked(pod("high", 4), 100), "a"),
                "b",
                &[0, 1, 2, 3],
            ));
        }),
    ];
    for (end, end_it) in ends {
        let mut index = freed_for_high();
        index.delete_pod("u-low");
        assert_eq!(
            verdict(&mut index, &pod("other", 4), "a"),
            "Promised",
            "{end}"
        );
        end_it(&mut index);
        assert_eq!(verdict(&mut index, &pod("other", 4), "a"), "fits", "{end}");
        assert_eq!(verdict(&mut index, &high(), "a"), "fits", "{end}");
    }
}

#[test]
fn a_nominee_that_is_bound_here_holds_what_it_was_given_and_nothing_more() {
    let mut index = freed_for_high();
    index.delete_pod("u-low");
    index.apply_pod(&bound(
        nominated(ranked(pod("high", 4), 100), "a"),
        "a",
        &[0, 1, 2, 3],
    ));
    assert_eq!(free_count(&mut index, "a"), 1);
}

#[test]
fn two_nominees_are_kept_two_sets_in_order_of_priority() {
    let mut index = cluster(&["a"]);
    index.apply_pod(&nominated(ranked(nvlinked(pod("second", 4)), 10), "a"));
    index.apply_pod(&nominated(ranked(nvlinked(pod("first", 4)), 100), "a"));
    let first = ranked(nvlinked(pod("first", 4)), 100);
    let second = ranked(nvlinked(pod("second", 4)), 10);
    assert_eq!(gpus(&mut index, &first), [0, 1, 2, 3]);
    assert_eq!(gpus(&mut index, &second), [4, 5, 6, 7]);
    assert_eq!(verdict(&mut index, &pod("other", 1), "a"), "Promised");
}

#[test]
fn a_set_that_the_extender_frees_is_kept_until_its_time_is_over() {
    let mut index = cluster(&["a"]);
    index.apply_pod(&bound(pod("low", 1), "a", &[0]));
    index.apply_pod(&bound(pod("other", 1), "a", &[4]));
    index.apply_pod(&ranked(nvlinked(pod("high", 4)), 100));
    let now = Instant::now();
    let hold = Hold {
        node: "a".into(),
        victims: Arc::new(BTreeSet::from([PodUid::from("u-low")])),
        until: now + Duration::from_secs(30),
    };
    index.hold(&"u-high".into(), hold);
    let kind = |index: &mut Index, at| {
        judge(&index.snapshot(at), &ask(&pod("next", 4)), "a").map_err(|no| no.kind())
    };
    // Three are free beside the three of the first quad, which are kept with the one that leaves.
    assert_eq!(kind(&mut index, now), Err("Promised"));
    index.delete_pod("u-low");
    assert_eq!(kind(&mut index, now), Err("Promised"));
    assert!(kind(&mut index, now + Duration::from_secs(30)).is_ok());
}
