//! Binds against a real HTTP API server of ours, late answers and races included.

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
    let binder = Binder::new(
        Arc::new(Mutex::new(index)),
        api.client.clone(),
        Arc::default(),
    );
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

/// As if that much later, the pods of unconfirmed binds are read.
async fn confirm(api: &FakeApi, binder: &Binder, later_ms: u64) {
    let then = Instant::now() + Duration::from_millis(later_ms);
    crate::confirm::look(&api.client, &binder.index, then).await;
}

#[actix_web::test]
async fn a_bind_that_was_never_done_frees_its_gpus_once_a_read_has_proved_it() {
    let (api, binder) = setup(&[pod("p", 8)]);
    api.set(Mood::Fails);
    assert!(binder.bind(&request("p", "a")).await.is_err());
    confirm(&api, &binder, 0).await;
    assert_eq!(free(&binder, "a"), 0, "the POST may still have its effect");
    confirm(&api, &binder, 3_000).await;
    assert_eq!(free(&binder, "a"), 8);
}

#[actix_web::test]
async fn what_was_answered_is_over_and_what_was_not_is_not() {
    let (api, binder) = setup(&[pod("p", 1), pod("q", 1)]);
    binder.bind(&request("p", "a")).await.unwrap();
    assert!(binder.is_over());
    api.set(Mood::Fails);
    assert!(binder.bind(&request("q", "a")).await.is_err());
    assert!(!binder.is_over(), "it may still have its effect");
    let later = Instant::now() + POST_MAX + COMMIT_MAX;
    assert!(lock(&binder.sent).is_over(later));
}

#[actix_web::test]
async fn a_bind_that_was_done_without_an_answer_is_held_however_late_the_watch_is() {
    let (api, binder) = setup(&[pod("p", 8)]);
    api.set(Mood::DoesButFails);
    assert!(binder.bind(&request("p", "a")).await.is_err());
    for later_ms in [3_000, 20_000, 100_000, 1_000_000] {
        confirm(&api, &binder, later_ms).await;
        assert_eq!(free(&binder, "a"), 0, "after {later_ms} ms");
    }
    lock(&binder.index).apply_pod(&api.pod("p"));
    assert_eq!(lock(&binder.index).sizes().reservations, 0);
    assert_eq!(free(&binder, "a"), 0, "the watch has come");
}

#[actix_web::test]
async fn a_pod_that_came_and_went_unseen_is_given_back_after_a_few_seconds() {
    let (api, binder) = setup(&[pod("p", 8)]);
    binder.bind(&request("p", "a")).await.unwrap();
    lock(&api.state).pods.clear();
    confirm(&api, &binder, 1_000).await;
    assert_eq!(free(&binder, "a"), 0, "it is not asked for yet");
    confirm(&api, &binder, 4_000).await;
    assert_eq!(free(&binder, "a"), 8);
}

#[actix_web::test]
async fn what_nobody_can_be_asked_about_is_held() {
    let (api, binder) = setup(&[pod("p", 8)]);
    api.set(Mood::Fails);
    assert!(binder.bind(&request("p", "a")).await.is_err());
    let nowhere = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let nobody = kube::Client::try_from(nowhere).unwrap();
    let later = Instant::now() + Duration::from_secs(1_000);
    crate::confirm::look(&nobody, &binder.index, later).await;
    assert_eq!(free(&binder, "a"), 0);
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
async fn what_fitted_at_filter_may_be_refused_at_bind_with_the_reason() {
    let (_, binder) = setup(&[pod("p", 4)]);
    lock(&binder.index).apply_pod(&bound(pod("q", 5), "a", &[0, 1, 2, 3, 4]));
    let error = binder.bind(&request("p", "a")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the pod does not fit the node any more: not enough free GPUs"
    );
}
