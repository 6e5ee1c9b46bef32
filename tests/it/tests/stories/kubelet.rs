//! What Berth foresees of a pod's admission is what the kubelet's own packages do.
//!
//! Random machines, holders and pods; each is placed, and then admitted by
//! `tests/control-plane/topology-manager`, whose device plugin prefers what was promised.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use berth_it::programs;
use berth_it::story::story_with_program;
use berth_placement::{Free, GpuSet, Inexact, Machine, PodPlacement, Refusal, place_pod};
use berth_topology::claim::PodClaim;
use berth_topology::cpus::CpuList;
use berth_topology::gpu::{Gpu, Health, HealthState};
use berth_topology::ids::{GpuIndex, GpuUuid, NumaId};
use berth_topology::kubelet::Kubelet;
use berth_topology::node::Status;
use berth_topology::numa::NumaNode;
use serde::Deserialize;
use serde_json::{Value, json};

const RESOURCE: &str = "nvidia.com/gpu";

/// Cases of one run: a few seconds of the Go program.
const CASES: usize = 2_000;

/// Each case grows from this and its number; `BERTH_SEED` replaces it.
const SEED: u64 = 1;

/// One machine, what is held there, and one pod.
struct Case {
    number: usize,
    status: Status,
    held_gpus: GpuSet,
    held_cpus: CpuList,
    pod: Value,
}

/// As the Go program writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    starts: bool,
    admitted: bool,
    message: String,
    containers: Option<Vec<Container>>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    numa_nodes: Option<Vec<NumaId>>,
    gpus: Vec<GpuUuid>,
}

#[test]
fn what_is_promised_is_what_the_kubelet_gives() -> Result<()> {
    let name = "kubelet::what_is_promised_is_what_the_kubelet_gives";
    story_with_program(name, programs::topology_manager, |program| {
        let seed = match std::env::var("BERTH_SEED") {
            Ok(text) => text.parse().context("BERTH_SEED")?,
            Err(_) => SEED,
        };
        let tally = compare(program, seed)?;
        println!("seed {seed}: {tally:?}");
        // Every way to end was seen, so that the comparison compares something.
        for kind in [
            "exact, none",
            "exact, best-effort",
            "exact, restricted",
            "exact, single-numa-node",
            "KubeletWouldRefuse",
            "KubeletNeverAdmits",
            "the kubelet does not start",
        ] {
            let count = tally.get(kind).copied().unwrap_or_default();
            ensure!(count >= CASES / 100, "{kind}: {count} of {CASES} cases");
        }
        Ok(())
    })
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

type Foreseen = std::result::Result<PodPlacement, Refusal>;

/// How many cases ended how.
type Tally = BTreeMap<String, usize>;

/// Compares `CASES` cases; the failure names the seed and the case.
fn compare(program: &Path, seed: u64) -> Result<Tally> {
    let cases: Vec<Case> = (0..CASES).map(|number| Case::roll(seed, number)).collect();
    let foreseen: Vec<_> = cases.iter().map(Case::foresee).collect();
    let lines: Vec<String> = cases
        .iter()
        .zip(&foreseen)
        .map(|(case, foreseen)| case.line(foreseen))
        .collect();
    let answers = run(program, &lines)?;
    let mut tally = Tally::new();
    for ((case, foreseen), (answer, line)) in
        cases.iter().zip(&foreseen).zip(answers.iter().zip(&lines))
    {
        let kind = verdict(foreseen, answer, case).map_err(|why| {
            let number = case.number;
            anyhow!("seed {seed}, case {number}: {why}\n{line}\n{foreseen:?}\n{answer:?}")
        })?;
        *tally.entry(kind).or_default() += 1;
    }
    Ok(tally)
}

fn run(program: &Path, lines: &[String]) -> Result<Vec<Answer>> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the program")?;
    let mut stdin = child.stdin.take().context("its stdin")?;
    let text = lines.join("\n") + "\n";
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let stdout = child.stdout.take().context("its stdout")?;
    let mut answers = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("reading an answer")?;
        answers.push(serde_json::from_str(&line).context(line)?);
    }
    let Ok(written) = writer.join() else {
        bail!("writing the cases panicked");
    };
    written.context("writing the cases")?;
    let status = child.wait().context("waiting for the program")?;
    ensure!(
        status.success() && answers.len() == lines.len(),
        "{status} after {} of {} cases",
        answers.len(),
        lines.len()
    );
    Ok(answers)
}

