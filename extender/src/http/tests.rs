//! Requests as kube-scheduler sends them, through the routes.

use actix_web::http::StatusCode;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use serde_json::{Value, json};

use super::*;
use crate::fake_api::FakeApi;
use crate::lock;
use berth_extender_core::fixtures::*;
use berth_extender_core::index::Index;
use berth_extender_core::leader::HANDOVER;

pub(crate) struct World {
    pub(crate) api: FakeApi,
    pub(crate) shared: Shared,
}

pub(crate) fn world(index: Index, identity: Option<&str>) -> World {
    world_on(FakeApi::start(), index, identity)
}

/// An extender in front of that API server.
pub(crate) fn world_on(api: FakeApi, index: Index, identity: Option<&str>) -> World {
    let service = Service::new(index, api.client.clone());
    let leadership = Arc::new(leadership(identity));
    lock(&leadership.fence).begin(Instant::now());
    lock(&leadership.fence).end();
    let runtime = tokio::runtime::Handle::current();
    World {
        api,
        shared: Shared {
            service: Arc::new(service),
            leadership,
            runtime,
            bodies: Budget::default(),
            connections: Arc::default(),
            identity: None,
        },
    }
}

/// Of a process that was started long enough ago.
pub(crate) fn leadership(identity: Option<&str>) -> Leadership {
    let started = Instant::now().checked_sub(HANDOVER);
    let started = started.expect("the machine runs longer than that");
    Leadership::new(identity.map(str::to_owned), started)
}

// === impl World ===

impl World {
    pub(crate) async fn send(&self, request: TestRequest) -> (StatusCode, String) {
        let app = App::new()
            .app_data(Data::new(self.shared.clone()))
            .configure(routes);
        let app = init_service(app).await;
        let response = call_service(&app, request.to_request()).await;
        let status = response.status();
        (
            status,
            String::from_utf8(read_body(response).await.to_vec()).unwrap(),
        )
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self
            .send(TestRequest::post().uri(path).set_payload(body.to_string()))
            .await;
        assert_eq!(status, StatusCode::OK, "only 200 counts");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        self.send(TestRequest::get().uri(path)).await
    }
}

