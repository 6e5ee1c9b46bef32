//! Kubelet, containerd and agent die on a real node, and nothing is given twice.

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use berth_it::given::{Dgx, GPUS, RESOURCE};
use berth_it::pods::{self, create, gpu_pod, reached};
use berth_it::real_node::{delete_pod, holding_here};
use berth_it::story::story;
use berth_it::wait::{PATIENCE, eventually};

/// More than fail in the second that an agent takes to be back.
const TRIES_MAX: usize = 50;
/// The agent's words.
const REGISTERED: &str = "registered with the kubelet";

#[test]
fn kubelet_and_containerd_start_again_and_running_pods_keep_their_gpus() -> Result<()> {
    story(async |stage| {
        let dgx = Dgx::start(stage, &[]).await?;
        let client = dgx.client();
        create(client, &holding_here(gpu_pod("stays", 4, &[]), None)).await?;
        dgx.has_what_was_promised("stays").await?;
        let agent_starts = dgx.agent.starts();

        let registered = dgx.agent.times_said(REGISTERED)?;
        let began = Instant::now();
        dgx.node.kubelet.kill();
        // A pod that comes before the plugin is back fails by the kubelet's rule: none comes here.
        dgx.agent.wait_until_said(REGISTERED, registered).await?;
        println!("registered {} ms later", began.elapsed().as_millis());
        dgx.node
            .wait_until_allocatable(client, RESOURCE, GPUS)
            .await?;

        create(client, &holding_here(gpu_pod("comes", 4, &[]), None)).await?;
        dgx.has_what_was_promised("comes").await?;

        let starts = dgx.node.containerd.starts();
        dgx.node.containerd.kill();
        eventually("containerd to be started again", PATIENCE, async || {
            ensure!(dgx.node.containerd.starts() > starts, "it is not");
            Ok(())
        })
        .await?;
        delete_pod(client, "comes").await?;
        create(client, &holding_here(gpu_pod("follows", 4, &[]), None)).await?;
        dgx.has_what_was_promised("follows").await?;
        dgx.has_what_was_promised("stays").await?;
        ensure!(
            dgx.agent.starts() == agent_starts,
            "the agent was started {} times",
            dgx.agent.starts()
        );
        Ok(())
    })
}

#[test]
fn an_agent_killed_between_a_preference_and_its_allocation_costs_one_pod_and_no_gpu() -> Result<()>
{
    story(async |stage| {
        let dgx = Dgx::start_with_relay(stage).await?;
        let client = dgx.client();
        create(client, &holding_here(gpu_pod("stays", 1, &[]), None)).await?;
        dgx.has_what_was_promised("stays").await?;

        let relay = dgx.relay.as_ref().context("finding the relay")?;
        let caught = relay.after_next_preference();
        create(client, &holding_here(gpu_pod("caught", 4, &[]), None)).await?;
        let caught = caught.await?;
        dgx.agent.kill();
        drop(caught);
        let failed = reached(client, "caught", "Failed", PATIENCE).await?;
        let status = failed.status.unwrap_or_default();
        ensure!(
            status.reason.as_deref() == Some("UnexpectedAdmissionError"),
            "it failed otherwise: {status:?}"
        );

        let began = Instant::now();
        let (replacement, tries) = replace(&dgx, "caught", 4).await?;
        println!(
            "pod {tries} in its place ran {} ms later",
            began.elapsed().as_millis()
        );
        dgx.has_what_was_promised(&replacement).await?;
        // With these all GPUs are in use: none was lost.
        create(client, &holding_here(gpu_pod("rest", 3, &[]), None)).await?;
        dgx.has_what_was_promised("rest").await?;
        dgx.has_what_was_promised("stays").await
    })
}

/// Posts a pod after the other, as a controller does, until one runs: which, and the how manieth it was.
/// Those that come before the plugin is back fail by the kubelet's rule.
async fn replace(dgx: &Dgx, name: &str, gpu_count: usize) -> Result<(String, usize)> {
    for tries in 1..=TRIES_MAX {
        let name = format!("{name}-{tries}");
        create(
            dgx.client(),
            &holding_here(gpu_pod(&name, gpu_count, &[]), None),
        )
        .await?;
        let phase = eventually("a pod to run or to fail", PATIENCE, async || {
            let status = pods::api(dgx.client()).get(&name).await?.status;
            let phase = status.and_then(|status| status.phase).unwrap_or_default();
            ensure!(phase == "Running" || phase == "Failed", "it is {phase}");
            Ok(phase)
        })
        .await?;
        if phase == "Running" {
            return Ok((name, tries));
        }
    }
    bail!("{TRIES_MAX} pods in the place of {name} failed")
}
