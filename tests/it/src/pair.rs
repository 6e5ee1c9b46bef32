//! One replica of the shipped Deployment: kube-scheduler and the extender beside it, each kept running as
//! a kubelet would, with a host name of their own.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::{Cluster, SCHEDULER_ACCOUNT, container_args, mount_file, pod_template};
use crate::http1;
use crate::manifests;
use crate::patches::{self, DEPLOYMENT, PairPlace, Patch, SCHEDULER_CONFIG, SchedulerPlace};
use crate::ports::free_port;
use crate::process::{OnExit, Process, Program};
use crate::programs;
use crate::relay::Relay;
use crate::wait::{PATIENCE, eventually};

/// The two processes, and what stands between them.
#[derive(Debug)]
pub struct Pair {
    /// kube-scheduler.
    pub scheduler: Process,
    /// The extender.
    pub extender: Process,
    /// Where the extender listens.
    pub extender_port: u16,
    /// Passes the scheduler's calls on.
    pub relay: Relay,
}

// === impl Pair ===

impl Pair {
    /// Starts a pair that is used as it is shipped, but for [`patches`].
    ///
    /// # Errors
    /// When a program or a manifest is missing.
    pub async fn start(cluster: &Cluster, name: &str, more: &[Patch]) -> Result<Self> {
        let kubeconfig = cluster.kubeconfig_of(name, SCHEDULER_ACCOUNT, None).await?;
        let extender_port = free_port()?;
        let relay = Relay::start(extender_port).await?;
        let config = cluster.folder.join(format!("{name}-scheduler.yaml"));
        let mut patches = patches::of_pair(&PairPlace {
            extender_port,
            scheduler: SchedulerPlace {
                extender_url: &format!("http://127.0.0.1:{}", relay.port),
                port: free_port()?,
                kubeconfig: &kubeconfig,
                config: &config,
            },
        });
        patches.extend_from_slice(more);

        let scheduler = scheduler(name, &config, &patches)?;
        let template = pod_template(&manifests::read(DEPLOYMENT, &patches)?, "Deployment")?;
        let extender = Program::new(
            &format!("{name}-extender"),
            &programs::ours("berth-extender")?,
        )
        .args(container_args(&template, "extender", &[])?)
        .env("KUBECONFIG", &kubeconfig.to_string_lossy())
        .env("RUST_LOG", "info")
        .host_name(name);
        Ok(Self {
            extender: Process::start(extender, OnExit::StartAgain, &cluster.folder)?,
            scheduler: Process::start(scheduler, OnExit::StartAgain, &cluster.folder)?,
            extender_port,
            relay,
        })
    }

    /// Waits until the extender answers.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_until_alive(&self) -> Result<()> {
        eventually("the extender to be alive", PATIENCE, async || {
            let answer = http1::get(self.extender_port, "/healthz").await?;
            ensure!(answer.status == 200, "/healthz answers {}", answer.status);
            Ok(())
        })
        .await
    }
}

/// kube-scheduler as it is shipped, but for those patches; writes its configuration to `config`.
///
/// # Errors
/// When the program or a manifest is missing.
pub fn scheduler(name: &str, config: &Path, patches: &[Patch]) -> Result<Program> {
    let map = manifests::read(SCHEDULER_CONFIG, patches)?;
    let text = manifests::find(&map, "ConfigMap")?["data"]["scheduler.yaml"].as_str();
    mount_file(
        config,
        text.context("reading the scheduler's configuration")?,
    )?;
    let template = pod_template(&manifests::read(DEPLOYMENT, patches)?, "Deployment")?;
    let path = programs::control_plane()?.join("kube-scheduler");
    let program = Program::new(&format!("{name}-kube-scheduler"), &path);
    Ok(program
        .args(container_args(&template, "kube-scheduler", &[])?)
        .host_name(name))
}
