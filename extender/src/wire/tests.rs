//! Bodies that a real kube-scheduler sent, and the shapes around them.

use berth_extender_core::decide::{No, Outcome, Verdicts};
use serde_json::Value;

use super::*;

/// The request of a capture in `tests/wire/`.
fn request(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/wire/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let capture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    serde_json::to_vec(&capture["request"]).unwrap()
}

#[track_caller]
fn check_args(name: &str, pod: &str, nodes: usize) {
    let args: ExtenderArgs = decode("filter", &request(name)).unwrap();
    assert_eq!(
        args.pod.as_ref().unwrap().metadata.name.as_deref(),
        Some(pod)
    );
    assert_eq!(args.names().len(), nodes);
}

#[test]
fn every_captured_filter_and_prioritize_is_read() {
    check_args("filter-cacheTrue", "a1", 3);
    check_args("filter-cacheFalse", "b1", 3);
    check_args("prioritize-cacheTrue", "a1", 3);
    check_args("filter-after-preempt-nominated", "high-1", 1);
    check_args("filter-cacheTrue-1000nodes", "b3-0002", 420);
    let whole: ExtenderArgs = decode("prioritize", &request("prioritize-cacheFalse")).unwrap();
    assert!(whole.node_names.is_none() && !whole.names().is_empty());
}

#[test]
fn every_captured_preempt_is_read_in_meta_form() {
    for name in [
        "preempt-cacheTrue",
        "preempt-cacheFalse",
        "preempt-cacheTrue-mixed",
    ] {
        let args: PreemptionArgs = decode("preempt", &request(name)).unwrap();
        let victims = args.victims();
        assert!(!victims.is_empty(), "{name}");
        assert!(
            victims
                .values()
                .all(|one| one.pods.iter().all(|pod| pod.uid.len() == 36)),
            "{name}"
        );
    }
}

#[test]
fn the_captured_bind_is_read_with_its_capital_uid() {
    let args: BindingArgs = decode("bind", &request("bind")).unwrap();
    assert_eq!(args.pod_uid, "f4321170-af42-44e6-b9ed-5fe535e6e701");
    assert_eq!(
        (
            args.pod_namespace.as_str(),
            args.pod_name.as_str(),
            args.node.as_str()
        ),
        ("t", "a1", "n-1")
    );
}

#[test]
fn keys_of_another_case_are_read_too() {
    let body = br#"{"pod":{"metadata":{"name":"p"}},"nodenames":["n"],"unheardOf":[1]}"#;
    let args: ExtenderArgs = decode("filter", body).unwrap();
    assert_eq!(args.names(), ["n"]);
    let body = br#"{"podName":"p","podNamespace":"ns","podUID":"u","node":"n"}"#;
    assert_eq!(decode::<BindingArgs>("bind", body).unwrap().pod_uid, "u");
}

/// Late is what does not fit.
fn verdicts(args: &ExtenderArgs, fits: impl Fn(&str) -> bool) -> Verdicts<'static> {
    let outcome = |name| match fits(name) {
        true => Outcome::Fits(10),
        false => Outcome::Refused(0),
    };
    Verdicts {
        outcomes: args.names().into_iter().map(outcome).collect(),
        reasons: vec![No::OutOfTime],
        ..Verdicts::default()
    }
}

#[test]
fn names_that_fit_and_names_that_do_not_are_told_apart() {
    let body = br#"{"Pod":{},"NodeNames":["a","b","c"]}"#;
    let args: ExtenderArgs = decode("filter", body).unwrap();
    let answer = FilterResult::of(&args, &verdicts(&args, |name| name == "b"));
    let answer: Value = serde_json::from_slice(&answer.encode(body).unwrap()).unwrap();
    let why = "not looked at before the answer was due";
    assert_eq!(
        answer,
        serde_json::json!({"Nodes": null, "NodeNames": ["b"], "FailedNodes": {"a": why, "c": why},
            "FailedAndUnresolvableNodes": {}, "Error": ""})
    );
}

