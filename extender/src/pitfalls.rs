//! Thirty ways in which extenders of kube-scheduler go wrong, a test each, through the real routes.
//!
//! They are told in the order of the protocol: what is sent and answered, one scheduling cycle, many
//! at once, who holds what, and what a node says of itself. The requests have the form of those that
//! kube-scheduler 1.37.1 was seen to send (`tests/wire/`).

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::fake_api::Mood;
use crate::http::tests::{World, captured, world};
use crate::lock;
use berth_extender_core::fixtures::*;

mod bound;
mod crowd;
mod cycle;
mod machines;
mod wire;

const ALL: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

// === impl World ===

impl World {
    /// The API server has the pod, and the watch has shown it.
    fn create(&self, pod: &Pod) {
        self.api.create(pod.clone());
        self.see(pod);
    }

    /// The watch shows the pod.
    fn see(&self, pod: &Pod) {
        lock(&self.shared.service.index).apply_pod(pod);
    }

    async fn filter(&self, pod: &Pod, nodes: &[&str]) -> Value {
        let body = json!({"Pod": pod, "Nodes": null, "NodeNames": nodes});
        self.post("/filter", &body).await
    }

    /// `fits`, or why not: `later: …` where pods that leave could help, else `never: …`.
    async fn verdict(&self, pod: &Pod, node: &str) -> String {
        let answer = self.filter(pod, &[node]).await;
        let later = answer["FailedNodes"][node].as_str();
        let never = answer["FailedAndUnresolvableNodes"][node].as_str();
        match (answer["NodeNames"] == json!([node]), later, never) {
            (true, None, None) => "fits".to_owned(),
            (false, Some(why), None) => format!("later: {why}"),
            (false, None, Some(why)) => format!("never: {why}"),
            _ => panic!("{answer}"),
        }
    }

    /// How many GPUs one pod could still get on that node.
    async fn free(&self, node: &str) -> usize {
        for count in (1..=8).rev() {
            if self.verdict(&pod("probe", count), node).await == "fits" {
                return count;
            }
        }
        0
    }

    /// Nodes, best first; ties by name.
    async fn ranked(&self, pod: &Pod, nodes: &[&str]) -> Vec<String> {
        let body = json!({"Pod": pod, "Nodes": null, "NodeNames": nodes});
        let answer = self.post("/prioritize", &body).await;
        let score = |one: &Value| (-one["Score"].as_i64().unwrap(), one["Host"].to_string());
        let mut scores = answer.as_array().unwrap().clone();
        scores.sort_by_key(score);
        let hosts = scores.iter().map(|one| one["Host"].as_str().unwrap());
        hosts.map(str::to_owned).collect()
    }

    /// The answer's error, empty when the pod was bound.
    async fn bind(&self, pod: &Pod, node: &str) -> String {
        let metadata = &pod.metadata;
        let body = json!({"PodName": metadata.name, "PodNamespace": metadata.namespace,
            "PodUID": metadata.uid, "Node": node});
        let answer = self.post("/bind", &body).await;
        answer["Error"].as_str().unwrap().to_owned()
    }

    /// The GPUs that the API server's pod was assigned.
    fn assigned(&self, pod: &str) -> Vec<String> {
        let annotations = self.api.pod(pod).metadata.annotations.unwrap_or_default();
        let assignment = annotations.get("berth.dev/assignment").unwrap();
        let assignment = berth_topology::assignment::Assignment::decode(assignment).unwrap();
        assignment.gpus().map(ToString::to_string).collect()
    }

    fn bindings(&self) -> usize {
        lock(&self.api.state).bindings
    }
}
