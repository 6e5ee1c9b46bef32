//! What is sent, and what counts as an answer: 1 to 4, 12 to 14, 29.

use std::collections::BTreeSet;

use berth_extender_core::record::archive::Archive;
use berth_extender_core::replay::{Replayed, replay};

use super::*;

fn keys(answer: &Value) -> Vec<&str> {
    let keys = answer.as_object().unwrap().keys();
    keys.map(String::as_str).collect()
}

#[actix_web::test]
async fn p01_keys_are_go_field_names_with_uids_in_capitals() {
    let world = world(cluster(&["n-0", "n-1", "n-2"]), None);
    let body = captured("filter-cacheTrue");
    world
        .api
        .create(serde_json::from_value(body["Pod"].clone()).unwrap());
    let filtered = world.post("/filter", &body).await;
    let expected = [
        "Error",
        "FailedAndUnresolvableNodes",
        "FailedNodes",
        "NodeNames",
        "Nodes",
    ];
    assert_eq!(keys(&filtered), expected);
    assert_eq!(
        filtered["NodeNames"],
        json!(["n-1", "n-2", "n-0"]),
        "in the order sent"
    );
    let scores = world
        .post("/prioritize", &captured("prioritize-cacheTrue"))
        .await;
    assert_eq!(scores[0], json!({"Host": "n-1", "Score": 10}));
    assert_eq!(
        world.post("/bind", &captured("bind")).await,
        json!({"Error": ""})
    );
    let bound = world.api.pod("a1");
    assert_eq!(bound.spec.unwrap().node_name.as_deref(), Some("n-1"));
    let preempted = world.post("/preempt", &captured("preempt-cacheTrue")).await;
    let victims = &preempted["NodeNameToMetaVictims"]["n-0"];
    assert_eq!(keys(victims), ["NumPDBViolations", "Pods"]);
    assert_eq!(keys(&victims["Pods"][0]), ["UID"]);
}

#[actix_web::test]
async fn p02_every_decision_is_a_200_whatever_it_says() {
    // `post` accepts no other status.
    let world = world(cluster(&["a"]), None);
    let never_created = pod("ghost", 1);
    world.see(&never_created);
    assert_eq!(
        world.filter(&pod("p", 9), &["a"]).await["NodeNames"],
        json!([])
    );
    assert_eq!(world.bind(&never_created, "a").await, "the pod is gone");
    let nobody = json!({"Pod": pod("p", 9), "NodeNameToMetaVictims": {}});
    let answer = world.post("/preempt", &nobody).await;
    assert_eq!(answer, json!({"NodeNameToMetaVictims": {}}));
    let no_pod = json!({"Pod": null, "NodeNames": ["a"]});
    assert_eq!(world.post("/prioritize", &no_pod).await, json!([]));
    assert_eq!(
        world.post("/filter", &no_pod).await["Error"],
        "the body of filter holds no Pod"
    );
}

#[actix_web::test]
async fn p03_no_name_is_answered_that_was_not_sent() {
    let mut index = cluster(&["a", "b", "c", "d"]);
    index.apply_pod(&bound(pod("full", 8), "b", &ALL));
    let world = world(index, None);
    let sent = ["b", "nowhere", "a"];
    let answer = world.filter(&pod("p", 2), &sent).await;
    assert_eq!(answer["NodeNames"], json!(["a"]));
    let refused = keys(&answer["FailedNodes"]).into_iter();
    let refused: BTreeSet<_> = refused
        .chain(keys(&answer["FailedAndUnresolvableNodes"]))
        .collect();
    assert_eq!(refused, BTreeSet::from(["b", "nowhere"]));
    assert_eq!(
        world.ranked(&pod("p", 2), &sent).await,
        ["a", "b", "nowhere"]
    );
}

#[actix_web::test]
async fn p04_both_forms_of_nodes_may_be_null() {
    let world = world(cluster(&["a", "b"]), None);
    let nothing = json!({"Pod": pod("p", 1), "Nodes": null, "NodeNames": null});
    let answer = world.post("/filter", &nothing).await;
    assert_eq!(
        (&answer["NodeNames"], &answer["Nodes"]),
        (&json!([]), &Value::Null)
    );
    assert_eq!(answer["Error"], "");
    assert_eq!(world.post("/prioritize", &nothing).await, json!([]));
    let no_victims = json!({"Pod": pod("p", 1), "NodeNameToVictims": null,
        "NodeNameToMetaVictims": null});
    let answer = world.post("/preempt", &no_victims).await;
    assert_eq!(answer, json!({"NodeNameToMetaVictims": {}}));
    let whole = json!({"Pod": pod("p", 1), "NodeNames": null,
        "Nodes": {"items": [node("a"), node("x")]}});
    let answer = world.post("/filter", &whole).await;
    assert_eq!(
        answer["Nodes"]["items"],
        json!([node("a")]),
        "whole nodes for whole nodes"
    );
    assert_eq!(answer["NodeNames"], Value::Null);
}

fn of_priority(mut pod: Pod, priority: i32) -> Pod {
    pod.spec.get_or_insert_default().priority = Some(priority);
    pod
}

