//! A GPU fails under a running pod on a real node: everybody is told, and it comes back.

use anyhow::{Context as _, Result, ensure};
use berth_it::cluster::topologies;
use berth_it::control_plane::REAL_NODE;
use berth_it::given::{Dgx, GPUS, MACHINE, RESOURCE};
use berth_it::patches::poll_every_second;
use berth_it::pods::{self, CONTAINER, bound, create, gpu_pod};
use berth_it::real_node::{delete_pod, holding_here};
use berth_it::story::story;
use berth_it::wait::{PATIENCE, eventually};
use berth_test_machine::raw as recorded;
use berth_topology::raw::{Answer, RawMachine};
use kube::Client;

#[test]
fn a_gpu_that_fails_under_a_running_pod_is_given_to_nobody_until_it_recovers() -> Result<()> {
    story(async |stage| {
        let dgx = Dgx::start(stage, &[poll_every_second()]).await?;
        let client = dgx.client();
        let machine = recorded(MACHINE);
        create(client, &holding_here(gpu_pod("first", 1, &[]), None)).await?;
        dgx.has_what_was_promised("first").await?;
        let failed = gpus_of(client, "first").await?.remove(0);

        dgx.agent
            .nvml_becomes(&with_failed(machine.clone(), &failed)?)?;
        health_becomes(client, &failed, "failed").await?;
        dgx.node
            .wait_until_allocatable(client, RESOURCE, GPUS - 1)
            .await?;
        device_health_becomes(client, "first", &failed, "Unhealthy").await?;
        delete_pod(client, "first").await?;
        for (name, count) in [("four", 4), ("two", 2), ("one", 1)] {
            create(client, &holding_here(gpu_pod(name, count, &[]), None)).await?;
            dgx.has_what_was_promised(name).await?;
            let has = gpus_of(client, name).await?;
            ensure!(!has.contains(&failed), "{name} was given the failed GPU");
        }

        dgx.agent.nvml_becomes(&machine)?;
        health_becomes(client, &failed, "healthy").await?;
        dgx.node
            .wait_until_allocatable(client, RESOURCE, GPUS)
            .await?;
        create(client, &holding_here(gpu_pod("last", 1, &[]), None)).await?;
        dgx.has_what_was_promised("last").await?;
        let has = gpus_of(client, "last").await?;
        ensure!(has == [failed], "last has {has:?}");
        Ok(())
    })
}

async fn gpus_of(client: &Client, name: &str) -> Result<Vec<String>> {
    let (_, assignment) = bound(client, name, PATIENCE).await?;
    let gpus = assignment.containers[CONTAINER].gpus();
    Ok(gpus.map(|gpu| gpu.as_str().to_owned()).collect())
}

/// With a GPU that must be reset before it can be used again.
fn with_failed(mut machine: RawMachine, uuid: &str) -> Result<RawMachine> {
    let Answer::Value(nvml) = &mut machine.nvml else {
        anyhow::bail!("the machine has no NVML");
    };
    let gpus = nvml.gpus.iter_mut().filter_map(|gpu| match gpu {
        Answer::Value(gpu) => Some(gpu),
        Answer::Failed { .. } => None,
    });
    let mut found = gpus.filter(|gpu| gpu.uuid.value().is_some_and(|it| it == uuid));
    let gpu = found.next().context("finding the GPU that is to fail")?;
    gpu.ecc_uncorrected_volatile = Answer::failed("NVML_ERROR_RESET_REQUIRED");
    Ok(machine)
}

/// As the agent publishes it.
async fn health_becomes(client: &Client, uuid: &str, state: &str) -> Result<()> {
    let topologies = topologies(client);
    eventually(&format!("a GPU to be {state}"), PATIENCE, async || {
        let topology = topologies.get(REAL_NODE).await?;
        let gpus = topology.data["status"]["gpus"].as_array();
        let mut gpus = gpus.into_iter().flatten();
        let gpu = gpus.find(|gpu| gpu["uuid"] == uuid);
        let health = &gpu.context("finding the GPU")?["health"];
        let now = health["state"].as_str().unwrap_or("healthy");
        ensure!(now.eq_ignore_ascii_case(state), "{health}");
        Ok(())
    })
    .await
}

/// As the kubelet tells it of a pod's devices.
async fn device_health_becomes(client: &Client, pod: &str, uuid: &str, health: &str) -> Result<()> {
    eventually("the pod to tell of its device", PATIENCE, async || {
        let pod = serde_json::to_value(pods::api(client).get(pod).await?)?;
        let status = &pod["status"]["containerStatuses"][0]["allocatedResourcesStatus"];
        let resources = status[0]["resources"].as_array();
        let mut resources = resources.into_iter().flatten();
        let device = resources.find(|device| device["resourceID"] == uuid);
        let now = &device.with_context(|| format!("it tells {status}"))?["health"];
        ensure!(now == health, "it is {now}");
        Ok(())
    })
    .await
}
