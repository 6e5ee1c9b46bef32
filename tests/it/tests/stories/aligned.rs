//! A kubelet whose topology manager aligns CPUs with GPUs, on the two sockets of a recorded DGX-1: what the
//! extender foresees is what the kubelet decides, and no pod is bound to be rejected.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use berth_it::cluster::topologies;
use berth_it::control_plane::REAL_NODE;
use berth_it::dice::{Dice, seed};
use berth_it::given::{Dgx, GPUS, Given, RESOURCE};
use berth_it::http1;
use berth_it::pods::{self, create, gpu_pod, reached};
use berth_it::real_node::{delete_pod, holding_here};
use berth_it::story::{Stage, story};
use berth_it::wait::{PATIENCE, SOON, eventually};
use berth_topology::cpus::CpuList;
use berth_topology::node::Status;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

/// Policy and scope of the topology manager.
type Policy = (&'static str, &'static str);

const BEST_EFFORT: Policy = ("best-effort", "container");
const RESTRICTED: Policy = ("restricted", "pod");
const SINGLE: Policy = ("single-numa-node", "container");
/// What the kubelet gives nobody: without some, its static CPU manager does not start. One of each socket.
const RESERVED: &str = "0,20";
/// Of the 39 that are left of a socket: with two such pods on it, a third has none.
const MANY_CPUS: usize = 24;
/// The extender's name for what the kubelet would reject now, but not if others left.
const REJECTED_NOW: &str = "KubeletWouldRefuse";
/// As it is said to people.
const REJECTED_NOW_SENTENCE: &str = "the kubelet's topology manager would reject the pod";
/// The kubelet's reasons for a pod that should not have been bound to it.
const ADMISSION_ERRORS: [&str; 2] = ["TopologyAffinityError", "UnexpectedAdmissionError"];
/// The agent's words.
const REGISTERED: &str = "registered with the kubelet";
/// Pods that want more than there is, in any order.
const CROWD: usize = 10;
const SIZES: [usize; 3] = [1, 2, 4];
/// Where the crowd's seed may stand.
const SEED: &str = "BERTH_ALIGNED_SEED";

/// One node, under one policy after the other.
struct Aligned {
    dgx: Dgx,
    kubelet_log: PathBuf,
    policy: Policy,
}

/// A pod of GPUs, and of CPUs for itself where it asks for some.
#[derive(Clone, Copy)]
struct Ask {
    name: &'static str,
    gpus: usize,
    cpus: Option<usize>,
}

#[test]
fn what_is_foreseen_under_each_policy_is_what_the_kubelet_decides() -> Result<()> {
    story(async |stage| {
        let mut aligned = Aligned::start(stage, BEST_EFFORT, true).await?;
        aligned.every_size_is_given_as_foreseen().await?;
        aligned.cpus_decide().await?;
        for policy in [RESTRICTED, SINGLE] {
            aligned.change(policy).await?;
            aligned.every_size_is_given_as_foreseen().await?;
            aligned.cpus_decide().await?;
        }
        aligned.none_was_rejected().await
    })
}

#[test]
fn small_and_large_pods_on_both_sockets_all_run_and_none_is_rejected() -> Result<()> {
    story(async |stage| {
        let aligned = Aligned::start(stage, SINGLE, true).await?;
        println!("{}", aligned.a_crowd_comes_and_goes().await?);
        aligned.none_was_rejected().await
    })
}

#[test]
fn without_numa_hints_the_promised_set_is_given_across_sockets() -> Result<()> {
    story(async |stage| {
        let aligned = Aligned::start(stage, SINGLE, false).await?;
        aligned.spans_two_sockets().await?;
        aligned.none_was_rejected().await
    })
}

// === impl Aligned ===

impl Aligned {
    async fn start(stage: &Stage, policy: Policy, numa_hints: bool) -> Result<Self> {
        let aligned = Self {
            dgx: Dgx::start_aligned(stage, kubelet(policy), numa_hints).await?,
            kubelet_log: stage.folder().join("kubelet.log"),
            policy,
        };
        aligned.is_foreseen().await?;
        Ok(aligned)
    }

    /// As an administrator does on a node that was drained.
    async fn change(&mut self, policy: Policy) -> Result<()> {
        let registered = self.dgx.agent.times_said(REGISTERED)?;
        self.dgx.node.configure(kubelet(policy))?;
        self.policy = policy;
        self.dgx
            .agent
            .wait_until_said(REGISTERED, registered)
            .await?;
        let node = &self.dgx.node;
        node.wait_until_allocatable(self.dgx.client(), RESOURCE, GPUS)
            .await?;
        self.is_foreseen().await
    }

