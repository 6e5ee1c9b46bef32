//! What arrives is not what was meant: captured bodies, annotations and recorded machines, changed at
//! random places into what no sender should send. Nothing panics, and what is answered was asked.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use berth_extender::answer::Service;
use berth_extender::wire::{self, ExtenderArgs, PreemptionArgs};
use berth_extender_core::fixtures::{RESOURCE, cluster};
use berth_extender_core::simulate::{self, Request};
use berth_topology::assignment::Assignment;
use berth_topology::claim::PodClaim;
use berth_topology::names;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

const CASES: u32 = 150;

/// A place, as the how-manieth value of the text, and what to do there.
type Change = (u32, u8);

fn file(path: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    serde_json::from_slice(&std::fs::read(path).expect("the test can do this"))
        .expect("the test can do this")
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    proptest::collection::vec(any::<Change>(), 0..6)
}

fn value_count(value: &Value) -> u32 {
    1 + match value {
        Value::Array(items) => items.iter().map(value_count).sum::<u32>(),
        Value::Object(fields) => fields.values().map(value_count).sum(),
        _ => 0,
    }
}

/// The value that comes `left`th.
fn place<'a>(value: &'a mut Value, left: &mut u32) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| place(item, left)),
        Value::Object(fields) => fields.values_mut().find_map(|field| place(field, left)),
        _ => None,
    }
}

fn change(value: &mut Value, (which, how): Change) {
    let mut left = which % value_count(value);
    let Some(here) = place(value, &mut left) else {
        return;
    };
    let long = || "9".repeat(4_000);
    *here = match how % 20 {
        0 => Value::Null,
        1 => json!(-1),
        2 => json!(u64::MAX),
        3 => json!(1e308),
        4 => json!(""),
        5 => json!("\0/../\u{202e}é"),
        6 => json!(long()),
        7 => json!([]),
        8 => json!({}),
        9 => json!(true),
        10 => json!([here.clone(), here.clone(), here.clone()]),
        11 => json!({"nested": here.clone()}),
        12 => json!(i64::MIN),
        13 => json!("0-4294967295"),
        14 => json!("100000000000000000000Ei"),
        15 => json!(0),
        _ => {
            twist(here, how);
            return;
        }
    };
}

/// Keeps the form, loses the sense.
fn twist(value: &mut Value, how: u8) {
    match value {
        Value::Array(items) if how.is_multiple_of(2) => items.reverse(),
        Value::Array(items) => items.extend(items.clone()),
        Value::Object(fields) => {
            let first = fields
                .keys()
                .nth(usize::from(how) % fields.len().max(1))
                .cloned();
            first.and_then(|key| fields.remove(&key));
        }
        Value::String(text) => *text = text.chars().rev().collect(),
        Value::Number(number) => *value = json!(number.as_f64().unwrap_or(0.0) * -3.5),
        Value::Null | Value::Bool(_) => *value = json!([{}]),
    }
}

fn service() -> Service {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Never connected to: nothing is bound here. But it wants to be born in a runtime.
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime =
        RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().expect("the test can do this"));
    let _inside = runtime.enter();
    let client = kube::Config::new("http://127.0.0.1:1".parse().expect("the test can do this"));
    let client = kube::Client::try_from(client).expect("the test can do this");
    Service::new(cluster(&["n-0", "n-1", "n-2"]), client)
}

/// `None` where it is no request.
fn decoded<T: wire::Bounded>(verb: &'static str, body: &Value) -> Option<T> {
    wire::decode(verb, body.to_string().as_bytes()).ok()
}

fn check_filter(service: &Service, body: &Value) {
    let Some(args) = decoded::<ExtenderArgs>("filter", body) else {
        return;
    };
    let names: Vec<String> = args.names().into_iter().map(str::to_owned).collect();
    let sent: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let scores = service.prioritize(&args);
    assert!(scores.iter().all(|one| sent.contains(one.host)));
    assert!(scores.iter().all(|one| (0..=10).contains(&one.score)));
    let whole_count = args.nodes.as_ref().map_or(0, |nodes| nodes.items.len());
    let answer = service.filter(&args);
    let kept = answer.node_names.iter().flatten().copied();
    let refused = answer.failed_nodes.names();
    let mut all = kept
        .chain(refused)
        .chain(answer.failed_and_unresolvable_nodes.names());
    assert!(all.all(|name| sent.contains(name)), "{answer:?}");
    assert!(answer.node_names.as_ref().map_or(0, Vec::len) <= names.len());
    assert!(answer.nodes.as_ref().map_or(0, Vec::len) <= whole_count);
}