/// What kube-scheduler sent in that capture of `tests/wire/`.
pub(crate) fn captured(name: &str) -> Value {
    let path = format!("{}/tests/wire/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let capture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    capture["request"].clone()
}

#[actix_web::test]
async fn whole_nodes_are_answered_with_whole_nodes() {
    let world = world(cluster(&["n-0", "n-1", "n-2"]), None);
    let body = captured("filter-cacheFalse");
    let answer = world.post("/filter", &body).await;
    assert_eq!(answer["NodeNames"], Value::Null);
    assert_eq!(answer["Nodes"]["items"], body["Nodes"]["items"]);
}

#[actix_web::test]
async fn preempt_is_answered_in_meta_form_whatever_form_came() {
    let body = captured("preempt-cacheFalse");
    let nodes: Vec<String> = body["NodeNameToVictims"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let world = world(cluster(&names), None);
    let answer = world.post("/preempt", &body).await;
    let kept = answer["NodeNameToMetaVictims"].as_object().unwrap();
    assert_eq!(kept.len(), nodes.len());
    let uid = &body["NodeNameToVictims"][&nodes[0]]["Pods"][0]["metadata"]["uid"];
    assert_eq!(kept[&nodes[0]]["Pods"], json!([{"UID": uid}]));
}

#[actix_web::test]
async fn what_is_no_request_is_answered_with_400_and_counted() {
    let world = world(cluster(&["a"]), None);
    for path in ["/filter", "/prioritize", "/preempt", "/bind", "/simulate"] {
        for body in [
            "",
            "x",
            "\"x\"",
            "7",
            r#"{"Pod": 7, "PodName": 7, "pods": 7}"#,
        ] {
            let request = TestRequest::post().uri(path).set_payload(body);
            let (status, answer) = world.send(request).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body}");
            assert!(answer.contains("error"), "{path} {body}: {answer}");
        }
    }
    let no_pod = world
        .post("/filter", &json!({"Pod": null, "NodeNames": ["a"]}))
        .await;
    assert_eq!(no_pod["Error"], "the body of filter holds no Pod");
    let (_, metrics) = world.get("/metrics").await;
    assert!(
        metrics.contains(r#"berth_extender_bad_requests_total{verb="filter"} 6"#),
        "{metrics}"
    );
}

#[actix_web::test]
async fn a_replica_that_does_not_lead_says_503_and_closes() {
    let world = world(cluster(&["a"]), Some("me"));
    for path in ["/filter", "/prioritize", "/bind", "/preempt"] {
        let app = App::new()
            .app_data(Data::new(world.shared.clone()))
            .configure(routes);
        let app = init_service(app).await;
        let response = call_service(&app, TestRequest::post().uri(path).to_request()).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(!response.response().head().keep_alive(), "{path}");
        assert!(
            response
                .headers()
                .get(header::CONNECTION)
                .is_none_or(|value| value == "close")
        );
    }
    assert_eq!(world.get("/readyz").await.0, StatusCode::OK, "it stands by");
}

#[actix_web::test]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let world = world(cluster(&["a"]), None);
    let (status, text) = world.get("/metrics").await;
    assert!(status.is_success() && !text.contains("# EOF"));
    let open = ("Accept", "application/openmetrics-text;version=1.0.0");
    let request = TestRequest::get().uri("/metrics").insert_header(open);
    let (_, text) = world.send(request).await;
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[actix_web::test]
async fn nothing_is_decided_before_the_cluster_was_listed() {
    let empty = Index::new(RESOURCE, Duration::from_secs(60), Instant::now());
    let world = world(empty, None);
    assert_eq!(
        world.get("/readyz").await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(world.get("/healthz").await.0, StatusCode::OK);
    let request = TestRequest::post().uri("/filter").set_payload("{}");
    assert_eq!(world.send(request).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[actix_web::test]
async fn a_process_that_has_just_started_is_ready_and_decides_nothing() {
    let mut world = world(cluster(&["a"]), None);
    let leadership = Leadership::new(None, Instant::now());
    lock(&leadership.fence).begin(Instant::now());
    lock(&leadership.fence).end();
    world.shared.leadership = Arc::new(leadership);
    assert_eq!(world.get("/readyz").await.0, StatusCode::OK);
    for path in ["/filter", "/prioritize", "/bind", "/preempt"] {
        let request = TestRequest::post().uri(path).set_payload("{}");
        let (status, why) = world.send(request).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(why.contains("whoever answered before"), "{path}: {why}");
    }
}

#[actix_web::test]
async fn the_last_decision_about_a_pod_is_explained() {
    let world = world(cluster(&["n-1"]), None);
    assert_eq!(world.get("/explain/t/a1").await.0, StatusCode::NOT_FOUND);
    let _ = world.post("/filter", &captured("filter-cacheTrue")).await;
    let (_, text) = world.get("/explain/t/a1").await;
    let decision: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(decision["feasible"], json!({"n-1": 10}));
    assert_eq!(
        decision["refused"]["NoTopology"]["nodes"],
        json!(["n-2", "n-0"])
    );
    assert_eq!(decision["podUid"], "f4321170-af42-44e6-b9ed-5fe535e6e701");
}

#[actix_web::test]
async fn machines_in_a_request_are_simulated() {
    let world = world(cluster(&[]), None);
    let body = json!({"nodes": [topology("m")], "pods": [pod("p", 4), pod("q", 9)],
        "residents": [{"node": "m", "gpus": ["m-0", "m-1"]}]});
    let answer = world.post("/simulate", &body).await;
    let ranks = &answer[0]["nodes"]["m"]["ranks"]["c"]["ranks"];
    assert_eq!(ranks[0]["gpu"], "m-4");
    assert_eq!(answer[1]["nodes"]["m"]["reason"]["type"], "TooFewGpus");
}

/// What a simulation must not touch.
async fn remembered(world: &World) -> (String, String) {
    let (_, metrics) = world.get("/metrics").await;
    let (_, snapshot) = world.get("/snapshot").await;
    let mut snapshot: Value = serde_json::from_str(&snapshot).unwrap();
    snapshot["replica"]["takenAt"] = Value::Null;
    (metrics, snapshot.to_string())
}

#[actix_web::test]
async fn ten_thousand_simulations_change_nothing() {
    let world = world(cluster(&["n-1", "n-2"]), None);
    let _ = world.post("/filter", &captured("filter-cacheTrue")).await;
    let before = remembered(&world).await;
    let body = json!({"templates": [{"node": topology("new")}], "pods": [pod("p", 4)]}).to_string();
    let app = App::new().app_data(Data::new(world.shared.clone()));
    let app = init_service(app.configure(routes)).await;
    for _ in 0..10_000 {
        let request = TestRequest::post()
            .uri("/simulate")
            .set_payload(body.clone());
        let response = call_service(&app, request.to_request()).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(remembered(&world).await, before);
}

#[actix_web::test]
async fn a_replica_that_does_not_lead_simulates_and_says_that_it_remembers_nothing() {
    let world = world(cluster(&["n-1"]), Some("somebody"));
    let body = json!({"nodes": [topology("m")], "pods": [pod("p", 4)]});
    let answer = world.post("/simulate", &body).await;
    assert_eq!(answer[0]["nodes"]["m"]["feasible"], true);
    let (status, text) = world.get("/explain/ns/p").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("does not lead"), "{text}");
    let (_, snapshot) = world.get("/snapshot").await;
    let snapshot: Value = serde_json::from_str(&snapshot).unwrap();
    assert_eq!(snapshot["replica"]["leads"], false);
}

#[actix_web::test]
async fn a_simulation_that_asks_too_much_is_refused() {
    let world = world(cluster(&[]), None);
    let send = |body: String| {
        let request = TestRequest::post().uri("/simulate").set_payload(body);
        world.send(request)
    };
    let many = json!({"templates": [{"node": topology("m"), "count": 9_999}]});
    let (status, text) = send(many.to_string()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("at most 5000 nodes"), "{text}");
    let (status, _) = send("{".to_owned()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[actix_web::test]
async fn what_was_decided_is_explained_and_its_snapshot_replays() {
    let world = world(cluster(&["n-0", "n-1", "n-2"]), None);
    let body = captured("filter-cacheTrue");
    world
        .api
        .create(serde_json::from_value(body["Pod"].clone()).unwrap());
    let _ = world.post("/filter", &body).await;
    let _ = world
        .post("/prioritize", &captured("prioritize-cacheTrue"))
        .await;
    let _ = world.post("/bind", &captured("bind")).await;
    let (_, text) = world.get("/explain/t/a1?why_not=n-2").await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["bind"]["node"], "n-1");
    assert!(
        told["bind"]["assignment"]
            .as_str()
            .unwrap()
            .contains("n-1-0")
    );
    assert_eq!(
        told["whyNot"]["story"]["free"],
        json!([0, 1, 2, 3, 4, 5, 6, 7])
    );
    assert_eq!(told["nodes"].as_array().unwrap().len(), 3);
    let (_, text) = world.get("/snapshot").await;
    let archive: berth_extender_core::record::archive::Archive =
        serde_json::from_str(&text).unwrap();
    let opened = archive.open().unwrap();
    let verbs: Vec<&str> = opened
        .records
        .iter()
        .map(|one| one.decided.verb())
        .collect();
    assert_eq!(verbs, ["filter", "prioritize", "bind"]);
    for record in &opened.records {
        let replayed = berth_extender_core::replay::replay(record, RESOURCE).unwrap();
        assert_eq!(replayed, berth_extender_core::replay::Replayed::Same);
    }
}

/// kube-scheduler counts nodes by the sentence: `2 not enough free GPUs, 1 the node has published …`.
#[actix_web::test]
async fn nodes_refused_for_one_reason_are_answered_with_one_sentence() {
    let mut index = cluster(&["n-1", "n-2"]);
    for (number, node) in ["n-1", "n-2"].into_iter().enumerate() {
        let gpus = [0, 1, 2, 3, 4, 5, 6 + u32::try_from(number).unwrap()];
        index.apply_pod(&bound(pod(&format!("p{number}"), 7), node, &gpus));
    }
    let world = world(index, None);
    let answer = world.post("/filter", &captured("filter-cacheTrue")).await;
    let failed = answer["FailedNodes"].as_object().unwrap();
    let sentences: std::collections::BTreeSet<_> =
        failed.values().map(|one| one.as_str().unwrap()).collect();
    assert_eq!((failed.len(), sentences.len()), (2, 1), "{failed:?}");
}