/// How the case ended, or what does not agree.
fn verdict(foreseen: &Foreseen, answer: &Answer, case: &Case) -> Result<String> {
    let doubt = foreseen
        .as_ref()
        .ok()
        .and_then(|placement| placement.inexact);
    let is_too_many = doubt == Some(Inexact::TooManyNumaNodes);
    ensure!(
        answer.starts || is_too_many || foreseen.is_err(),
        "the kubelet does not start: {}",
        answer.message
    );
    // Nine that it allows are more than are foreseen.
    ensure!(
        !answer.starts || !is_too_many || case.status.numa.len() > 8,
        "the kubelet starts"
    );
    match foreseen {
        _ if !answer.starts => Ok("the kubelet does not start".to_owned()),
        Err(refusal) => {
            ensure!(!answer.admitted, "refused, but admitted");
            Ok(refusal.kind().to_owned())
        }
        // Not foreseen: a container that names the resource with 0 fails where the plugin's devices are
        // all broken. Such a pod is promised nothing, and fits every node as far as we are concerned.
        Ok(_) if answer.message.contains("no healthy devices") => Ok("zero of none".to_owned()),
        Ok(placement) if !placement.is_exact() => {
            Ok(placement.inexact.map_or("", Inexact::kind).to_owned())
        }
        Ok(placement) => {
            ensure!(answer.admitted, "not admitted: {}", answer.message);
            let promised = case.promised(placement);
            let given = answer.containers.as_deref().unwrap_or_default();
            ensure!(promised == given, "promised {promised:?}, given {given:?}");
            Ok(format!(
                "exact, {}",
                case.status.kubelet.topology_manager_policy
            ))
        }
    }
}

// === impl Case ===

impl Case {
    fn roll(seed: u64, number: usize) -> Self {
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        let numa = numa_nodes(&mut dice);
        let gpus = gpus(&mut dice, numa.len());
        let status = Status {
            kubelet: kubelet(&mut dice, &numa),
            gpus,
            numa,
            ..Status::default()
        };
        let machine = Machine::new(&status);
        let held = machine.usable().iter().filter(|_| dice.one_in(3));
        let held_gpus = held.collect();
        let reserved = status.kubelet.reserved_cpus.clone().unwrap_or_default();
        let cpus = status.numa.iter().flat_map(|node| node.cpus.iter());
        let open: Vec<u32> = cpus.filter(|cpu| !reserved.contains(*cpu)).collect();
        let is_busy = dice.one_in(2);
        let held_cpus: CpuList = open
            .iter()
            .copied()
            .filter(|_| is_busy && dice.one_in(2))
            .collect();
        let pod = pod(&mut dice, open.len() - held_cpus.len());
        Self {
            number,
            status,
            held_gpus,
            held_cpus,
            pod,
        }
    }

    fn foresee(&self) -> Foreseen {
        let machine = Machine::new(&self.status);
        let cpus = machine.held_cpus([&self.held_cpus].into_iter(), std::iter::empty());
        let free = Free {
            gpus: machine.usable().difference(self.held_gpus),
            cpus: Some(&cpus),
            doubt: None,
        };
        place_pod(&machine, free, &self.claim())
    }

    fn claim(&self) -> PodClaim {
        let pod = serde_json::from_value(self.pod.clone()).expect("a pod of our own");
        PodClaim::of_pod(&pod, RESOURCE).expect("a claim of our own")
    }

    fn line(&self, foreseen: &Foreseen) -> String {
        let promised = foreseen.as_ref().map(|placement| self.promised(placement));
        let prefer: BTreeMap<String, Vec<GpuUuid>> = promised
            .into_iter()
            .flatten()
            .map(|container| (container.name, container.gpus))
            .collect();
        let case = json!({
            "status": self.status,
            "resource": RESOURCE,
            "pod": self.pod,
            "heldGpus": self.uuids(self.held_gpus),
            "heldCpus": self.held_cpus,
            "prefer": prefer,
        });
        case.to_string()
    }

    fn promised(&self, placement: &PodPlacement) -> Vec<Container> {
        let container = |one: &berth_placement::Admitted| Container {
            name: one.container.clone(),
            numa_nodes: one.numa_nodes.clone(),
            gpus: self.uuids(one.gpus),
        };
        placement.admitted.iter().map(container).collect()
    }

    fn uuids(&self, gpus: GpuSet) -> Vec<GpuUuid> {
        gpus.iter()
            .map(|gpu| self.status.gpus[gpu].uuid.clone())
            .collect()
    }
}

