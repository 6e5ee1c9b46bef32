//! The agent of one node, started as the shipped DaemonSet starts it, on a machine that was written out as files.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use berth_test_machine::{NVML_MACHINE, materialize};
use berth_topology::raw::RawMachine;
use k8s_openapi::api::core::v1::Pod;
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::{Value, json};

use crate::cluster::{AGENT_ACCOUNT, Cluster, container_args, pod_template, topologies};
use crate::control_plane::REAL_NODE;
use crate::kubelet;
use crate::manifests;
use crate::patches::{self, DAEMONSET, DEVICE_PLUGIN, Patch};
use crate::pods;
use crate::process::{OnExit, Process, Program};
use crate::programs;
use crate::real_node::{RealNode, running_here};
use crate::wait::{PATIENCE, eventually};

/// A node's agent, running or stopped.
#[derive(Debug)]
pub struct Agent {
    process: Option<Process>,
    program: Program,
    /// The same where it is started in no namespaces.
    plain: Program,
    folder: PathBuf,
    /// What its NVML answers from.
    raw_file: PathBuf,
}

// === impl Agent ===

impl Agent {
    /// Posts the node with the machine's GPUs, then starts its agent, and waits until it has published.
    ///
    /// # Errors
    /// When a program is missing, or nothing is published in time.
    pub async fn start(cluster: &Cluster, node: &str, machine: &RawMachine) -> Result<Self> {
        Self::start_patched(cluster, node, machine, &[]).await
    }

    /// The same with these patches of its manifest.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub async fn start_patched(
        cluster: &Cluster,
        node: &str,
        machine: &RawMachine,
        more: &[Patch],
    ) -> Result<Self> {
        let gpu_count = gpu_count(machine);
        kubelet::join_node(cluster.admin(), node, gpu_count).await?;
        let as_shipped = pod_template(&manifests::read(DAEMONSET, &[])?, "DaemonSet")?;
        let pod = cluster.agent_pod(node, &as_shipped).await?;
        let program = program(cluster, &pod, machine, (DAEMONSET, more)).await?;
        let mut agent = Self::stopped(cluster, program);
        agent.start_again()?;
        agent.wait_until_published(cluster, node, gpu_count).await?;
        Ok(agent)
    }

    /// Starts an agent beside a real kubelet, as its device plugin. It takes the node for that machine. Its
    /// pod is there and runs something else: the agent's token is bound to it.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub async fn start_beside(
        cluster: &Cluster,
        node: &RealNode,
        machine: &RawMachine,
        more: &[Patch],
    ) -> Result<Self> {
        manifests::apply_files(cluster.admin(), &[DEVICE_PLUGIN], &[]).await?;
        let as_shipped = pod_template(&manifests::read(DEVICE_PLUGIN, &[])?, "DaemonSet")?;
        let pod = cluster.agent_pod(REAL_NODE, &resting(as_shipped)?).await?;
        let program = program(cluster, &pod, machine, (DEVICE_PLUGIN, more)).await?;
        let mut agent = Self::stopped(cluster, program);
        agent.program = node.inside(agent.plain.clone());
        agent.start_again()?;
        let published = agent.wait_until_published(cluster, REAL_NODE, gpu_count(machine));
        published.await?;
        Ok(agent)
    }

    fn stopped(cluster: &Cluster, (program, raw_file): (Program, PathBuf)) -> Self {
        Self {
            process: None,
            plain: program.clone(),
            program,
            folder: cluster.folder.clone(),
            raw_file,
        }
    }

    /// Changes what NVML answers, from the next probe on. The rest of the machine stays.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn nvml_becomes(&self, machine: &RawMachine) -> Result<()> {
        let whole = self.raw_file.with_extension("part");
        std::fs::write(&whole, serde_json::to_vec(machine)?).context("writing a machine")?;
        std::fs::rename(&whole, &self.raw_file).context("replacing a machine")
    }

    /// Has NVML tell an event, as a line of the stand-in's FIFO. Lost while the agent does not listen.
    ///
    /// # Errors
    /// When the FIFO cannot be written.
    pub fn nvml_tells(&self, line: &str) -> Result<()> {
        let mut options = std::fs::OpenOptions::new();
        // for reading, too: opening does not wait for a reader then
        let mut fifo = options
            .read(true)
            .write(true)
            .open(events_fifo(&self.raw_file))
            .context("opening the FIFO of events")?;
        writeln!(fifo, "{line}").context("telling an event")
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }

    /// Waits until its log has a text more often than so many times.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_until_said(&self, text: &str, times: usize) -> Result<()> {
        let what = format!("the agent to say `{text}`");
        eventually(&what, PATIENCE, async || {
            let said = self.times_said(text)?;
            ensure!(said > times, "it said so {said} times");
            Ok(())
        })
        .await
    }

    /// How often its log has a text.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn times_said(&self, text: &str) -> Result<usize> {
        let log = self.folder.join(format!("{}.log", self.program.name));
        let log = std::fs::read_to_string(log).context("reading the agent's log")?;
        Ok(log.matches(text).count())
    }

    /// `kill -9`; it is started again.
    pub fn kill(&self) {
        self.process.iter().for_each(Process::kill);
    }

    /// `kill -9`, and nobody starts it again: the node falls silent.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts a stopped agent.
    ///
    /// # Errors
    /// When its log cannot be opened.
    pub fn start_again(&mut self) -> Result<()> {
        let program = self.program.clone();
        self.process = Some(Process::start(program, OnExit::StartAgain, &self.folder)?);
        Ok(())
    }

    /// Starts a stopped agent beside a kubelet that has booted again.
    ///
    /// # Errors
    /// As [`Agent::start_again`].
    pub fn start_again_beside(&mut self, node: &RealNode) -> Result<()> {
        self.program = node.inside(self.plain.clone());
        self.start_again()
    }

    /// How often it was started since it was last stopped.
    #[must_use]
    pub fn starts(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::starts)
    }

    async fn wait_until_published(
        &self,
        cluster: &Cluster,
        node: &str,
        gpu_count: usize,
    ) -> Result<()> {
        eventually(
            &format!("the topology of node {node}"),
            PATIENCE,
            async || {
                let process = self.process.as_ref().context("the agent is stopped")?;
                ensure!(
                    process.starts() < 5,
                    "the agent keeps ending: {:?}",
                    process.last_exit()
                );
                let object = topologies(cluster.admin()).get(node).await?;
                let gpus = object.data["status"]["gpus"].as_array().map(Vec::len);
                ensure!(
                    gpus == Some(gpu_count),
                    "it has {gpus:?} GPUs, {gpu_count} are there"
                );
                Ok(())
            },
        )
        .await
    }
}

