//! Pods come and go while extender, agents and scheduler are killed at random: no GPU is given twice, each
//! pod is bound once, and in the end everything that fits is bound.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::Cluster;
use berth_it::dice::{Dice, from_environment, seed};
use berth_it::kubelet::{remove_pod, report_phase};
use berth_it::pair::Pair;
use berth_it::patches::short_lease;
use berth_it::pods::{self, assignment, bound, create, gpu_pod};
use berth_it::story::story;
use berth_it::wait::{PATIENCE, eventually};
use berth_test_machine::raw as recorded;
use berth_topology::names;
use berth_topology::raw::RawMachine;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Client, ResourceExt as _};

/// How long it goes on, in seconds; `BERTH_CHURN_SECONDS` says another time.
const SECONDS: u64 = 60;
/// Between two pods that are created: 300 in three minutes.
const POD_EVERY: Duration = Duration::from_millis(600);
/// Between two programs that are killed.
const KILL_EVERY: Duration = Duration::from_secs(4);
/// Between two looks at the pods.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Pods that are there at once ask for about twice what fits, so that some always wait.
const PODS_MAX: usize = 12;
/// What the pods ask for, one of these each.
const GPU_COUNTS: [usize; 5] = [1, 1, 2, 2, 4];
/// The nodes and their recorded machines.
const NODES: [(&str, &str); 2] = [("dgx1", "dgx1-v100"), ("l40s", "l40s-4")];

/// The programs, and what is expected of them.
struct Churn<'a> {
    client: &'a Client,
    pair: Pair,
    agents: Vec<Agent>,
    /// By node: its GPUs' UUIDs.
    gpus: BTreeMap<&'static str, BTreeSet<String>>,
    /// By uid: the node and the assignment that a pod was first seen bound with.
    bound: BTreeMap<String, (String, String)>,
    created: usize,
    kills: BTreeMap<&'static str, usize>,
    /// For what is killed, apart from the pods' so that one seed kills in the same order again.
    kill_dice: Dice,
    pod_dice: Dice,
}

#[test]
fn pods_that_churn_while_everything_is_killed_share_no_gpu_and_none_is_lost() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let seed = seed("BERTH_CHURN_SEED")?;
        println!("seed {seed} (BERTH_CHURN_SEED)");
        let mut churn = Churn::start(&cluster, seed).await?;
        let within =
            Duration::from_secs(from_environment("BERTH_CHURN_SECONDS")?.unwrap_or(SECONDS));
        let began = Instant::now();
        tokio::time::timeout(within + PATIENCE, churn.go_on(within))
            .await
            .context("waiting for the API server while pods churn")??;
        churn.everything_that_fits_is_bound().await?;
        println!("{} s: {}", began.elapsed().as_secs(), churn.counts());
        churn.every_gpu_can_be_had_again().await
    })
}

// === impl Churn ===

impl<'a> Churn<'a> {
    async fn start(cluster: &'a Cluster, seed: u64) -> Result<Self> {
        let mut agents = Vec::new();
        let mut gpus = BTreeMap::new();
        for (node, machine) in NODES {
            let machine = recorded(machine);
            agents.push(Agent::start(cluster, node, &machine).await?);
            gpus.insert(node, uuids(&machine));
        }
        let pair = Pair::start(cluster, "pair", &[short_lease()]).await?;
        pair.wait_until_alive().await?;
        Ok(Self {
            client: cluster.admin(),
            pair,
            agents,
            gpus,
            bound: BTreeMap::new(),
            created: 0,
            kills: BTreeMap::new(),
            kill_dice: Dice::new(seed),
            pod_dice: Dice::new(!seed),
        })
    }

