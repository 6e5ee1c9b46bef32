//! Pods on a real kubelet and a real container runtime.

use anyhow::{Context as _, Result, ensure};
use berth_it::cluster::Cluster;
use berth_it::control_plane::REAL_NODE;
use berth_it::pair::Pair;
use berth_it::pods::{self, create};
use berth_it::real_node::{RealNode, delete_pod, holding_here, plain_pod};
use berth_it::story::story;
use berth_it::wait::PATIENCE;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde_json::json;

#[test]
fn a_pod_runs_on_a_real_kubelet_with_the_environment_that_it_asked_for() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let client = cluster.admin();
        let node = RealNode::start(&cluster.plane, stage.folder()).await?;
        let _pair = Pair::start(&cluster, "pair", &[]).await?;

        let mut pod = plain_pod("told");
        set_variable(&mut pod, "TOLD", "by the pod")?;
        create(client, &pod).await?;
        let pod = pods::reached(client, "told", "Running", PATIENCE).await?;
        ensure!(
            pods::node(&pod) == REAL_NODE,
            "it went to {}",
            pods::node(&pod)
        );
        let environment = node.environment(&pod).await?;
        ensure!(
            environment.get("TOLD").map(String::as_str) == Some("by the pod"),
            "it found {environment:?}"
        );
        delete_pod(client, "told").await?;
        a_gpu_in_use_is_noticed(client, &node).await?;
        node.end(client).await
    })
}

/// What the stories of given GPUs stand on: the second pod that is told of a GPU says so.
async fn a_gpu_in_use_is_noticed(client: &Client, node: &RealNode) -> Result<()> {
    for (name, is_first) in [("uses", true), ("uses-too", false)] {
        let mut pod = holding_here(plain_pod(name), None);
        set_variable(&mut pod, "NVIDIA_VISIBLE_DEVICES", "GPU-a,GPU-b")?;
        create(client, &pod).await?;
        let pod = pods::reached(client, name, "Running", PATIENCE).await?;
        let found = node.environment(&pod).await;
        ensure!(found.is_ok() == is_first, "{name}: {found:?}");
    }
    Ok(())
}

fn set_variable(pod: &mut Pod, name: &str, value: &str) -> Result<()> {
    let spec = pod.spec.as_mut().context("reading a pod's spec")?;
    let variable = json!({"name": name, "value": value});
    let variables = spec.containers[0].env.get_or_insert_default();
    variables.push(serde_json::from_value(variable)?);
    Ok(())
}
