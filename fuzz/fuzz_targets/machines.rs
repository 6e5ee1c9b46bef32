//! Any NodeTopology, and pods of every size on it.

#![no_main]

use std::time::{Duration, Instant};

use berth_extender_core::simulate::{Request, simulate};
use berth_topology::names;
use berth_topology::node::NodeTopology;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|text: &[u8]| {
    let Ok(node) = serde_json::from_slice::<NodeTopology>(text) else {
        return;
    };
    let pod = |gpu_count: usize| {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c",
            "resources": {"limits": {names::DEFAULT_RESOURCE: gpu_count.to_string()}}}]}})
    };
    let pods: Vec<_> = [1, 2, 4, 8, 16].map(pod).into();
    let mut request: Request =
        serde_json::from_value(json!({"pods": pods})).expect("this is a request");
    request.nodes.push(node);
    // A server answers for 2 s, and says that it was too long.
    let begun = Instant::now();
    let may_go_on = || begun.elapsed() < Duration::from_secs(2);
    let _ = simulate(&request, names::DEFAULT_RESOURCE, may_go_on);
});