/// One to eight, seldom nine, with unequal CPUs.
fn numa_nodes(dice: &mut Dice) -> Vec<NumaNode> {
    let count = if dice.one_in(20) {
        9
    } else {
        1 + dice.below(8)
    };
    let mut next_cpu = 0;
    let mut nodes: Vec<NumaNode> = Vec::new();
    for id in 0..count {
        let cpu_count = if dice.one_in(10) && id > 0 {
            0
        } else {
            2 + dice.below(6)
        };
        nodes.push(NumaNode {
            id: NumaId(id),
            cpus: (next_cpu..next_cpu + cpu_count).collect(),
            distances: (0..count)
                .map(|to| {
                    if to == id {
                        10
                    } else {
                        12 + 10 * dice.below(3)
                    }
                })
                .collect(),
            ..NumaNode::default()
        });
        next_cpu += cpu_count;
    }
    nodes
}

/// Up to nine of them wherever they fall, some broken, some nobody knows where.
fn gpus(dice: &mut Dice, numa_count: usize) -> Vec<Gpu> {
    let count = 1 + dice.below(9);
    let knows_all = dice.one_in(2);
    let numa_count = u32::try_from(numa_count).expect("nine at most");
    let gpu = |index: u32| Gpu {
        uuid: GpuUuid(format!("GPU-{index}")),
        index: GpuIndex(index),
        model: "H100".to_owned(),
        numa_node: (knows_all || !dice.one_in(6)).then(|| NumaId(dice.below(numa_count))),
        health: Health {
            state: if dice.one_in(12) {
                HealthState::Failed
            } else {
                HealthState::Healthy
            },
            ..Health::default()
        },
        ..Gpu::default()
    };
    (0..count).map(gpu).collect()
}

fn kubelet(dice: &mut Dice, numa: &[NumaNode]) -> Kubelet {
    let options = [
        ("prefer-closest-numa-nodes", dice.one_in(3), "true"),
        ("max-allowable-numa-nodes", dice.one_in(8), "9"),
    ];
    let options = options.into_iter().filter(|(_, is_set, _)| *is_set);
    let cpus: Vec<u32> = numa.iter().flat_map(|node| node.cpus.iter()).collect();
    let reserved = dice.pick(&cpus);
    Kubelet {
        topology_manager_policy: dice
            .pick(&["none", "best-effort", "restricted", "single-numa-node"])
            .to_owned(),
        topology_manager_scope: dice.pick(&["container", "pod"]).to_owned(),
        cpu_manager_policy: dice.pick(&["none", "static", "static"]).to_owned(),
        topology_manager_policy_options: Some(
            options
                .map(|(name, _, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        ),
        cpu_manager_policy_options: Some(BTreeMap::new()),
        memory_manager_policy: Some("None".to_owned()),
        reserved_cpus: Some([reserved].into_iter().collect()),
    }
}

/// One to three containers, up to two before them. As kube-scheduler would only bind a pod whose
/// CPUs are there, it asks for no more than `cpu_count`.
fn pod(dice: &mut Dice, cpu_count: usize) -> Value {
    let is_guaranteed = !dice.one_in(4);
    let most = u32::try_from(cpu_count).unwrap_or(u32::MAX);
    let init_count = if dice.one_in(2) { 0 } else { dice.below(3) };
    let main_count = 1 + if dice.one_in(2) { 0 } else { dice.below(3) };
    let all = init_count + main_count;
    let mut container = |name: String| {
        let cpus = dice.below(6).min(most / all);
        let cpu = if cpus == 0 {
            "100m".to_owned()
        } else {
            cpus.to_string()
        };
        let gpus = if dice.one_in(4) { 0 } else { dice.below(5) }.to_string();
        let limits = json!({"cpu": cpu, "memory": "1Gi", RESOURCE: gpus});
        let mut requests = limits.clone();
        if !is_guaranteed {
            requests["memory"] = json!("1Mi");
        }
        let resources = json!({"limits": limits, "requests": requests});
        let mut container = json!({"name": name, "resources": resources});
        if dice.one_in(3) && name.starts_with('i') {
            container["restartPolicy"] = json!("Always");
        }
        container
    };
    let init: Vec<Value> = (0..init_count)
        .map(|index| container(format!("i{index}")))
        .collect();
    let main: Vec<Value> = (0..main_count)
        .map(|index| container(format!("c{index}")))
        .collect();
    json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"initContainers": init, "containers": main},
    })
}

// === impl Dice ===

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound.max(1))).expect("below the bound")
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        let count = u32::try_from(list.len()).expect("a short list");
        list[self.below(count) as usize]
    }
}
