//! From a pod to tokens: bound on this very host, the engine runs where the assignment says, and answers.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::Cluster;
use berth_it::engine::{CONTAINER, Example, Thread, model, this_host, thread};
use berth_it::engine_pod::EnginePod;
use berth_it::given::RESOURCE;
use berth_it::http1;
use berth_it::pair::Pair;
use berth_it::pods::{assignment, bound, create};
use berth_it::real_node::{RealNode, delete_pod};
use berth_it::story::story;
use berth_it::wait::PATIENCE;
use berth_test_machine::host::with_two_gpus;
use berth_topology::assignment::ContainerAssignment;
use berth_topology::cpus::CpuList;
use kube::ResourceExt as _;
use serde_json::{Value, json};

#[test]
fn the_engine_runs_each_rank_on_the_cpus_it_was_assigned_and_answers_a_chat() -> Result<()> {
    story(async |stage| {
        let model = model()?;
        let cluster = Cluster::start(stage).await?;
        let _agent = Agent::start(&cluster, "host", &with_two_gpus(this_host()?)).await?;
        let pair = Pair::start(&cluster, "pair", &[]).await?;
        pair.wait_until_alive().await?;

        let example = Example::read(&cluster, &model)?;
        create(cluster.admin(), &example.pod()?).await?;
        let (pod, assignment) = bound(cluster.admin(), "berth-engine", PATIENCE).await?;
        let container = &assignment.containers[CONTAINER];
        ensure!(
            container.ranks.len() == 2,
            "two GPUs, two ranks: {container:?}"
        );

        let engine = example.run(&cluster, &pod).await?;
        each_rank_is_where_it_was_put(&engine.threads()?, container, &own_cpus()?)?;
        let bound = http1::samples(engine.port, "berth_engine_rank_cpu_bind").await?;
        ensure!(
            bound.len() == 2 && bound.iter().all(|(_, is)| *is > 0.0),
            "it says {bound:?}"
        );
        answers_a_chat(engine.port).await
    })
}

#[test]
fn the_engine_runs_as_a_pod_of_its_own_image_on_the_cpus_that_the_kubelet_gave() -> Result<()> {
    story(async |stage| {
        let model = model()?;
        let cluster = Cluster::start(stage).await?;
        let client = cluster.admin();
        let _pair = Pair::start(&cluster, "pair", &[]).await?;
        let node = RealNode::start(&cluster.plane, stage.folder()).await?;
        let host = with_two_gpus(this_host()?);
        let _agent = Agent::start_beside(&cluster, &node, &host, &[]).await?;
        node.wait_until_allocatable(client, RESOURCE, 2).await?;

        let engine = EnginePod::start(client, &node, &model, stage.folder()).await?;
        let assignment = assignment(&engine.pod)?;
        let container = &assignment.containers[CONTAINER];
        ensure!(container.ranks.len() == 2, "two ranks: {container:?}");
        each_rank_is_where_it_was_put(&engine.threads()?, container, &engine.cpus()?)?;
        answers_a_chat(engine.port).await?;
        delete_pod(client, &engine.pod.name_any()).await?;
        node.end(client).await
    })
}

/// As the kernel shows it, not as the engine says it: within its CPUs and those that the engine may use, and
/// apart from the other rank where there is more than one CPU to run on.
fn each_rank_is_where_it_was_put(
    threads: &[Thread],
    container: &ContainerAssignment,
    allowed: &CpuList,
) -> Result<()> {
    let mut taken = CpuList::default();
    let mut usable = CpuList::default();
    for rank in &container.ranks {
        let name = format!("berth-rank-{}", rank.rank);
        let assigned = rank
            .cpus
            .as_ref()
            .with_context(|| format!("{name} was given no CPUs"))?;
        let thread = threads.iter().find(|thread| thread.name == name);
        let thread = thread.with_context(|| format!("finding {name} among {threads:?}"))?;
        ensure!(
            thread.cpus.is_subset(&assigned.intersection(allowed)),
            "{thread:?}, assigned {assigned}, allowed {allowed}"
        );
        usable = usable.union(&assigned.intersection(allowed));
        let shared = taken.intersection(&thread.cpus);
        ensure!(
            shared.is_empty() || usable.len() < 2,
            "two ranks share {shared}"
        );
        taken = taken.union(&thread.cpus);
    }
    Ok(())
}

/// Where this test may run; the engine inherits it.
fn own_cpus() -> Result<CpuList> {
    let own = thread(Path::new("/proc/self")).context("reading this process's status")?;
    Ok(own.cpus)
}

async fn answers_a_chat(port: u16) -> Result<()> {
    let request = json!({
        "model": "smollm2",
        "messages": [{"role": "user", "content": "Name the capital of France."}],
        "max_tokens": 24,
        "temperature": 0,
    });
    let answer = http1::post(port, "/v1/chat/completions", &request).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    let body: Value = serde_json::from_str(&answer.body)?;
    let text = body["choices"][0]["message"]["content"]
        .as_str()
        .unwrap_or_default();
    ensure!(text.contains("Paris"), "it answers: {text}");
    Ok(())
}