fn check_preempt(service: &Service, body: &Value) {
    let Some(args) = decoded::<PreemptionArgs>("preempt", body) else {
        return;
    };
    let sent = args.victims();
    let answer = service.preempt(&args);
    let mut kept = answer.node_name_to_meta_victims.keys();
    assert!(kept.all(|node| sent.contains_key(node)), "{answer:?}");
}

fn check_simulate(body: &Value) {
    let Some(request) = decoded::<Request>("simulate", body) else {
        return;
    };
    let known: BTreeSet<String> = request
        .nodes
        .iter()
        .filter_map(|node| node.status.as_ref())
        .flat_map(|status| &status.gpus)
        .flat_map(|gpu| serde_json::to_value(&gpu.uuid).ok())
        .map(|uuid| uuid.as_str().unwrap_or_default().to_owned())
        .collect();
    let answers = match simulate::simulate(&request, RESOURCE, || true) {
        Ok(answers) => answers,
        Err(error) => return assert!(error.to_string().len() < 1_000, "{error}"),
    };
    for outcome in answers.iter().flat_map(|answer| answer.nodes.values()) {
        for rank in outcome
            .ranks
            .values()
            .flat_map(|container| &container.ranks)
        {
            let gpu = serde_json::to_value(rank).expect("the test can do this")["gpu"].clone();
            let is_known = gpu.as_str().is_none_or(|gpu| known.contains(gpu));
            assert!(is_known, "{gpu} is no GPU that was sent");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]

    #[test]
    fn changed_requests_of_the_scheduler(which in 0usize..8, changes in changes()) {
        let name = ["filter-cacheTrue", "filter-cacheFalse", "prioritize-cacheTrue",
            "filter-after-preempt-nominated", "prioritize-cacheFalse",
            "preempt-cacheTrue", "preempt-cacheFalse", "preempt-cacheTrue-mixed"][which];
        let mut body = file(&format!("tests/wire/{name}.json"))["request"].take();
        for one in changes {
            change(&mut body, one);
        }
        let service = service();
        check_filter(&service, &body);
        check_preempt(&service, &body);
    }

    #[test]
    fn changed_machines(which in 0usize..4, count in 0u8..10, changes in changes()) {
        let name = ["dgx1-v100", "dgx-h100", "l40s-4", "h100-nps4"][which];
        let pod = json!({"metadata": {"name": "p", "annotations": {names::TENSOR_PARALLEL_SIZE: "2"}},
            "spec": {"containers": [{"name": "c",
                "resources": {"limits": {RESOURCE: count.to_string()}}}]}});
        let mut body = json!({"nodes": [file(&format!("../machines/{name}.json"))], "pods": [pod]});
        for one in changes {
            change(&mut body, one);
        }
        check_simulate(&body);
    }

    #[test]
    fn changed_annotations(key in 0usize..9, text in ".{0,40}|[0-9]{1,30}(Gi|Ei|m|)", changes in changes()) {
        let keys = ["tensor-parallel-size", "gpu-memory", "gpu-model", "link", "link-policy",
            "numa", "nic", "group", "assignment"];
        let mut assignment = json!({"schema": names::SCHEMA, "podUid": "u", "node": "n-0", "containers":
            {"c": {"ranks": [{"rank": 0, "gpu": "n-0-0", "index": 0, "cpus": "0-3"}]}}});
        for one in changes {
            change(&mut assignment, one);
        }
        let _ = Assignment::decode(&assignment.to_string());
        let annotations = json!({format!("berth.dev/{}", keys[key]): text,
            names::ASSIGNMENT: assignment.to_string()});
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "annotations": annotations},
            "spec": {"nodeName": "n-0", "containers": [{"name": "c",
                "resources": {"limits": {RESOURCE: "4"}}}]}})).expect("the test can do this");
        let _ = PodClaim::of_pod(&pod, RESOURCE);
        let service = service();
        service.index.lock().expect("the test can do this").apply_pod(&pod);
        check_filter(&service, &json!({"Pod": pod, "NodeNames": ["n-0", "n-1", "n-9"]}));
    }
}
