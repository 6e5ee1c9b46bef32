//! One pod's scheduling cycle, and all that may come between its steps: 5 to 9, 15 to 17, 25, 26.

use std::time::Instant;

use super::*;
use berth_extender_core::decide::{self, No};
use berth_extender_core::waiting::Waiting;

impl World {
    /// Whether other pods than `uid` are shown that GPUs of that node are promised.
    fn is_promised(&self, node: &str, uid: &str) -> bool {
        let snapshot = lock(&self.shared.service.index).snapshot(Instant::now());
        !snapshot.promised_to_others(node, &uid.into()).is_empty()
    }
}

#[actix_web::test]
async fn p05_a_single_node_is_filtered_and_bound_without_being_prioritized() {
    let world = world(cluster(&["n-2"]), None);
    let body = captured("filter-after-preempt-nominated");
    let nominated: Pod = serde_json::from_value(body["Pod"].clone()).unwrap();
    world.api.create(nominated.clone());
    assert_eq!(
        world.post("/filter", &body).await["NodeNames"],
        json!(["n-2"])
    );
    assert!(
        world.is_promised("n-2", "another"),
        "filter alone has promised it"
    );
    assert_eq!(world.bind(&nominated, "n-2").await, "");
    assert_eq!(world.assigned("high-1").len(), 4);
    assert!(
        !world.is_promised("n-2", "another"),
        "what is held needs no hint"
    );
}

#[actix_web::test]
async fn p06_a_repeated_filter_replaces_the_earlier_hint_and_holds_nothing() {
    let world = world(cluster(&["a", "b"]), None);
    let pod = pod("p", 8);
    for node in ["a", "b"] {
        assert_eq!(world.verdict(&pod, node).await, "fits");
    }
    assert!(!world.is_promised("a", "another") && world.is_promised("b", "another"));
    assert!(
        !world.is_promised("b", "u-p"),
        "a pod does not stand in its own way"
    );
    assert_eq!(
        world.filter(&pod, &["a", "b"]).await["NodeNames"],
        json!(["a", "b"])
    );
    assert!(
        !world.is_promised("b", "another"),
        "nothing was chosen this time"
    );
    assert_eq!(world.free("b").await, 8, "a hint never refuses");
}

#[actix_web::test]
async fn p07_a_node_that_was_never_scored_is_bound_with_gpus_chosen_then() {
    let world = world(cluster(&["a", "b"]), None);
    world.create(&pod("p", 4));
    assert_eq!(world.bind(&pod("p", 4), "b").await, "");
    assert_eq!(world.assigned("p"), ["b-0", "b-1", "b-2", "b-3"]);
    assert_eq!(world.bindings(), 1, "one write sets node and GPUs");
}

#[actix_web::test]
async fn p08_a_bind_whose_answer_was_lost_or_late_succeeds_when_it_is_repeated() {
    let world = world(cluster(&["a", "b"]), None);
    let pod = pod("p", 4);
    world.create(&pod);
    world.api.set(Mood::DoesButFails);
    let error = world.bind(&pod, "a").await;
    assert!(error.contains("did not answer the binding"), "{error}");
    assert_eq!(world.free("a").await, 4, "held while nobody knows");
    let elsewhere = world.bind(&pod, "b").await;
    assert!(
        elsewhere.contains("to node a, is not confirmed yet"),
        "{elsewhere}"
    );
    let why = "later: an earlier binding of this pod is not confirmed yet";
    assert_eq!(world.verdict(&pod, "b").await, why);
    assert_eq!(world.verdict(&pod, "a").await, "fits");
    world.api.set(Mood::Honest);
    let before = world.assigned("p");
    assert_eq!(world.bind(&pod, "a").await, "");
    world.see(&world.api.pod("p"));
    let bindings = world.bindings();
    assert_eq!(
        world.bind(&pod, "a").await,
        "",
        "confirmed, and asked again"
    );
    assert_eq!((world.assigned("p"), world.bindings()), (before, bindings));
    assert_eq!(
        world.bind(&pod, "b").await,
        "the pod is already bound to node a"
    );
}

#[actix_web::test]
async fn p08_a_bind_that_was_never_done_is_done_with_the_same_gpus_when_it_is_repeated() {
    let world = world(cluster(&["a"]), None);
    let pod = pod("p", 4);
    world.create(&pod);
    world.api.set(Mood::Fails);
    let error = world.bind(&pod, "a").await;
    assert!(error.contains("did not answer the binding"), "{error}");
    assert_eq!(world.api.pod("p").spec.unwrap().node_name, None);
    world.api.set(Mood::Honest);
    assert_eq!(world.bind(&pod, "a").await, "");
    assert_eq!(world.assigned("p"), ["a-0", "a-1", "a-2", "a-3"]);
    assert_eq!(world.free("a").await, 4);
}

