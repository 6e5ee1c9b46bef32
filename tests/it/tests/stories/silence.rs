//! An agent that falls silent makes its node refused, with that reason; and it comes back.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::Cluster;
use berth_it::kubelet::remove_pod;
use berth_it::pair::Pair;
use berth_it::patches;
use berth_it::pods::{self, bound, create, gpu_pod, refusals};
use berth_it::story::story;
use berth_it::wait::{PATIENCE, SOON, eventually};
use berth_test_machine::raw as recorded;
use kube::Client;

/// Above the agents' 15 s between two signs of life, with room for a loaded machine.
const STALE_AFTER_SECONDS: u32 = 25;
/// Between two pods that ask whether the node is still used.
const ASK_EVERY: Duration = Duration::from_millis(500);

#[test]
fn a_silent_agents_node_is_refused_as_stale_until_the_agent_is_back() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let client = cluster.admin();
        let mut agent = Agent::start(&cluster, "l40s", &recorded("l40s-4")).await?;
        let stale_after = patches::stale_after(STALE_AFTER_SECONDS);
        let pair = Pair::start(&cluster, "pair", &[stale_after]).await?;
        pair.wait_until_alive().await?;
        create(client, &gpu_pod("before", 1, &[])).await?;
        bound(client, "before", PATIENCE).await?;

        agent.stop();
        let waiting = first_pod_refused_as_stale(client).await?;
        agent.start_again()?;
        bound(client, &waiting, SOON).await?;
        pods::none_shares_a_gpu(client).await
    })
}

/// Until the silence is noticed pods are still placed, as they should be; so asks again and again.
async fn first_pod_refused_as_stale(client: &Client) -> Result<String> {
    let deadline = Duration::from_secs(u64::from(STALE_AFTER_SECONDS)) + PATIENCE;
    let began = Instant::now();
    for number in 0.. {
        let name = format!("asks-{number}");
        create(client, &gpu_pod(&name, 1, &[])).await?;
        let refusal = eventually("the pod to be placed or refused", PATIENCE, async || {
            let pod = pods::api(client).get(&name).await?;
            let refusals = refusals(client, &name).await?;
            ensure!(
                !pods::node(&pod).is_empty() || !refusals.is_empty(),
                "neither yet"
            );
            Ok(refusals)
        })
        .await?;
        if let Some(text) = refusal.first() {
            ensure!(text.contains("stopped reporting"), "refused with: {text}");
            return Ok(name);
        }
        remove_pod(client, pods::NAMESPACE, &name).await?;
        tokio::time::sleep(ASK_EVERY).await;
        if began.elapsed() > deadline {
            break;
        }
    }
    bail!(
        "{} s after its agent was killed the node is still used",
        deadline.as_secs()
    )
}
