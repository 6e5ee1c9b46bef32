//! Which GPUs a pod gets, why the next one gets none, and that it gets them as soon as they are free.

use anyhow::{Result, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::{Cluster, topologies};
use berth_it::kubelet::{remove_pod, report_phase};
use berth_it::pair::Pair;
use berth_it::pods::{self, bound, create, gpu_pod, indices, refused};
use berth_it::story::{Stage, story};
use berth_it::wait::{PATIENCE, SOON, eventually};
use berth_test_machine::raw as recorded;
use berth_topology::names::{LINK, LINK_POLICY};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

/// Only NVLink will do: the four L40S have none.
const NVLINK_ONLY: [(&str, &str); 2] = [(LINK, "nvlink"), (LINK_POLICY, "require")];

#[test]
fn a_pod_for_four_gpus_gets_the_best_quad_and_the_annotation_in_one_write() -> Result<()> {
    story(async |stage| {
        let (cluster, _running) = dgx1_and_l40s(stage).await?;
        let client = cluster.admin();
        let seen = pods::states_until_bound(client, "first");
        create(client, &gpu_pod("first", 4, &[])).await?;
        let (pod, assignment) = bound(client, "first", PATIENCE).await?;

        // Nothing but the count is asked: the quad with NVLink wins over the four L40S.
        // Each of 0 to 3 has an NVLink to each of the others; no quad across the halves has that.
        ensure!(
            pods::node(&pod) == "dgx1",
            "it went to {}",
            pods::node(&pod)
        );
        ensure!(
            indices(&assignment) == [0, 1, 2, 3],
            "it got {:?}",
            indices(&assignment)
        );
        let container = &assignment.containers[pods::CONTAINER];
        ensure!(container.ranks.len() == 4, "four ranks: {container:?}");
        let link = serde_json::to_value(container.weakest_link)?;
        ensure!(link == "nvlink", "the weakest link is {link}");

        for state in seen.await? {
            ensure!(
                state.has_node == state.has_assignment,
                "one without the other: {state:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_third_quad_waits_with_a_reason_and_is_bound_when_the_first_pod_is_deleted() -> Result<()> {
    story(async |stage| {
        third_waits_until(stage, async |cluster| {
            remove_pod(cluster.admin(), pods::NAMESPACE, "first").await
        })
        .await
    })
}

#[test]
fn a_third_quad_waits_with_a_reason_and_is_bound_when_the_first_pod_has_succeeded() -> Result<()> {
    story(async |stage| {
        third_waits_until(stage, async |cluster| {
            report_phase(cluster.admin(), pods::NAMESPACE, "first", "Running").await?;
            report_phase(cluster.admin(), pods::NAMESPACE, "first", "Succeeded").await
        })
        .await
    })
}

#[test]
fn what_the_kubelet_really_gave_counts_and_the_promise_no_longer() -> Result<()> {
    story(async |stage| {
        let (cluster, (mut agents, _pair)) = dgx1_and_l40s(stage).await?;
        let client = cluster.admin();
        create(client, &gpu_pod("first", 4, &NVLINK_ONLY)).await?;
        let (first, promised) = bound(client, "first", PATIENCE).await?;
        ensure!(
            indices(&promised) == [0, 1, 2, 3],
            "first was promised {:?}",
            indices(&promised)
        );

        // Nobody else may write what the kubelet gave: the agent of that node makes room for the test.
        agents.remove(0).stop();
        write_allocation(client, "dgx1", &first, &[4, 5, 6, 7]).await?;
        // The extender learns of it by a watch; until then the other quad looks free.
        eventually(
            "the quad that is really free to be given",
            PATIENCE,
            async || {
                create(client, &gpu_pod("second", 4, &NVLINK_ONLY)).await?;
                let (_, second) = bound(client, "second", PATIENCE).await?;
                let got = indices(&second);
                if got != [0, 1, 2, 3] {
                    remove_pod(client, pods::NAMESPACE, "second").await?;
                }
                ensure!(got == [0, 1, 2, 3], "second got {got:?}");
                Ok(())
            },
        )
        .await
    })
}

/// Writes into a node's topology that a pod holds the GPUs at those positions.
async fn write_allocation(
    client: &Client,
    node: &str,
    pod: &Pod,
    positions: &[usize],
) -> Result<()> {
    let topology = topologies(client).get(node).await?;
    let uuid = |position: &usize| topology.data["status"]["gpus"][*position]["uuid"].clone();
    let devices: Vec<Value> = positions.iter().map(uuid).collect();
    let allocation = json!({
        "podUid": pod.metadata.uid,
        "namespace": pods::NAMESPACE,
        "name": pod.metadata.name,
        "container": pods::CONTAINER,
        "resource": "nvidia.com/gpu",
        "devices": devices,
    });
    let status = Patch::Merge(json!({"status": {"allocations": [allocation]}}));
    topologies(client)
        .patch_status(node, &PatchParams::default(), &status)
        .await?;
    Ok(())
}

async fn third_waits_until(
    stage: &Stage,
    end_first: impl AsyncFnOnce(&Cluster) -> Result<()>,
) -> Result<()> {
    let (cluster, _running) = dgx1_and_l40s(stage).await?;
    let client = cluster.admin();
    for (name, quad) in [("first", [0, 1, 2, 3]), ("second", [4, 5, 6, 7])] {
        create(client, &gpu_pod(name, 4, &NVLINK_ONLY)).await?;
        let (_, assignment) = bound(client, name, PATIENCE).await?;
        ensure!(
            indices(&assignment) == quad,
            "{name} got {:?}",
            indices(&assignment)
        );
    }
    create(client, &gpu_pod("third", 4, &NVLINK_ONLY)).await?;
    // One node is full, which kube-scheduler sees itself; what the other lacks only the extender knows.
    refused(
        client,
        "third",
        &["Insufficient nvidia.com/gpu", "linked as the pod requires"],
        PATIENCE,
    )
    .await?;

    end_first(&cluster).await?;
    let (_, assignment) = bound(client, "third", SOON).await?;
    ensure!(
        indices(&assignment) == [0, 1, 2, 3],
        "third got {:?}",
        indices(&assignment)
    );
    Ok(())
}

async fn dgx1_and_l40s(stage: &Stage) -> Result<(Cluster, (Vec<Agent>, Pair))> {
    let cluster = Cluster::start(stage).await?;
    let agents = vec![
        Agent::start(&cluster, "dgx1", &recorded("dgx1-v100")).await?,
        Agent::start(&cluster, "l40s", &recorded("l40s-4")).await?,
    ];
    let pair = Pair::start(&cluster, "pair", &[]).await?;
    pair.wait_until_alive().await?;
    Ok((cluster, (agents, pair)))
}
