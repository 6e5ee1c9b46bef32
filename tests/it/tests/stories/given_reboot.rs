//! The node loses its power and comes back with its GPUs in other places: nothing is given twice.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use berth_it::cluster::topologies;
use berth_it::control_plane::REAL_NODE;
use berth_it::given::{Dgx, GPUS, MACHINE, RESOURCE};
use berth_it::pods::{self, assignment, bound, create, gpu_count, gpu_pod};
use berth_it::real_node::holding_here;
use berth_it::story::story;
use berth_it::wait::{PATIENCE, SOON, eventually};
use berth_test_machine::raw as recorded;
use berth_topology::raw::{Answer, RawMachine};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client};

/// How far each GPU moves: to another NUMA node, and to another minor number than its index.
const MOVED_BY: usize = 3;
const MINORS_BY: usize = 5;

/// What becomes of a pod whose node has booted.
#[derive(Debug, PartialEq, Eq)]
enum After {
    /// The kubelet looked at it before the plugin was back, and failed it by its own rule.
    Failed,
    /// Its container was started again.
    RunsAgain,
}

#[test]
fn a_node_that_boots_with_other_indices_gives_nothing_twice_and_all_gpus_again() -> Result<()> {
    story(async |stage| {
        let mut dgx = Dgx::start(stage, &[]).await?;
        let client = dgx.client().clone();
        for (name, count) in [("four", 4), ("two", 2)] {
            create(
                &client,
                &started_again(holding_here(gpu_pod(name, count, &[]), None)),
            )
            .await?;
            dgx.has_what_was_promised(name).await?;
        }

        let last_boot = boot_of_topology(&client).await?;
        dgx.agent.stop();
        dgx.agent.nvml_becomes(&rearranged(recorded(MACHINE))?)?;
        dgx.node = dgx.node.reboot(&dgx.cluster.plane, stage.folder()).await?;
        kubelet_has_booted(&client, &last_boot).await?;
        let mut held = 0;
        let mut failed = 0;
        for name in ["four", "two"] {
            match after(&client, name).await? {
                After::Failed => failed += 1,
                After::RunsAgain => held += still_holds(&dgx, name).await?,
            }
        }
        dgx.agent.start_again_beside(&dgx.node)?;
        topology_is_of_this_boot(&client, &last_boot).await?;
        dgx.node
            .wait_until_allocatable(&client, RESOURCE, GPUS)
            .await?;

        let began = Instant::now();
        create(
            &client,
            &holding_here(gpu_pod("replacement", GPUS - held, &[]), None),
        )
        .await?;
        bound(&client, "replacement", SOON).await?;
        let freed = began.elapsed().as_millis();
        dgx.has_what_was_promised("replacement").await?;
        println!(
            "reboot: the kubelet failed {failed} of 2 pods; their GPUs were promised again within {freed} ms, \
             and in use {} ms after that pod was posted",
            began.elapsed().as_millis()
        );
        Ok(())
    })
}

/// As pods of most controllers are.
fn started_again(mut pod: Pod) -> Pod {
    let spec = pod.spec.get_or_insert_default();
    spec.restart_policy = Some("Always".to_owned());
    pod
}

/// As if the boards had been put into other slots: the slots keep their wiring.
fn rearranged(mut machine: RawMachine) -> Result<RawMachine> {
    let Answer::Value(nvml) = &mut machine.nvml else {
        bail!("the machine has no NVML");
    };
    let mut gpus: Vec<_> = nvml
        .gpus
        .iter_mut()
        .filter_map(|gpu| match gpu {
            Answer::Value(gpu) => Some(gpu),
            Answer::Failed { .. } => None,
        })
        .collect();
    let identities: Vec<_> = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
    for (index, gpu) in gpus.iter_mut().enumerate() {
        let from = (index + MOVED_BY) % identities.len();
        gpu.uuid = identities[from].clone();
        let minor = (index + MINORS_BY) % identities.len();
        gpu.minor = Answer::Value(u32::try_from(minor)?);
    }
    Ok(machine)
}

async fn after(client: &Client, name: &str) -> Result<After> {
    let what = format!("pod {name} to have an end or a new beginning");
    let pod = eventually(&what, PATIENCE, async || {
        let pod = pods::api(client).get(name).await?;
        let status = pod.status.clone().unwrap_or_default();
        let containers = status.container_statuses.unwrap_or_default();
        let is_new = containers.iter().any(|it| it.restart_count > 0 && it.ready);
        let phase = status.phase.unwrap_or_default();
        ensure!(phase == "Failed" || is_new, "it is {phase}");
        Ok(pod)
    })
    .await?;
    let status = pod.status.unwrap_or_default();
    if status.phase.as_deref() != Some("Failed") {
        return Ok(After::RunsAgain);
    }
    ensure!(
        status.reason.as_deref() == Some("UnexpectedAdmissionError"),
        "{name} failed otherwise: {status:?}"
    );
    Ok(After::Failed)
}

/// How many GPUs: the very ones that it had before.
async fn still_holds(dgx: &Dgx, name: &str) -> Result<usize> {
    let pod = pods::api(dgx.client()).get(name).await?;
    let promised: BTreeSet<String> = assignment(&pod)?
        .gpus()
        .map(|gpu| gpu.as_str().to_owned())
        .collect();
    let held = dgx.node.devices(RESOURCE)?.remove(name);
    ensure!(
        held.as_ref() == Some(&promised),
        "{name} now has {held:?}, promised {promised:?}"
    );
    Ok(gpu_count(&pod))
}

async fn boot_of_topology(client: &Client) -> Result<String> {
    let topology = topologies(client).get(REAL_NODE).await?;
    let boot = topology.data["status"]["bootId"].as_str();
    boot.map(str::to_owned).context("reading the boot id")
}

async fn topology_is_of_this_boot(client: &Client, last: &str) -> Result<()> {
    eventually("the topology of this boot", SOON, async || {
        ensure!(
            boot_of_topology(client).await? != last,
            "it is the last one's"
        );
        Ok(())
    })
    .await
}

async fn kubelet_has_booted(client: &Client, last: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    eventually("the kubelet to tell of its boot", PATIENCE, async || {
        let status = nodes.get(REAL_NODE).await?.status.unwrap_or_default();
        let boot = status.node_info.map(|info| info.boot_id);
        let is_new = boot.as_deref().is_some_and(|boot| boot != last);
        ensure!(is_new, "it tells {boot:?}");
        Ok(())
    })
    .await
}
