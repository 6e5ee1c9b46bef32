//! Any text in each of Berth's annotations of a pod.

#![no_main]

use std::collections::BTreeMap;

use berth_topology::assignment::Assignment;
use berth_topology::claim::PodClaim;
use berth_topology::names;
use k8s_openapi::api::core::v1::Pod;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const KEYS: [&str; 8] = [
    "tensor-parallel-size",
    "gpu-memory",
    "gpu-model",
    "link",
    "link-policy",
    "numa",
    "nic",
    "group",
];

fuzz_target!(|text: &str| {
    if let Ok(assignment) = Assignment::decode(text) {
        assert_eq!(
            Assignment::decode(&assignment.encode()).ok(),
            Some(assignment)
        );
    }
    let lines = KEYS.iter().zip(text.lines());
    let annotations: BTreeMap<String, &str> = lines
        .map(|(key, line)| (format!("berth.dev/{key}"), line))
        .collect();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "annotations": annotations},
        "spec": {"containers": [{"name": "c",
            "resources": {"limits": {names::DEFAULT_RESOURCE: "4"}}}]},
    }))
    .expect("this is a pod");
    let _ = PodClaim::of_pod(&pod, names::DEFAULT_RESOURCE);
});
