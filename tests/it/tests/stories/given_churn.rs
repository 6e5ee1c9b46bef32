//! Pods of 1, 2 and 4 GPUs come and go on a real kubelet: each gets what it was promised, and none a GPU that
//! another one still uses.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use berth_it::dice::{Dice, from_environment, seed};
use berth_it::given::{Dgx, Given};
use berth_it::pods::{self, create, gpu_pod};
use berth_it::process::Process;
use berth_it::real_node::holding_here;
use berth_it::story::{Stage, story};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};

/// How many pods; `BERTH_GIVEN_PODS` says another number.
const PODS: usize = 60;
/// How many where something is killed meanwhile.
const PODS_WITH_KILLS: usize = 30;
/// Where the seed may stand.
const SEED: &str = "BERTH_GIVEN_SEED";
/// Longer than a kubelet or an agent needs to be back, where nothing else runs; elsewhere a pod has to be done first.
const KILL_EVERY: Duration = Duration::from_secs(5);
/// As a controller waits when its pod was refused.
const BACK_OFF: Duration = Duration::from_secs(1);
/// One of these each.
const GPU_COUNTS: [usize; 6] = [1, 1, 2, 2, 4, 4];
/// Half as much again as there is, so that some wait.
const DEMAND_MAX: usize = 12;
/// A pod ends by itself after 0, 1 or 2 seconds; one in four is deleted while it runs.
const LIFE_SECONDS_MAX: usize = 2;
const ONE_IN: usize = 4;
/// So many times a second somebody else asks the kubelet what it gave, at its PodResources socket.
const OTHERS_ASK: u32 = 100;
/// For each pod: one takes a second or two on a machine of two cores where nothing else runs.
const POD_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(100);

struct Churn {
    dgx: Dgx,
    seed: u64,
    dice: Dice,
    /// Those that are refused do not count.
    to_create: usize,
    created: usize,
    /// By uid: seen, compared, and deleted.
    done: BTreeSet<String>,
    /// Names of pods that got others, and which.
    swaps: Vec<(String, Given)>,
    /// Names of pods that the kubelet failed.
    refused: Vec<String>,
    kills: Option<Kills>,
    /// When the next pod may come.
    not_before: Instant,
    began: Instant,
    /// Asks the kubelet all the time.
    _others: Process,
}

/// What is killed, and when next.
struct Kills {
    dice: Dice,
    next: Instant,
    /// How many pods were done when something was killed last.
    done_before: Option<usize>,
    kubelets: usize,
    agents: usize,
}

#[test]
fn pods_that_come_and_go_get_what_they_were_promised_and_share_nothing() -> Result<()> {
    story(async |stage| {
        let mut churn = Churn::start(stage, PODS, None).await?;
        churn.all_come_and_go().await?;
        println!("{}", churn.counts());
        churn.every_swap_is_reported(stage.folder())
    })
}

#[test]
fn pods_that_come_and_go_while_kubelet_and_agent_are_killed_share_nothing() -> Result<()> {
    story(async |stage| {
        let kills = Kills {
            dice: Dice::new(seed(SEED)?),
            next: Instant::now(),
            done_before: None,
            kubelets: 0,
            agents: 0,
        };
        let mut churn = Churn::start(stage, PODS_WITH_KILLS, Some(kills)).await?;
        churn.all_come_and_go().await?;
        // A swap may go unsaid here: the agent may be killed before it has looked.
        println!("{}", churn.counts());
        Ok(())
    })
}

// === impl Churn ===

impl Churn {
    async fn start(stage: &Stage, pods: usize, kills: Option<Kills>) -> Result<Self> {
        let seed = seed(SEED)?;
        let dgx = Dgx::start(stage, &[]).await?;
        Ok(Self {
            _others: dgx.node.ask_for_devices(OTHERS_ASK, stage.folder())?,
            dgx,
            seed,
            dice: Dice::new(seed),
            to_create: from_environment("BERTH_GIVEN_PODS")?.map_or(Ok(pods), usize::try_from)?,
            created: 0,
            done: BTreeSet::new(),
            swaps: Vec::new(),
            kills,
            refused: Vec::new(),
            not_before: Instant::now(),
            began: Instant::now(),
        })
    }

    async fn all_come_and_go(&mut self) -> Result<()> {
        let within = POD_WITHIN * u32::try_from(self.to_create)?;
        let ended = tokio::time::timeout(within, self.go_on()).await;
        let ended = ended.with_context(|| format!("waiting for {within:?}"));
        ended.and_then(|ended| ended).with_context(|| self.counts())
    }

    fn counts(&self) -> String {
        let kills = self.kills.as_ref();
        let kills = kills.map(|kills| (kills.kubelets, kills.agents));
        format!(
            "seed {} ({SEED}): {} pods in {} s; swapped: {:?}; refused by the kubelet: {:?}; \
             kubelets and agents killed: {kills:?}",
            self.seed,
            self.done.len() - self.refused.len(),
            self.began.elapsed().as_secs(),
            self.swaps,
            self.refused
        )
    }

