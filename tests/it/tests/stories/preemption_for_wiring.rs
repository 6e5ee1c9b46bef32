//! Victims make a set and not a count; where only the wiring is in the way they are taken on request, and
//! what they leave is kept for the pod though the extender that evicted them is killed.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::Cluster;
use berth_it::kubelet::{remove_pod, report_phase};
use berth_it::manifests;
use berth_it::pair::Pair;
use berth_it::patches::{preempt_for_topology, short_lease};
use berth_it::pods::{self, bound, create, gpu_pod, indices, none_shares_a_gpu, refused};
use berth_it::story::story;
use berth_it::wait::{PATIENCE, eventually};
use berth_test_machine::raw as recorded;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::preemption::{NVLINK_ONLY, create_priority_class, leaving_at_once, remaining, urgent};

const RIGHTS: &str = "scheduler-config/optional/preempt-for-topology.yaml";
const SINGLES: [&str; 8] = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"];

#[test]
fn victims_make_a_set_and_for_the_wiring_alone_they_leave_only_when_that_is_asked_for() -> Result<()>
{
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let _dgx1 = Agent::start(&cluster, "dgx1", &recorded("dgx1-v100")).await?;
        let client = cluster.admin();
        create_priority_class(client).await?;
        let pair = Pair::start(&cluster, "pair", &[short_lease()]).await?;
        pair.wait_until_alive().await?;

        let mut singles = fill(client, &SINGLES).await?;
        one_quad_leaves_for_an_urgent_pod(client, &mut singles).await?;
        let protected = fragment(client, &mut singles).await?;

        // Five GPUs are free, and no four of them are a quad: kube-scheduler sees nothing to evict for.
        create(client, &urgent(gpu_pod("stranded", 4, &NVLINK_ONLY))).await?;
        refused(
            client,
            "stranded",
            &["linked as the pod requires"],
            PATIENCE,
        )
        .await?;
        let before: Vec<&str> = singles.keys().map(String::as_str).collect();
        ensure!(
            remaining(client, &before).await? == before,
            "somebody was evicted for nothing"
        );

        drop(pair);
        manifests::apply_files(client, &[RIGHTS], &[]).await?;
        let patches = [preempt_for_topology(), short_lease()];
        let pair = Pair::start(&cluster, "pair", &patches).await?;
        let victims = singles.keys().filter(|name| **name != protected);
        kept_by_the_next_process(client, &pair, &victims.collect::<Vec<_>>()).await?;
        let (_, assignment) = bound(client, "stranded", PATIENCE * 2).await?;

        // One would have to go from the one quad, but a budget protects it; two went from the other.
        let left = remaining(client, &before).await?;
        ensure!(left == [protected.as_str()], "these were left: {left:?}");
        let quad = singles[&protected] / 4;
        let got = indices(&assignment);
        ensure!(
            got.iter().all(|gpu| gpu / 4 != quad) && got.len() == 4,
            "it got {got:?}"
        );
        none_shares_a_gpu(client).await
    })
}

/// The extender is killed while the victims are still leaving, and another pod would take what the first
/// of them leaves.
async fn kept_by_the_next_process(client: &Client, pair: &Pair, victims: &[&String]) -> Result<()> {
    for name in victims {
        eventually(&format!("{name} to be evicted"), PATIENCE, async || {
            let pod = pods::api(client).get(name).await?;
            ensure!(pod.metadata.deletion_timestamp.is_some(), "it is not");
            Ok(())
        })
        .await?;
    }
    // Who is killed between the last eviction and this tells nobody: events are a courtesy.
    is_told(client, "stranded", "PreemptedForTopology").await?;
    pair.extender.kill();
    let (first, others) = victims.split_first().context("finding a victim")?;
    remove_pod(client, pods::NAMESPACE, first).await?;
    create(client, &gpu_pod("rival", 4, &[])).await?;
    refused(client, "rival", &["kept for a pod that waits"], PATIENCE).await?;
    for name in others {
        remove_pod(client, pods::NAMESPACE, name).await?;
    }
    Ok(())
}

