//! Binds against a real HTTP API server of ours, late answers and races included.

use std::collections::BTreeSet;

use berth_topology::assignment::Assignment;
use berth_topology::ids::PodUid;
use berth_topology::names;

use super::*;
use crate::fake_api::{FakeApi, Mood};
use berth_extender_core::fixtures::*;

fn request(pod: &str, node: &str) -> Request {
    Request {
        namespace: "ns".to_owned(),
        name: pod.to_owned(),
        uid: PodUid(format!("u-{pod}")),
        node: node.to_owned(),
    }
}

/// Nodes `a` and `b`, and an API server with those pods, which the index has seen too.
fn setup(pods: &[Pod]) -> (FakeApi, Binder) {
    let api = FakeApi::start();
    let mut index = cluster(&["a", "b"]);
    for pod in pods {
        api.create(pod.clone());
        index.apply_pod(pod);
    }
    let binder = Binder::new(Arc::new(Mutex::new(index)), api.client.clone());
    (api, binder)
}

fn assigned(pod: &Pod) -> Vec<String> {
    let text = &pod.metadata.annotations.as_ref().unwrap()[names::ASSIGNMENT];
    let gpus = Assignment::decode(text).unwrap();
    gpus.gpus().map(ToString::to_string).collect()
}

fn free(binder: &Binder, node: &str) -> usize {
    free_count(&mut lock(&binder.index), node)
}

#[actix_web::test]
async fn one_write_sets_node_and_gpus_on_a_node_that_was_never_scored() {
    let (api, binder) = setup(&[pod("p", 4)]);
    binder.bind(&request("p", "a")).await.unwrap();
    let bound = api.pod("p");
    assert_eq!(bound.spec.as_ref().unwrap().node_name.as_deref(), Some("a"));
    let text = &bound.metadata.annotations.as_ref().unwrap()[names::ASSIGNMENT];
    let assignment = Assignment::decode(text).unwrap();
    assert_eq!(assignment.pod_uid, Some("u-p".into()));
    assert_eq!(assignment.node, Some("a".into()));
    assert_eq!(assignment.topology_hash.as_deref(), Some("h"));
    assert_eq!(assigned(&bound), ["a-0", "a-1", "a-2", "a-3"]);
    assert_eq!(lock(&api.state).bindings, 1);
}

#[actix_web::test]
async fn own_writes_are_seen_before_the_watch_shows_them_and_counted_once_after() {
    let (api, binder) = setup(&[pod("p", 4)]);
    binder.bind(&request("p", "a")).await.unwrap();
    assert_eq!(free(&binder, "a"), 4);
    lock(&binder.index).apply_pod(&pod("p", 4));
    assert_eq!(free(&binder, "a"), 4, "an event from before the bind");
    lock(&binder.index).apply_pod(&api.pod("p"));
    assert_eq!(free(&binder, "a"), 4);
    assert_eq!(lock(&binder.index).sizes().reservations, 0);
}

#[actix_web::test]
async fn binding_again_is_a_success_and_writes_nothing() {
    let (api, binder) = setup(&[pod("p", 4)]);
    binder.bind(&request("p", "a")).await.unwrap();
    binder.bind(&request("p", "a")).await.unwrap();
    lock(&binder.index).apply_pod(&api.pod("p"));
    binder.bind(&request("p", "a")).await.unwrap();
    assert_eq!(lock(&api.state).bindings, 1);
    let elsewhere = binder.bind(&request("p", "b")).await.unwrap_err();
    assert_eq!(elsewhere.to_string(), "the pod is already bound to node a");
}

#[actix_web::test]
async fn a_bind_whose_answer_was_lost_holds_its_gpus_and_succeeds_when_repeated() {
    let (api, binder) = setup(&[pod("p", 4)]);
    api.set(Mood::DoesButFails);
    assert!(matches!(
        binder.bind(&request("p", "a")).await,
        Err(Error::Unsure(_))
    ));
    assert_eq!(free(&binder, "a"), 4);
    assert_eq!(verdict(&mut lock(&binder.index), &pod("p", 4), "a"), "fits");
    assert_eq!(
        verdict(&mut lock(&binder.index), &pod("p", 4), "b"),
        "Unconfirmed"
    );
    assert!(matches!(
        binder.bind(&request("p", "b")).await,
        Err(Error::Unconfirmed(_))
    ));
    api.set(Mood::Honest);
    binder.bind(&request("p", "a")).await.unwrap();
    assert_eq!(assigned(&api.pod("p")).len(), 4);
}

#[actix_web::test]
async fn a_bind_that_was_never_done_frees_its_gpus_once_the_watch_would_have_shown_it() {
    let (api, binder) = setup(&[pod("p", 8)]);
    api.set(Mood::Fails);
    assert!(binder.bind(&request("p", "a")).await.is_err());
    assert_eq!(free(&binder, "a"), 0);
    let later = Instant::now() + Duration::from_secs(16);
    assert_eq!(
        lock(&binder.index)
            .snapshot(later)
            .node("a")
            .unwrap()
            .room
            .free
            .len(),
        8
    );
}