#[actix_web::test]
async fn p09_a_pod_that_was_deleted_or_created_again_is_not_bound() {
    let world = world(cluster(&["a"]), None);
    let (gone, old) = (pod("p", 2), pod("q", 2));
    world.create(&gone);
    world.create(&old);
    lock(&world.api.state).pods.remove("p");
    assert_eq!(world.bind(&gone, "a").await, "the pod is gone");
    let mut new = old.clone();
    new.metadata.uid = Some("u-new".to_owned());
    world.api.create(new);
    let error = world.bind(&old, "a").await;
    assert_eq!(
        error,
        "the pod was deleted and created again; this binding is for the old one"
    );
    assert_eq!(world.api.pod("q").spec.unwrap().node_name, None);
    assert_eq!(world.free("a").await, 8, "nothing is left behind");
    lock(&world.shared.service.index).delete_pod("u-q");
    let bindings = world.bindings();
    assert_eq!(world.bind(&old, "a").await, "the pod is gone");
    assert_eq!(world.bindings(), bindings, "not even asked for");
}

#[actix_web::test]
async fn p15_a_node_that_vanishes_in_the_middle_is_refused_although_the_server_would_bind() {
    let world = world(cluster(&["a", "b"]), None);
    for one in [pod("p", 2), pod("cpu-only", 0)] {
        world.create(&one);
    }
    assert_eq!(world.verdict(&pod("p", 2), "a").await, "fits");
    lock(&world.shared.service.index).delete_node("a");
    assert_eq!(world.ranked(&pod("p", 2), &["a", "b"]).await[0], "b");
    for one in [pod("p", 2), pod("cpu-only", 0)] {
        assert_eq!(world.bind(&one, "a").await, "node a does not exist");
    }
    assert_eq!(world.bindings(), 0);
}

#[actix_web::test]
async fn p16_own_writes_are_seen_before_the_watch_shows_them_and_counted_once_after() {
    let world = world(cluster(&["a"]), None);
    world.create(&pod("p", 4));
    assert_eq!(world.bind(&pod("p", 4), "a").await, "");
    assert_eq!(world.free("a").await, 4);
    world.see(&pod("p", 4));
    assert_eq!(world.free("a").await, 4, "an event from before the bind");
    world.see(&world.api.pod("p"));
    assert_eq!(world.free("a").await, 4);
    assert_eq!(lock(&world.shared.service.index).sizes().reservations, 0);
}

#[actix_web::test]
async fn p17_an_extender_that_started_after_filter_binds_what_it_has_not_seen() {
    let before = world(cluster(&["a"]), None);
    assert_eq!(before.verdict(&pod("p", 4), "a").await, "fits");
    let after = world(cluster(&["a"]), None);
    after.api.create(pod("p", 4));
    assert_eq!(after.bind(&pod("p", 4), "a").await, "");
    assert_eq!(after.assigned("p").len(), 4);
    assert_eq!(after.free("a").await, 4);
}

#[actix_web::test]
async fn p25_when_the_answer_is_due_the_rest_is_refused_for_now_and_tried_again() {
    let names: Vec<String> = (0..40).map(|number| format!("n-{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut index = cluster(&names);
    let (snapshot, ask) = (snapshot(&mut index), ask(&pod("p", 1)));
    let mut looks = 0;
    let offered = snapshot.named(names);
    let verdicts = decide::filter_until(&snapshot, &ask, offered.clone(), || {
        looks += 1;
        looks > 1
    });
    let count = verdicts.feasible_count();
    assert!((1..40).contains(&count), "what was looked at counts");
    assert_eq!(
        verdicts.refused().count(),
        40 - count,
        "and every node is answered"
    );
    assert!(
        verdicts
            .refused()
            .all(|(_, no)| *no == No::OutOfTime && no.is_resolvable())
    );
    let nothing = decide::filter_until(&snapshot, &ask, offered, || true);
    assert!(nothing.is_nowhere() && !nothing.is_complete());
    let mut waiting = Waiting::default();
    waiting.refused_early(&ask, Instant::now());
    let poke = waiting.due(&snapshot, Instant::now());
    assert!(
        poke.is_some(),
        "no node need change before it is tried again"
    );
}

#[actix_web::test]
async fn p26_a_refused_pod_is_poked_once_when_it_would_fit() {
    let mut index = cluster(&["n-1"]);
    let full = bound(pod("p", 8), "n-1", &ALL);
    index.apply_pod(&full);
    let world = world(index, None);
    let service = &world.shared.service;
    let look = || crate::poke::look(&world.api.client, &service.index, &service.waiting, true);
    let _ = world.post("/filter", &captured("filter-cacheTrue")).await;
    assert!(!look().await.unwrap(), "it does not fit yet");
    lock(&service.index).apply_pod(&in_phase(full, "Succeeded"));
    assert!(look().await.unwrap());
    assert!(!look().await.unwrap(), "once is enough");
    let patches = lock(&world.api.state).patches.clone();
    assert_eq!(patches.len(), 1);
    assert_eq!(patches[0].0, "n-1");
    let annotations = patches[0].1["metadata"]["annotations"].as_object().unwrap();
    assert_eq!(annotations.keys().collect::<Vec<_>>(), ["berth.dev/freed"]);
}