/// A pod of one GPU for each name; which GPU it got.
async fn fill(client: &Client, names: &[&str]) -> Result<BTreeMap<String, u64>> {
    let mut singles = BTreeMap::new();
    for name in names {
        let pod = leaving_at_once(gpu_pod(name, 1, &[]));
        singles.insert((*name).to_owned(), run(client, &pod).await?);
    }
    Ok(singles)
}

/// Runs a pod of one GPU; which it got.
async fn run(client: &Client, pod: &Pod) -> Result<u64> {
    let name = pod.name_any();
    create(client, pod).await?;
    let (_, assignment) = bound(client, &name, PATIENCE).await?;
    // Budgets protect pods that run.
    report_phase(client, pods::NAMESPACE, &name, "Running").await?;
    let gpus = indices(&assignment);
    gpus.first().copied().context("reading the GPU of a pod")
}

/// By count any four would do; by wiring four of one quad. Then the urgent pod ends.
async fn one_quad_leaves_for_an_urgent_pod(
    client: &Client,
    singles: &mut BTreeMap<String, u64>,
) -> Result<()> {
    create(
        client,
        &leaving_at_once(urgent(gpu_pod("urgent", 4, &NVLINK_ONLY))),
    )
    .await?;
    let (_, assignment) = bound(client, "urgent", PATIENCE).await?;
    let got = indices(&assignment);
    ensure!(got == [0, 1, 2, 3] || got == [4, 5, 6, 7], "it got {got:?}");
    let names: Vec<&str> = singles.keys().map(String::as_str).collect();
    let left = remaining(client, &names).await?;
    let staying = |name: &&str| !got.contains(&singles[*name]);
    let expected: Vec<&str> = names.iter().copied().filter(staying).collect();
    ensure!(left == expected, "{left:?} were left, not {expected:?}");
    singles.retain(|_, gpu| !got.contains(gpu));
    remove_pod(client, pods::NAMESPACE, "urgent").await
}

/// Two stay on the quad that is full, and take their time to leave; one that a budget protects comes to the
/// empty one: its name.
async fn fragment(client: &Client, singles: &mut BTreeMap<String, u64>) -> Result<String> {
    let staying: Vec<String> = singles.keys().skip(2).cloned().collect();
    for name in staying {
        remove_pod(client, pods::NAMESPACE, &name).await?;
        let again = run(client, &gpu_pod(&name, 1, &[])).await?;
        ensure!(singles.insert(name, again) == Some(again), "the hole stays");
    }
    let protected = "protected".to_owned();
    let others = fill(client, &[&protected]).await?;
    let label = Patch::Merge(json!({"metadata": {"labels": {"app": "protected"}}}));
    pods::api(client)
        .patch(&protected, &PatchParams::default(), &label)
        .await?;
    protect(client).await?;
    let leaving: Vec<String> = singles.keys().take(2).cloned().collect();
    for name in leaving {
        remove_pod(client, pods::NAMESPACE, &name).await?;
        singles.remove(&name);
    }
    singles.extend(others);
    Ok(protected)
}

/// A budget as its controller would leave it while it allows nothing: there is no such controller here.
async fn protect(client: &Client) -> Result<()> {
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), pods::NAMESPACE);
    let budget = serde_json::from_value(json!({
        "metadata": {"name": "protected"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "protected"}}},
    }))?;
    budgets.create(&PostParams::default(), &budget).await?;
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 0,
        "currentHealthy": 0, "desiredHealthy": 1, "expectedPods": 1}});
    let status = Patch::Merge(status);
    budgets
        .patch_status("protected", &PatchParams::default(), &status)
        .await?;
    Ok(())
}

/// Waits until a pod's events tell of that reason.
async fn is_told(client: &Client, name: &str, reason: &str) -> Result<()> {
    let events: Api<Event> = Api::namespaced(client.clone(), pods::NAMESPACE);
    let fields =
        ListParams::default().fields(&format!("involvedObject.name={name},reason={reason}"));
    eventually(&format!("an event {reason}"), PATIENCE, async || {
        ensure!(
            !events.list(&fields).await?.items.is_empty(),
            "there is none"
        );
        Ok(())
    })
    .await
}
