//! Pods on a real kubelet and a real container runtime.

use anyhow::{Context as _, Result, ensure};
use berth_it::cluster::Cluster;
use berth_it::control_plane::REAL_NODE;
use berth_it::pair::Pair;
use berth_it::pods::{self, create};
use berth_it::real_node::{RealNode, delete_pod, plain_pod};
use berth_it::story::story;
use berth_it::wait::{PATIENCE, eventually};

#[test]
fn a_pod_runs_on_a_real_kubelet_with_the_environment_that_it_asked_for() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let client = cluster.admin();
        let node = RealNode::start(&cluster.plane, stage.folder()).await?;
        let _pair = Pair::start(&cluster, "pair", &[]).await?;

        let mut pod = plain_pod("told");
        let spec = pod.spec.as_mut().context("reading a pod's spec")?;
        spec.containers[0].env = Some(vec![serde_json::from_value(
            serde_json::json!({"name": "TOLD", "value": "by the pod"}),
        )?]);
        create(client, &pod).await?;
        let pod = eventually("the pod to run", PATIENCE, async || {
            let pod = pods::api(client).get("told").await?;
            let status = pod.status.clone().unwrap_or_default();
            ensure!(
                status.phase.as_deref() == Some("Running"),
                "it is {status:?}"
            );
            Ok(pod)
        })
        .await?;

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
        node.end(client).await
    })
}
