//! Which GPUs a pod gets, why the next one gets none, and that it gets them as soon as they are free.

use anyhow::{Result, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::Cluster;
use berth_it::kubelet::{remove_pod, report_phase};
use berth_it::pair::Pair;
use berth_it::pods::{self, bound, create, gpu_pod, indices, refused};
use berth_it::story::{Stage, story};
use berth_it::wait::{PATIENCE, SOON};
use berth_test_machine::raw as recorded;
use berth_topology::names::{LINK, LINK_POLICY};

/// Only NVLink will do: the four L40S have none.
const NVLINK_ONLY: [(&str, &str); 2] = [(LINK, "nvlink"), (LINK_POLICY, "require")];

#[test]
fn a_pod_for_four_gpus_gets_the_best_quad_and_the_annotation_in_one_write() -> Result<()> {
    story(async |stage| {
        let (cluster, _running) = dgx1_and_l40s(stage).await?;
        let client = cluster.admin();
        let seen = pods::states_until_bound(client, "first");
        create(client, &gpu_pod("first", 4, &NVLINK_ONLY)).await?;
        let (pod, assignment) = bound(client, "first", PATIENCE).await?;

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