    async fn go_on(&mut self, within: Duration) -> Result<()> {
        let began = Instant::now();
        let [mut next_pod, mut next_kill] = [Duration::ZERO, KILL_EVERY];
        while began.elapsed() < within {
            let there = self.look().await?;
            if began.elapsed() >= next_pod {
                next_pod += POD_EVERY;
                self.make_room(&there).await?;
                self.create_one().await?;
            }
            if began.elapsed() >= next_kill {
                next_kill += KILL_EVERY;
                self.kill_one()?;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Removes what has succeeded; where there are still many, one pod is removed, or succeeds first.
    async fn make_room(&mut self, there: &[Pod]) -> Result<()> {
        let (finished, others): (Vec<_>, Vec<_>) = there.iter().partition(|pod| is_finished(pod));
        for pod in finished {
            remove_pod(self.client, pods::NAMESPACE, &pod.name_any()).await?;
        }
        if others.len() < PODS_MAX {
            return Ok(());
        }
        let (mut candidates, waiting): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|pod| is_holding(pod));
        if candidates.is_empty() || self.pod_dice.below(5) == 0 {
            candidates.extend(waiting);
        }
        let pod = candidates[self.pod_dice.below(candidates.len())];
        if is_holding(pod) && self.pod_dice.below(3) == 0 {
            return report_phase(self.client, pods::NAMESPACE, &pod.name_any(), "Succeeded").await;
        }
        remove_pod(self.client, pods::NAMESPACE, &pod.name_any()).await
    }

    async fn create_one(&mut self) -> Result<()> {
        let gpu_count = GPU_COUNTS[self.pod_dice.below(GPU_COUNTS.len())];
        let name = format!("churn-{}", self.created);
        create(self.client, &gpu_pod(&name, gpu_count, &[])).await?;
        self.created += 1;
        Ok(())
    }

    /// Half of them the extender's.
    fn kill_one(&mut self) -> Result<()> {
        let what = match self.kill_dice.below(4) {
            0 | 1 => {
                self.pair.extender.kill();
                "extender"
            }
            2 => {
                self.pair.scheduler.kill();
                "scheduler"
            }
            _ => {
                let agent = self.kill_dice.below(self.agents.len());
                self.agents[agent].stop();
                self.agents[agent].start_again()?;
                "agent"
            }
        };
        *self.kills.entry(what).or_default() += 1;
        Ok(())
    }

    /// Lists the pods at one moment, and checks what has to hold at every moment.
    async fn look(&mut self) -> Result<Vec<Pod>> {
        let there = pods::api(self.client).list(&ListParams::default()).await?;
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        for pod in &there.items {
            if pods::node(pod).is_empty() {
                let halfway = pod.annotations().contains_key(names::ASSIGNMENT);
                ensure!(!halfway, "{} has GPUs and no node", pod.name_any());
                continue;
            }
            let given = self.check_bound(pod)?;
            for gpu in given.into_iter().filter(|_| is_holding(pod)) {
                if let Some(other) = owners.insert(gpu.clone(), pod.name_any()) {
                    bail!("GPU {gpu} is given to {} and to {other}", pod.name_any());
                }
            }
        }
        Ok(there.items)
    }

    /// The GPUs of a bound pod: as many as it asked for, of its node, and the same ones as ever.
    fn check_bound(&mut self, pod: &Pod) -> Result<BTreeSet<String>> {
        let name = pod.name_any();
        let assignment = assignment(pod)?;
        let given: BTreeSet<String> = assignment.gpus().map(ToString::to_string).collect();
        ensure!(
            given.len() == pods::gpu_count(pod),
            "pod {name} asked for {} GPUs and got {given:?}",
            pods::gpu_count(pod)
        );
        let of_node = self.gpus.get(pods::node(pod));
        ensure!(
            of_node.is_some_and(|gpus| given.is_subset(gpus)),
            "node {} has not all of {given:?}, given to pod {name}",
            pods::node(pod)
        );
        let now = (pods::node(pod).to_owned(), assignment.encode());
        let uid = pod.uid().context("a pod has a uid")?;
        let first = self.bound.entry(uid).or_insert_with(|| now.clone());
        ensure!(
            *first == now,
            "pod {name} was bound twice: {first:?}, {now:?}"
        );
        Ok(given)
    }

    /// Nothing is killed any more: a pod that waits does so because no node has room for it.
    async fn everything_that_fits_is_bound(&mut self) -> Result<()> {
        eventually("everything that fits to be bound", PATIENCE, async || {
            let there = self.look().await?;
            let free = self.gpus.iter().map(|(node, gpus)| {
                let on_node = |pod: &&Pod| is_holding(pod) && pods::node(pod) == *node;
                let held: usize = there.iter().filter(on_node).map(pods::gpu_count).sum();
                gpus.len().saturating_sub(held)
            });
            let most = free.max().unwrap_or_default();
            let fits = |pod: &&Pod| pods::node(pod).is_empty() && pods::gpu_count(pod) <= most;
            match there.iter().find(fits) {
                Some(pod) => bail!("{} waits, and {most} GPUs are free", pod.name_any()),
                None => Ok(()),
            }
        })
        .await
    }

    /// When all pods are gone, nothing of them is left: pods as large as the machines are bound.
    async fn every_gpu_can_be_had_again(&mut self) -> Result<()> {
        for pod in self.look().await? {
            remove_pod(self.client, pods::NAMESPACE, &pod.name_any()).await?;
        }
        for (node, _) in NODES {
            let gpu_count = self.gpus[node].len();
            let name = format!("all-{node}");
            create(self.client, &gpu_pod(&name, gpu_count, &[])).await?;
            let (pod, _) = bound(self.client, &name, PATIENCE).await?;
            ensure!(
                pods::node(&pod) == node,
                "{name} is on {}",
                pods::node(&pod)
            );
        }
        self.look().await.map(drop)
    }

    fn counts(&self) -> String {
        format!(
            "{} pods created, {} seen bound; killed: {:?}; the extender started {} times",
            self.created,
            self.bound.len(),
            self.kills,
            self.pair.extender.starts()
        )
    }
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_holding(pod: &Pod) -> bool {
    !pods::node(pod).is_empty() && !is_finished(pod)
}

fn uuids(machine: &RawMachine) -> BTreeSet<String> {
    let gpus = machine.nvml.value().into_iter().flat_map(|nvml| &nvml.gpus);
    gpus.filter_map(|gpu| gpu.value()?.uuid.value().cloned())
        .collect()
}
