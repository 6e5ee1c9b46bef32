//! The agent of one node, started as the shipped DaemonSet starts it, on a machine that was written out as files.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use berth_test_machine::{NVML_MACHINE, materialize};
use berth_topology::raw::RawMachine;

use crate::cluster::{AGENT_ACCOUNT, Cluster, container_args, pod_template, topologies};
use crate::kubelet;
use crate::manifests;
use crate::patches::{self, DAEMONSET};
use crate::process::{OnExit, Process, Program};
use crate::programs;
use crate::wait::{PATIENCE, eventually};

/// A node's agent, running or stopped.
#[derive(Debug)]
pub struct Agent {
    process: Option<Process>,
    program: Program,
    folder: PathBuf,
}

// === impl Agent ===

impl Agent {
    /// Posts the node with the machine's GPUs, then starts its agent, and waits until it has published.
    ///
    /// # Errors
    /// When a program is missing, or nothing is published in time.
    pub async fn start(cluster: &Cluster, node: &str, machine: &RawMachine) -> Result<Self> {
        let gpu_count = machine.nvml.value().map_or(0, |nvml| nvml.gpus.len());
        let files = cluster.folder.join(format!("machine-{node}"));
        std::fs::create_dir_all(&files).context("making the folder of a machine")?;
        let files = materialize(machine, &files).context("writing a machine out as files")?;
        kubelet::join_node(cluster.admin(), node, gpu_count).await?;
        let name = format!("agent-{node}");
        let as_shipped = pod_template(&manifests::read(DAEMONSET, &[])?, "DaemonSet")?;
        let pod = cluster.agent_pod(node, &as_shipped).await?;
        let kubeconfig = cluster
            .kubeconfig_of(&name, AGENT_ACCOUNT, Some(&pod))
            .await?;
        let patch = patches::of_agent(&files, &kubeconfig);
        let template = pod_template(&manifests::read(DAEMONSET, &[patch])?, "DaemonSet")?;
        let program = Program::new(&name, &programs::ours("berth-node-agent")?)
            .args(container_args(
                &template,
                "node-agent",
                &[("NODE_NAME", node)],
            )?)
            .env(NVML_MACHINE, &files.raw_file.to_string_lossy());
        let mut agent = Self {
            process: None,
            program,
            folder: cluster.folder.clone(),
        };
        agent.start_again()?;
        agent.wait_until_published(cluster, node, gpu_count).await?;
        Ok(agent)
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