    /// Once the agent has published the policy, and the extender has seen it.
    async fn is_foreseen(&self) -> Result<()> {
        let port = self.dgx.pair.extender_port;
        eventually("the extender to know the policy", PATIENCE, async || {
            let status = self.status().await?;
            let kubelet = &status.kubelet;
            let known = (
                kubelet.topology_manager_policy.as_str(),
                kubelet.topology_manager_scope.as_str(),
            );
            ensure!(known == self.policy, "the agent says {known:?}");
            ensure!(
                status.plugins.iter().all(|plugin| plugin.registered),
                "no plugin"
            );
            let snapshot = http1::get(port, "/snapshot").await?.body;
            ensure!(snapshot.contains(&status.hash), "the extender is behind");
            Ok(())
        })
        .await
    }

    /// Guaranteed and burstable pods of 1, 2 and 4 GPUs; the last one finds two free on each socket.
    async fn every_size_is_given_as_foreseen(&self) -> Result<()> {
        for ask in [
            ask("guaranteed-1", 1, Some(2)),
            ask("guaranteed-4", 4, Some(8)),
            ask("burstable-2", 2, None),
            ask("burstable-1", 1, None),
        ] {
            self.is_given_as_foreseen(ask).await?;
        }
        delete_pod(self.dgx.client(), "guaranteed-4").await?;
        self.is_given_as_foreseen(ask("guaranteed-2", 2, Some(4)))
            .await?;
        delete_pod(self.dgx.client(), "burstable-2").await?;
        let last = ask("burstable-4", 4, None);
        if self.policy == BEST_EFFORT {
            self.is_given_as_foreseen(last).await?;
        } else {
            self.is_refused(last).await?;
            delete_pod(self.dgx.client(), "guaranteed-2").await?;
            self.is_as_foreseen(last).await?;
        }
        self.clear().await
    }

    /// Each socket has GPUs for all three pods, and CPUs for one.
    async fn cpus_decide(&self) -> Result<()> {
        let [first, second, third] =
            ["first", "second", "third"].map(|name| ask(name, 1, Some(MANY_CPUS)));
        for ask in [first, second] {
            self.is_given_as_foreseen(ask).await?;
        }
        let sockets = [self.decided(first.name)?, self.decided(second.name)?];
        ensure!(sockets[0] != sockets[1], "both are on {sockets:?}");
        if self.policy == BEST_EFFORT {
            self.is_given_as_foreseen(third).await?;
        } else {
            self.is_refused(third).await?;
            delete_pod(self.dgx.client(), first.name).await?;
            self.is_as_foreseen(third).await?;
        }
        self.clear().await
    }

    /// Four GPUs where one socket has three left, the other two: what a kubelet that knew would reject.
    async fn spans_two_sockets(&self) -> Result<()> {
        let client = self.dgx.client();
        for (name, gpus) in [("three", 3), ("one", 1), ("two", 2)] {
            create(client, &ask(name, gpus, None).pod()).await?;
            self.dgx.has_what_was_promised(name).await?;
        }
        delete_pod(client, "three").await?;
        create(client, &ask("four", 4, Some(4)).pod()).await?;
        self.dgx.has_what_was_promised("four").await?;
        let pod = pods::api(client).get("four").await?;
        let assignment = pods::assignment(&pod)?;
        let ranks = assignment.containers.values().flat_map(|one| &one.ranks);
        let sockets: BTreeSet<u32> = ranks.filter_map(|rank| Some(rank.numa_node?.0)).collect();
        ensure!(sockets.len() == 2, "it is on {sockets:?}");
        Ok(())
    }