    async fn go_on(&mut self) -> Result<()> {
        loop {
            let pods = pods::api(self.dgx.client());
            let there = pods.list(&ListParams::default()).await?.items;
            for pod in &there {
                self.look_at(pod).await?;
            }
            let open = there.iter().filter(|pod| !is_finished(pod));
            let demand: usize = open.map(pods::gpu_count).sum();
            if self.created < self.to_create + self.refused.len() {
                self.create_if_below(DEMAND_MAX.saturating_sub(demand))
                    .await?;
            } else if there.is_empty() {
                return Ok(());
            }
            self.kill_one();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn create_if_below(&mut self, room: usize) -> Result<()> {
        let count = GPU_COUNTS[self.dice.below(GPU_COUNTS.len())];
        if count > room || Instant::now() < self.not_before {
            return Ok(());
        }
        // One that is deleted while it runs is told to live for ever.
        let is_deleted = self.dice.below(ONE_IN) == 0;
        let life = (!is_deleted).then(|| self.dice.below(LIFE_SECONDS_MAX + 1));
        let name = format!("churned-{}", self.created);
        self.created += 1;
        let pod = holding_here(gpu_pod(&name, count, &[]), life);
        create(self.dgx.client(), &pod).await.map(drop)
    }

    /// Compares and deletes a pod once, when it has ended, or runs and would not end.
    async fn look_at(&mut self, pod: &Pod) -> Result<()> {
        let status = pod.status.clone().unwrap_or_default();
        let phase = status.phase.as_deref().unwrap_or_default();
        if phase == "Failed" {
            return self.has_failed(pod).await;
        }
        let ends = phase == "Succeeded" || (phase == "Running" && lives_for_ever(pod));
        let uid = pod.uid().context("reading a pod's uid")?;
        if !ends || !self.done.insert(uid) {
            return Ok(());
        }
        let given = self.dgx.given(pod).await?;
        if let Given::Swapped { .. } = given {
            self.swaps.push((pod.name_any(), given));
        }
        self.delete(pod).await
    }

    /// Only where the kubelet or the plugin was away, and only by the kubelet's rules for that.
    async fn has_failed(&mut self, pod: &Pod) -> Result<()> {
        let status = pod.status.clone().unwrap_or_default();
        let is_refused = status.reason.as_deref() == Some("UnexpectedAdmissionError");
        ensure!(
            (is_refused || never_started(&status)) && self.kills.is_some(),
            "{} failed: {status:?}",
            pod.name_any()
        );
        if self.done.insert(pod.uid().context("reading a pod's uid")?) {
            self.refused.push(pod.name_any());
            self.not_before = Instant::now() + BACK_OFF;
            self.delete(pod).await?;
        }
        Ok(())
    }

    async fn delete(&self, pod: &Pod) -> Result<()> {
        let pods = pods::api(self.dgx.client());
        let deleted = pods.delete(&pod.name_any(), &DeleteParams::default()).await;
        deleted.map(drop).context("deleting a pod")
    }

    fn kill_one(&mut self) {
        let Some(kills) = &mut self.kills else {
            return;
        };
        let done = Some(self.done.len());
        if Instant::now() < kills.next || kills.done_before == done {
            return;
        }
        kills.done_before = done;
        kills.next = Instant::now() + KILL_EVERY;
        if kills.dice.below(2) == 0 {
            kills.kubelets += 1;
            self.dgx.node.kubelet.kill();
        } else {
            kills.agents += 1;
            self.dgx.agent.kill();
        }
    }

    fn every_swap_is_reported(&self, logs: &Path) -> Result<()> {
        let said = std::fs::read_to_string(logs.join("agent-real.log"))?;
        let said: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("has other devices than it was promised"))
            .collect();
        for (name, _) in &self.swaps {
            let is_reported = said.iter().any(|line| line.contains(name.as_str()));
            ensure!(
                is_reported,
                "the agent does not say that {name} was swapped"
            );
        }
        Ok(())
    }
}

/// Its kubelet died while containerd started the container, which then gives up.
fn never_started(status: &PodStatus) -> bool {
    let containers = status.container_statuses.iter().flatten();
    let mut ends = containers.filter_map(|it| it.state.as_ref()?.terminated.as_ref());
    ends.any(|end| {
        let message = end.message.as_deref().unwrap_or_default();
        end.reason.as_deref() == Some("StartError") && message.contains("context canceled")
    })
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn lives_for_ever(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut variables = containers.flat_map(|container| container.env.iter().flatten());
    !variables.any(|variable| variable.name == "LIFE_SECONDS")
}
