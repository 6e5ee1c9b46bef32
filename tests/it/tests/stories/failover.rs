//! The leading scheduler and its extender go, and the other replica takes over.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::{Cluster, NAMESPACE};
use berth_it::http1;
use berth_it::pair::Pair;
use berth_it::patches::short_lease;
use berth_it::pods::{self, bound, create, gpu_pod, indices};
use berth_it::story::story;
use berth_it::wait::{PATIENCE, eventually};
use berth_test_machine::raw as recorded;
use berth_topology::names;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

/// What can happen to the leader.
#[derive(Clone, Copy, Debug)]
enum Misfortune {
    /// `kill -9` of both: the lease must pass.
    PairKilled,
    /// SIGTERM to both: the scheduler gives the lease back.
    PairTerminated,
    /// `kill -9` of the extender alone: its scheduler goes on.
    ExtenderKilled,
    /// Somebody deletes the lease.
    LeaseDeleted,
}

#[test]
fn whatever_happens_to_the_leader_pods_are_bound_once_and_no_gpu_is_given_twice() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let client = cluster.admin();
        let _agent = Agent::start(&cluster, "dgx1", &recorded("dgx1-v100")).await?;
        let mut pairs = Vec::new();
        for name in ["pair-1", "pair-2"] {
            let pair = Pair::start(&cluster, name, &[short_lease()]).await?;
            pair.wait_until_alive().await?;
            pairs.push((name, Some(pair)));
        }
        for (number, misfortune) in [
            Misfortune::ExtenderKilled,
            Misfortune::PairTerminated,
            Misfortune::LeaseDeleted,
            Misfortune::PairKilled,
        ]
        .into_iter()
        .enumerate()
        {
            let [before, after] = ["before", "after"].map(|when| format!("{when}-{number}"));
            create(client, &gpu_pod(&before, 1, &[])).await?;
            bound(client, &before, PATIENCE).await?;
            let leader = holder(client).await?;
            let other = pairs.iter().find(|(name, _)| *name != leader);
            let port = other.and_then(|(_, pair)| Some(pair.as_ref()?.extender_port));
            let next = Next {
                before: leader.clone(),
                port: port.context("finding who follows")?,
                client: client.clone(),
            };
            let hit = pairs.iter_mut().find(|(name, _)| *name == leader);
            let (name, pair) = hit.context("finding who leads")?;
            let began = Instant::now();
            let changes = matches!(
                misfortune,
                Misfortune::PairTerminated | Misfortune::PairKilled
            );
            let handover = changes.then(|| tokio::spawn(next.serves()));
            strike(misfortune, pair, client).await?;
            if let Some(handover) = handover {
                let took = handover.await??;
                println!(
                    "{misfortune:?}: serving {} ms after the lease",
                    took.as_millis()
                );
            }
            create(client, &gpu_pod(&after, 1, &[])).await?;
            bound(client, &after, PATIENCE).await?;
            println!(
                "{misfortune:?}: bound {} ms later",
                began.elapsed().as_millis()
            );
            if pair.is_none() {
                *pair = Some(Pair::start(&cluster, name, &[short_lease()]).await?);
            }
        }
        pods::none_shares_a_gpu(client).await
    })
}

/// Who is to take over.
struct Next {
    before: String,
    port: u16,
    client: Client,
}

// === impl Next ===

impl Next {
    /// Waits until it serves; how long after its scheduler had taken the lease.
    async fn serves(self) -> Result<Duration> {
        let deadline = Instant::now() + PATIENCE;
        let mut taken = None;
        loop {
            ensure!(Instant::now() < deadline, "nobody has taken over");
            let lease = leases(&self.client).get("berth-scheduler").await?;
            let holder = lease.spec.and_then(|spec| spec.holder_identity);
            let holder = holder.unwrap_or_default();
            let host = holder.split_once('_').map(|(host, _)| host);
            if host.is_some_and(|host| host != self.before) {
                let taken = *taken.get_or_insert_with(Instant::now);
                let nothing = json!({"Pod": {"metadata": {"name": "p"}}, "NodeNames": []});
                if http1::post(self.port, "/filter", &nothing).await?.status == 200 {
                    return Ok(taken.elapsed());
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn strike(misfortune: Misfortune, pair: &mut Option<Pair>, client: &Client) -> Result<()> {
    let leader = pair.as_ref().context("finding the leader's pair")?;
    let lease = leases(client).get("berth-scheduler").await?;
    let term = lease.spec.and_then(|spec| spec.lease_transitions);
    let term = term.context("reading the term")?;
    match misfortune {
        Misfortune::PairKilled => *pair = None,
        Misfortune::PairTerminated => {
            leader.scheduler.terminate();
            leader.extender.terminate();
            eventually("both to end in order", PATIENCE, async || {
                let exit = leader.extender.last_exit().unwrap_or_default();
                ensure!(exit == "exit status: 0", "the extender ended with {exit}");
                let exit = leader.scheduler.last_exit();
                exit.context("waiting for the scheduler to end").map(drop)
            })
            .await?;
            let lease = leases(client).get("berth-scheduler").await?;
            let said = lease.annotations().get(names::ENDED_TERM).cloned();
            ensure!(said == Some(term.to_string()), "the lease says {said:?}");
            *pair = None;
        }
        Misfortune::ExtenderKilled => leader.extender.kill(),
        Misfortune::LeaseDeleted => {
            let now = DeleteParams::default();
            leases(client).delete("berth-scheduler", &now).await?;
        }
    }
    Ok(())
}

/// The host before `_`.
async fn holder(client: &Client) -> Result<String> {
    eventually(
        "the lease to be held",
        Duration::from_secs(30),
        async || {
            let lease = leases(client).get("berth-scheduler").await?;
            let holder = lease.spec.and_then(|spec| spec.holder_identity);
            let holder = holder.unwrap_or_default();
            let (host, _) = holder.split_once('_').context("reading the holder")?;
            Ok(host.to_owned())
        },
    )
    .await
}

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), NAMESPACE)
}

#[test]
fn the_other_replica_takes_over_and_until_then_refuses_to_answer() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let client = cluster.admin();
        let _agent = Agent::start(&cluster, "dgx1", &recorded("dgx1-v100")).await?;
        let leader = Pair::start(&cluster, "pair-1", &[]).await?;
        create(client, &gpu_pod("first", 4, &[])).await?;
        bound(client, "first", PATIENCE).await?;
        let follower = Pair::start(&cluster, "pair-2", &[]).await?;
        follower.wait_until_alive().await?;

        // Were a scheduler to ask the wrong extender, it must not bind on what that one believes.
        let bind =
            json!({"PodName": "first", "PodNamespace": "default", "PodUID": "", "Node": "dgx1"});
        let answer = http1::post(follower.extender_port, "/bind", &bind).await?;
        ensure!(
            answer.status == 503,
            "a replica that does not lead answers {}",
            answer.status
        );

        drop(leader);
        create(client, &gpu_pod("second", 4, &[])).await?;
        let (_, second) = bound(client, "second", PATIENCE).await?;
        ensure!(
            indices(&second) == [4, 5, 6, 7],
            "second got {:?}",
            indices(&second)
        );
        pods::none_shares_a_gpu(client).await
    })
}