    /// All come at once; one after the other of those that run goes.
    async fn a_crowd_comes_and_goes(&self) -> Result<String> {
        let (client, seed) = (self.dgx.client(), seed(SEED)?);
        let mut dice = Dice::new(seed);
        for number in 0..CROWD {
            let gpus = SIZES[dice.below(SIZES.len())];
            let cpus = (dice.below(2) == 0).then_some(4 * gpus);
            create(client, &pod(&format!("crowd-{number}"), gpus, cpus)).await?;
        }
        let mut swaps = Vec::new();
        for _ in 0..CROWD {
            let bound = self.bound().await?;
            let name = bound[dice.below(bound.len())].as_str();
            let pod = reached(client, name, "Running", PATIENCE).await?;
            if let Given::Swapped { promised, given } = self.dgx.given(&pod).await? {
                self.is_reported(name).await?;
                swaps.push((name.to_owned(), promised, given));
            }
            delete_pod(client, name).await?;
        }
        Ok(format!(
            "seed {seed} ({SEED}): {CROWD} pods, swapped: {swaps:?}"
        ))
    }

    /// Names of pods that have a node, once there is one: of pods that wait for each other for ever none has.
    async fn bound(&self) -> Result<Vec<String>> {
        let pods = pods::api(self.dgx.client());
        eventually("a pod to be bound", PATIENCE, async || {
            let all = pods.list(&ListParams::default()).await?.items;
            let bound = all.iter().filter(|pod| !pods::node(pod).is_empty());
            let names: Vec<String> = bound.map(ResourceExt::name_any).collect();
            ensure!(!names.is_empty(), "all {} wait", all.len());
            Ok(names)
        })
        .await
    }

    /// The kubelet knows sooner than the extender that GPUs are free, and may prefer them.
    ///
    /// The agent says it at once, or where it could not know whose the devices were, once the kubelet's book
    /// tells.
    async fn is_reported(&self, name: &str) -> Result<()> {
        let of_pod = format!("resource=\"{RESOURCE}\" pod=\"{}/{name}\"", pods::NAMESPACE);
        let lines = [
            "given, not as promised",
            "has other devices than it was promised",
        ];
        eventually("the agent to say who was swapped", PATIENCE, async || {
            let mut said = 0;
            for line in lines {
                said += self.dgx.agent.times_said(&format!("{line} {of_pod}"))?;
            }
            ensure!(said > 0, "the agent does not say that {name} was swapped");
            Ok(())
        })
        .await
    }

    async fn is_given_as_foreseen(&self, ask: Ask) -> Result<()> {
        create(self.dgx.client(), &ask.pod()).await?;
        self.is_as_foreseen(ask).await
    }

    async fn is_as_foreseen(&self, ask: Ask) -> Result<()> {
        self.dgx.has_what_was_promised(ask.name).await?;
        let story = self.explanation(ask.name).await?;
        let foreseen = &story["nodes"][0]["containers"][0]["numaNodes"];
        let foreseen: BTreeSet<u32> = serde_json::from_value(foreseen.clone())?;
        let decided = self.decided(ask.name)?;
        let name = ask.name;
        ensure!(
            foreseen == decided,
            "{name}: {foreseen:?} foreseen, the kubelet decided on {decided:?}"
        );
        let exact = &story["bind"]["exact"];
        ensure!(
            *exact == json!(true),
            "{name}: the extender was not sure: {exact}"
        );
        match ask.cpus {
            Some(count) => self.has_cpus(name, count, &decided).await,
            None => Ok(()),
        }
    }

    /// As the agent publishes what the kubelet says of it.
    async fn has_cpus(&self, name: &str, count: usize, nodes: &BTreeSet<u32>) -> Result<()> {
        let what = format!("the CPUs of {name} to be published");
        eventually(&what, SOON, async || {
            let status = self.status().await?;
            let mut rows = status.allocations.iter();
            let row = rows
                .find(|row| row.name == name)
                .context("it has nothing")?;
            let cpus = row.cpus.clone().context("it has no CPUs")?;
            ensure!(cpus.len() == count, "it has the CPUs {cpus}");
            let near = status.numa.iter().filter(|numa| nodes.contains(&numa.id.0));
            let near = near.fold(CpuList::default(), |near, numa| near.union(&numa.cpus));
            // With best-effort what is not there comes from elsewhere.
            ensure!(
                self.policy == BEST_EFFORT || cpus.is_subset(&near),
                "{cpus} are not on {nodes:?}"
            );
            Ok(())
        })
        .await
    }