/// Victims by node, each by uid.
fn offer(pod: &Pod, victims: &Value) -> Value {
    let node = |uids: &Value| {
        let uids = uids.as_array().unwrap().iter();
        let pods: Vec<_> = uids.map(|uid| json!({"UID": uid})).collect();
        json!({"Pods": pods, "NumPDBViolations": 0})
    };
    let nodes = victims.as_object().unwrap().iter();
    let nodes: serde_json::Map<_, _> = nodes
        .map(|(name, uids)| (name.clone(), node(uids)))
        .collect();
    json!({"Pod": pod, "NodeNameToVictims": null, "NodeNameToMetaVictims": nodes})
}

#[actix_web::test]
async fn p12_empty_victims_are_answered_only_where_they_came_and_suffice() {
    let mut index = cluster(&["free", "full", "mixed"]);
    index.apply_pod(&of_priority(bound(pod("high", 8), "full", &ALL), 10));
    index.apply_pod(&of_priority(
        bound(pod("low", 4), "mixed", &[0, 1, 2, 3]),
        0,
    ));
    index.apply_pod(&of_priority(
        bound(pod("peer", 4), "mixed", &[4, 5, 6, 7]),
        10,
    ));
    let world = world(index, None);
    let asking = of_priority(pod("p", 4), 10);
    // 1.38 sends nodes that need no victim with an empty list.
    let new = offer(&asking, &json!({"free": [], "full": []}));
    let kept = &world.post("/preempt", &new).await["NodeNameToMetaVictims"];
    assert_eq!(kept, &json!({"free": {"Pods": [], "NumPDBViolations": 0}}));
    // 1.37 takes an empty list in the answer for an error.
    let old = offer(&asking, &json!({"mixed": ["u-low"]}));
    let kept = &world.post("/preempt", &old).await["NodeNameToMetaVictims"];
    assert_eq!(kept["mixed"]["Pods"], json!([{"UID": "u-low"}]));
}

#[actix_web::test]
async fn p13_a_victim_that_is_not_on_the_node_frees_nothing_there() {
    let mut index = cluster(&["a", "b"]);
    index.apply_pod(&of_priority(bound(pod("on-a", 8), "a", &ALL), 0));
    index.apply_pod(&of_priority(bound(pod("on-b", 8), "b", &ALL), 10));
    let world = world(index, None);
    let body = offer(
        &of_priority(pod("p", 4), 10),
        &json!({"a": ["u-on-a"], "b": ["u-on-a"]}),
    );
    let kept = &world.post("/preempt", &body).await["NodeNameToMetaVictims"];
    assert_eq!(keys(kept), ["a"], "and no node is added");
    assert_eq!(kept["a"]["Pods"], json!([{"UID": "u-on-a"}]));
    let (_, text) = world.get("/snapshot").await;
    let archive: Archive = serde_json::from_str(&text).unwrap();
    let record = archive.open().unwrap().records.remove(0);
    assert_eq!(record.decided.verb(), "preempt");
    assert_eq!(replay(&record, RESOURCE).unwrap(), Replayed::Same);
}

#[actix_web::test]
async fn p14_what_leaving_pods_could_resolve_is_told_from_what_nothing_resolves() {
    let mut index = cluster(&["a", "b"]);
    index.apply_pod(&bound(pod("p", 4), "a", &[0, 1, 2, 3]));
    index.apply_pod(&bound(pod("q", 1), "a", &[4]));
    index.apply_pod(&bound(pod("s", 2), "b", &[0, 1]));
    let world = world(index, None);
    let few = "later: not enough free GPUs";
    assert_eq!(world.verdict(&pod("r", 4), "a").await, few);
    let answer = world.filter(&pod("r", 7), &["a", "b"]).await;
    let why = "not enough free GPUs";
    assert_eq!(
        answer["FailedNodes"],
        json!({"a": why, "b": why}),
        "one line in the event"
    );
    let nine = "never: the node has fewer usable GPUs than the pod asks for";
    assert_eq!(world.verdict(&pod("r", 9), "a").await, nine);
    let model = annotated(pod("r", 1), "berth.dev/gpu-model", "H100");
    let why = world.verdict(&model, "a").await;
    assert!(
        why.starts_with("never: too few GPUs of the node are of the model"),
        "{why}"
    );
    let bad = annotated(pod("r", 1), "berth.dev/link", "fast");
    let why = "never: annotation berth.dev/link is \"fast\"; allowed: nvlink, switch, numa, any";
    assert_eq!(world.verdict(&bad, "a").await, why);
    let unknown = "never: the node has published no GPU topology";
    assert_eq!(world.verdict(&pod("r", 1), "x").await, unknown);
    let (_, metrics) = world.get("/metrics").await;
    let counted = r#"berth_extender_refusals_total{reason="NotEnoughFree"} 3"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[actix_web::test]
async fn p29_a_body_of_more_than_five_megabytes_is_answered_node_by_node() {
    let world = world(cluster(&["a"]), None);
    let padded = |name: &str| {
        json!({"metadata": {"name": name,
        "annotations": {"padding": "x".repeat(50_000)}}})
    };
    let nodes: Vec<_> = (0..119)
        .map(|number| padded(&format!("x-{number}")))
        .collect();
    let nodes = [nodes, vec![padded("a")]].concat();
    let body = json!({"Pod": pod("p", 1), "Nodes": {"items": nodes}, "NodeNames": null});
    assert!(body.to_string().len() > 5_000_000);
    let answer = world.post("/filter", &body).await;
    assert_eq!(answer["Nodes"]["items"], json!([padded("a")]), "as it came");
    assert_eq!(keys(&answer["FailedAndUnresolvableNodes"]).len(), 119);
}