#[test]
fn both_nulls_offer_no_node_and_are_answered_with_an_empty_list() {
    let args: ExtenderArgs =
        decode("filter", br#"{"Pod":{},"Nodes":null,"NodeNames":null}"#).unwrap();
    assert!(args.names().is_empty());
    let answer = FilterResult::of(&args, &verdicts(&args, |_| true));
    assert_eq!(answer.node_names.as_deref(), Some(&[] as &[&str]));
}

#[test]
fn answers_are_written_with_the_keys_of_go() {
    let answer = FilterResult::failure("why".to_owned());
    expect_test::expect![[r#"{"Nodes":null,"NodeNames":null,"FailedNodes":{},"FailedAndUnresolvableNodes":{},"Error":"why"}"#]]
        .assert_eq(&String::from_utf8(answer.encode(b"").unwrap()).unwrap());
    let victims = MetaVictims {
        pods: vec![MetaPod {
            uid: "u".to_owned(),
        }],
        pdb_violation_count: 1,
    };
    let answer = PreemptionResult {
        node_name_to_meta_victims: [("n".to_owned(), victims)].into(),
    };
    expect_test::expect![[
        r#"{"NodeNameToMetaVictims":{"n":{"Pods":[{"UID":"u"}],"NumPDBViolations":1}}}"#
    ]]
    .assert_eq(&serde_json::to_string(&answer).unwrap());
    let score = [HostPriority {
        host: "n",
        score: 7,
    }];
    expect_test::expect![[r#"[{"Host":"n","Score":7}]"#]]
        .assert_eq(&serde_json::to_string(&score).unwrap());
    expect_test::expect![[r#"{"Error":""}"#]]
        .assert_eq(&serde_json::to_string(&BindingResult::default()).unwrap());
}

#[test]
fn whole_nodes_come_back_whole() {
    let body = request("filter-cacheFalse");
    let args: ExtenderArgs = decode("filter", &body).unwrap();
    let second = args.names()[1].to_owned();
    let answer = FilterResult::of(&args, &verdicts(&args, |name| name == second));
    let answer: Value = serde_json::from_slice(&answer.encode(&body).unwrap()).unwrap();
    assert_eq!(answer["NodeNames"], Value::Null);
    let sent: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        answer["Nodes"]["items"],
        serde_json::json!([sent["Nodes"]["items"][1]])
    );
}

#[test]
fn a_node_without_a_name_is_no_node() {
    let body = br#"{"Pod":{},"Nodes":{"items":[null,{},{"metadata":{"name":"n","labels":{}}}]}}"#;
    let args: ExtenderArgs = decode("filter", body).unwrap();
    assert_eq!(args.names(), ["n"]);
    let answer = FilterResult::of(&args, &verdicts(&args, |_| true))
        .encode(body)
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["Nodes"]["items"][0]["metadata"]["name"], "n");
}

#[test]
fn a_pod_is_read_alike_whether_its_objects_were_counted_or_not() {
    for name in ["filter-cacheTrue", "filter-cacheFalse"] {
        let body = request(name);
        let few = ExtenderArgs::read(&body, 0).unwrap();
        let many = ExtenderArgs::read(&body, usize::MAX).unwrap();
        assert!(few.pod.is_some());
        assert_eq!(few.pod, many.pod);
        assert_eq!(few.names(), many.names());
    }
}

#[test]
fn a_body_of_five_megabytes_of_nodes_is_read() {
    let node = serde_json::json!({"metadata": {"name": "n", "annotations": {"padding": "x".repeat(50_000)}}});
    let body =
        serde_json::json!({"Pod": {}, "Nodes": {"items": vec![node; 110]}, "NodeNames": null});
    let body = serde_json::to_vec(&body).unwrap();
    assert!(body.len() > 5_000_000);
    assert_eq!(
        decode::<ExtenderArgs>("filter", &body)
            .unwrap()
            .names()
            .len(),
        110
    );
}

#[test]
fn what_is_no_request_is_an_error_that_names_the_verb() {
    let error = decode::<ExtenderArgs>("filter", b"<html>").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("reading the body of filter: "),
        "{error}"
    );
    assert!(decode::<BindingArgs>("bind", br#"{"PodName":null}"#).is_err());
}

proptest::proptest! {
    /// Whatever is sent, there is an answer and no panic.
    #[test]
    fn any_bytes_are_answered(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = decode::<ExtenderArgs>("filter", &body);
        let _ = decode::<PreemptionArgs>("preempt", &body);
        let _ = decode::<BindingArgs>("bind", &body);
    }
}