#[actix_web::test]
async fn while_the_pod_watch_is_down_an_unsure_bind_is_held() {
    let (api, binder) = setup(&[pod("p", 8)]);
    api.set(Mood::Fails);
    assert!(binder.bind(&request("p", "a")).await.is_err());
    let later = Instant::now() + Duration::from_secs(1_000);
    lock(&binder.index).lost(berth_extender_core::index::Kind::Pods, Instant::now());
    assert_eq!(
        lock(&binder.index)
            .snapshot(later)
            .node("a")
            .unwrap()
            .room
            .free
            .len(),
        0
    );
}

#[actix_web::test]
async fn a_pod_that_is_gone_or_was_created_again_is_not_bound() {
    let (api, binder) = setup(&[pod("p", 2), pod("q", 2)]);
    lock(&api.state).pods.remove("p");
    let outcome = binder.bind(&request("p", "a")).await;
    assert!(matches!(outcome, Err(Error::Gone)), "{outcome:?}");
    let mut again = pod("q", 2);
    again.metadata.uid = Some("u-new".to_owned());
    api.create(again);
    let outcome = binder.bind(&request("q", "a")).await;
    assert!(matches!(outcome, Err(Error::Recreated)), "{outcome:?}");
    assert_eq!(free(&binder, "a"), 8, "nothing is left behind");
    lock(&binder.index).delete_pod("u-q");
    assert!(matches!(
        binder.bind(&request("q", "a")).await,
        Err(Error::Gone)
    ));
}

#[actix_web::test]
async fn a_node_that_does_not_exist_is_refused_although_the_server_would_not_mind() {
    let (api, binder) = setup(&[pod("p", 2)]);
    let error = binder.bind(&request("p", "nowhere")).await.unwrap_err();
    assert_eq!(error.to_string(), "node nowhere does not exist");
    let without = pod("cpu-only", 0);
    api.create(without);
    assert!(matches!(
        binder.bind(&request("cpu-only", "nowhere")).await,
        Err(Error::NoNode(_))
    ));
    assert_eq!(lock(&api.state).bindings, 0);
}

#[actix_web::test]
async fn a_pod_of_another_resource_is_bound_without_an_assignment() {
    let (api, binder) = setup(&[pod("cpu-only", 0)]);
    binder.bind(&request("cpu-only", "a")).await.unwrap();
    let bound = api.pod("cpu-only");
    assert_eq!(bound.spec.unwrap().node_name.as_deref(), Some("a"));
    assert!(
        bound
            .metadata
            .annotations
            .is_none_or(|annotations| annotations.is_empty())
    );
}

#[actix_web::test]
async fn a_pod_that_somebody_else_bound_here_is_no_success() {
    let (api, binder) = setup(&[bound_by_other(pod("p", 2), "a")]);
    assert!(matches!(
        binder.bind(&request("p", "a")).await,
        Err(Error::BoundByOther)
    ));
    let lagging = pod("q", 2);
    lock(&binder.index).apply_pod(&lagging);
    api.create(bound_by_other(lagging, "b"));
    assert!(matches!(
        binder.bind(&request("q", "a")).await,
        Err(Error::BoundElsewhere(_))
    ));
    assert_eq!(free(&binder, "a"), 6, "two GPUs of p, none of q");
}

#[actix_web::test]
async fn an_extender_that_started_after_filter_binds_what_it_has_not_seen_yet() {
    let (api, binder) = setup(&[]);
    api.create(pod("p", 4));
    binder.bind(&request("p", "a")).await.unwrap();
    assert_eq!(assigned(&api.pod("p")).len(), 4);
    assert_eq!(free(&binder, "a"), 4);
}

#[actix_web::test]
async fn what_fitted_at_filter_may_be_refused_at_bind_with_the_reason() {
    let (_, binder) = setup(&[pod("p", 4)]);
    lock(&binder.index).apply_pod(&bound(pod("q", 5), "a", &[0, 1, 2, 3, 4]));
    let error = binder.bind(&request("p", "a")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the pod does not fit the node any more: not enough free GPUs"
    );
}

#[actix_web::test]
async fn binds_at_once_never_give_a_gpu_twice() {
    let pods: Vec<Pod> = (0..12)
        .map(|number| pod(&format!("p{number}"), 2))
        .collect();
    let (api, binder) = setup(&pods);
    let binds = pods.iter().map(|pod| {
        let (binder, name) = (binder.clone(), pod.metadata.name.clone().unwrap());
        async move { binder.bind(&request(&name, "a")).await }
    });
    let outcomes = futures::future::join_all(binds).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 4);
    let state = lock(&api.state);
    let bound = state
        .pods
        .values()
        .filter(|pod| pod.spec.as_ref().unwrap().node_name.is_some());
    let gpus: Vec<String> = bound.flat_map(assigned).collect();
    assert_eq!(gpus.len(), 8);
    assert_eq!(gpus.iter().collect::<BTreeSet<_>>().len(), 8);
}