/// What the stand-in reads events from.
fn events_fifo(raw_file: &Path) -> PathBuf {
    let mut path = raw_file.as_os_str().to_owned();
    path.push(".events");
    path.into()
}

fn gpu_count(machine: &RawMachine) -> usize {
    machine.nvml.value().map_or(0, |nvml| nvml.gpus.len())
}

/// The template with a program in its containers that is there.
fn resting(mut template: Value) -> Result<Value> {
    let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": template["spec"]}))?;
    template["spec"] = serde_json::to_value(running_here(pod).spec)?;
    Ok(template)
}

/// The agent as the DaemonSet's container would be started in that pod.
/// And the file that its NVML answers from.
async fn program(
    cluster: &Cluster,
    pod: &Pod,
    machine: &RawMachine,
    (file, more): (&'static str, &[Patch]),
) -> Result<(Program, PathBuf)> {
    let node = pods::node(pod);
    let name = format!("agent-{node}");
    let files = cluster.folder.join(format!("machine-{node}"));
    std::fs::create_dir_all(&files).context("making the folder of a machine")?;
    let files = materialize(machine, &files).context("writing a machine out as files")?;
    let fifo = events_fifo(&files.raw_file);
    if !fifo.exists() {
        let mode = Mode::RUSR | Mode::WUSR;
        mkfifoat(CWD, &fifo, mode).context("making the FIFO of events")?;
    }
    let kubeconfig = cluster
        .kubeconfig_of(&name, AGENT_ACCOUNT, Some(pod))
        .await?;
    // `more` first: what it finds in the file is there still.
    let of_agent = patches::of_agent(file, &files, &kubeconfig);
    let patches = [more, &of_agent].concat();
    let template = pod_template(&manifests::read(file, &patches)?, "DaemonSet")?;
    let args = container_args(&template, "node-agent", &[("NODE_NAME", node)])?;
    let program = Program::new(&name, &programs::ours("berth-node-agent")?)
        .args(args)
        .env(NVML_MACHINE, &files.raw_file.to_string_lossy());
    Ok((program, files.raw_file))
}