    /// What the extender says of that very pod: events of an earlier one of the name are there still.
    async fn is_refused(&self, ask: Ask) -> Result<()> {
        let client = self.dgx.client();
        let uid = create(client, &ask.pod()).await?.uid();
        let what = format!("pod {} to be refused", ask.name);
        eventually(&what, PATIENCE, async || {
            let story = self.explanation(ask.name).await?;
            ensure!(story["podUid"] == json!(uid), "it was not looked at");
            let refused = &story["refused"][REJECTED_NOW];
            let message = refused["message"].as_str().unwrap_or_default();
            ensure!(message.contains(REJECTED_NOW_SENTENCE), "{story}");
            ensure!(refused["resolvable"] == json!(true), "{story}");
            Ok(())
        })
        .await?;
        let pod = pods::api(client).get(ask.name).await?;
        ensure!(pods::node(&pod).is_empty(), "{} was bound", ask.name);
        Ok(())
    }

    async fn explanation(&self, name: &str) -> Result<Value> {
        let path = format!("/explain/{}/{name}", pods::NAMESPACE);
        let answer = http1::get(self.dgx.pair.extender_port, &path).await?;
        serde_json::from_str(&answer.body).with_context(|| format!("reading {path}"))
    }

    /// The NUMA nodes that the kubelet logged for a pod, the last time that one of that name came.
    fn decided(&self, name: &str) -> Result<BTreeSet<u32>> {
        let log = std::fs::read_to_string(&self.kubelet_log).context("reading the log")?;
        let of_pod = format!("pod=\"{}/{name}\"", pods::NAMESPACE);
        let mut lines = log.lines().rev();
        let line = lines
            .find(|line| line.contains("\"Best TopologyHint\"") && line.contains(&of_pod))
            .with_context(|| format!("the kubelet decided nothing on {name}"))?;
        let mask = line.split("\"NUMANodeAffinity\":").nth(1);
        let mask = mask.and_then(|rest| rest.split([',', '}']).next());
        let mask: u64 = mask.context("reading a mask")?.parse()?;
        Ok((0..u64::BITS).filter(|bit| mask >> bit & 1 == 1).collect())
    }

    async fn status(&self) -> Result<Status> {
        let object = topologies(self.dgx.client()).get(REAL_NODE).await?;
        serde_json::from_value(object.data["status"].clone()).context("reading the topology")
    }

    async fn clear(&self) -> Result<()> {
        let pods = pods::api(self.dgx.client());
        pods.delete_collection(&DeleteParams::default(), &ListParams::default())
            .await?;
        eventually("the node to be empty", PATIENCE, async || {
            let left = pods.list(&ListParams::default()).await?.items.len();
            let held = self.status().await?.allocations.len();
            ensure!(
                (left, held) == (0, 0),
                "{left} pods are there, {held} hold GPUs"
            );
            Ok(())
        })
        .await
    }

    async fn none_was_rejected(&self) -> Result<()> {
        let events: Api<Event> = Api::all(self.dgx.client().clone());
        for reason in ADMISSION_ERRORS {
            let only = ListParams::default().fields(&format!("reason={reason}"));
            let found = events.list(&only).await?.items;
            ensure!(found.is_empty(), "{reason}: {found:?}");
        }
        let log = std::fs::read_to_string(&self.kubelet_log).context("reading the log")?;
        let rejected: Vec<&str> = log
            .lines()
            .filter(|line| ADMISSION_ERRORS.iter().any(|error| line.contains(error)))
            .collect();
        ensure!(rejected.is_empty(), "{rejected:?}");
        Ok(())
    }
}

// === impl Ask ===

impl Ask {
    fn pod(self) -> Pod {
        pod(self.name, self.gpus, self.cpus)
    }
}

fn ask(name: &'static str, gpus: usize, cpus: Option<usize>) -> Ask {
    Ask { name, gpus, cpus }
}

/// Guaranteed where it asks for CPUs.
fn pod(name: &str, gpus: usize, cpus: Option<usize>) -> Pod {
    let mut pod = holding_here(gpu_pod(name, gpus, &[]), None);
    let limits = pod
        .spec
        .iter_mut()
        .flat_map(|spec| &mut spec.containers)
        .filter_map(|container| container.resources.as_mut()?.limits.as_mut());
    for limits in limits {
        if let Some(cpus) = cpus {
            limits.insert("cpu".to_owned(), Quantity(cpus.to_string()));
            limits.insert("memory".to_owned(), Quantity("64Mi".to_owned()));
        }
    }
    pod
}

fn kubelet((policy, scope): Policy) -> Value {
    json!({
        "cpuManagerPolicy": "static",
        "reservedSystemCPUs": RESERVED,
        "topologyManagerPolicy": policy,
        "topologyManagerScope": scope,
    })
}
