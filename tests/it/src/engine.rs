//! The engine, started as the shipped example pod starts it, with what a kubelet would have mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_topology::cpus::CpuList;
use berth_topology::names;
use berth_topology::raw::RawMachine;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::Value;

use crate::cluster::{Cluster, container_args, mount_file};
use crate::http1;
use crate::manifests;
use crate::patches::{self, ENGINE_POD};
use crate::pods;
use crate::ports::free_port;
use crate::process::{OnExit, Process, Program};
use crate::programs;
use crate::story::{self, Absent};
use crate::wait::eventually;

/// The container of the example pod.
pub const CONTAINER: &str = "engine";
/// Where `./x` says that the model is.
const MODEL: &str = "BERTH_TEST_MODEL";
const MODEL_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Loading takes seconds where nothing else runs.
const LOADED_WITHIN: Duration = Duration::from_secs(180);

/// The example pod and what its container is started with.
#[derive(Debug)]
pub struct Example {
    manifest: Value,
    assignment_file: PathBuf,
    port: u16,
}

/// An engine that runs.
#[derive(Debug)]
pub struct Engine {
    process: Process,
    /// Where it serves.
    pub port: u16,
}

/// A thread of the engine, as the kernel shows it.
#[derive(Clone, Debug)]
pub struct Thread {
    /// `berth-rank-0` and the like.
    pub name: String,
    /// Where it may run.
    pub cpus: CpuList,
}

/// This very host as the agent reads it.
///
/// # Errors
/// When the agent does not answer.
pub fn this_host() -> Result<RawMachine> {
    let mut agent = Command::new(programs::ours("berth-node-agent")?);
    let output = agent
        .args(["--once", "--print", "raw"])
        .output()
        .context("asking the agent")?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the agent cannot read this host: {why}"
    );
    serde_json::from_slice(&output.stdout).context("parsing what the agent read of this host")
}

/// The small real model that `./x` fetches.
///
/// # Errors
/// [`Absent`] where it was not fetched.
pub fn model() -> Result<PathBuf> {
    let given = std::env::var_os(MODEL).map(PathBuf::from);
    let path = given.or_else(cached_model).filter(|path| path.exists());
    let how = "run `./x up --once` once: it fetches the model";
    path.ok_or_else(|| Absent::software(how).into())
}

/// As `./x` and `build.sh` choose the folder.
fn cached_model() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let ours = set("BERTH_CACHE").or_else(|| Some(cache()?.join("berth")))?;
    Some(ours.join("models").join(MODEL_FILE))
}

// === impl Example ===

impl Example {
    /// Reads the shipped example, for that model.
    ///
    /// # Errors
    /// When the manifest is not as the patches expect it.
    pub fn read(cluster: &Cluster, model: &Path) -> Result<Self> {
        let port = free_port()?;
        let assignment_file = cluster.folder.join("assignment");
        let patches = patches::of_engine(model, &assignment_file, port);
        let objects = manifests::read(ENGINE_POD, &patches)?;
        let manifest = manifests::find(&objects, "Pod")?.clone();
        Ok(Self {
            manifest,
            assignment_file,
            port,
        })
    }

    /// The pod, to be posted.
    ///
    /// # Errors
    /// When the manifest is not a pod's.
    pub fn pod(&self) -> Result<Pod> {
        let mut pod: Pod = serde_json::from_value(self.manifest.clone())?;
        pod.metadata.namespace = Some(pods::NAMESPACE.to_owned());
        Ok(pod)
    }

    /// What a kubelet does once the pod is bound: mounts the annotation as a file, starts the container.
    ///
    /// # Errors
    /// When the engine does not become ready in time.
    pub async fn run(&self, cluster: &Cluster, pod: &Pod) -> Result<Engine> {
        let assignment = pod.annotations().get(names::ASSIGNMENT);
        let assignment = assignment.context("finding the assignment on the pod")?;
        mount_file(&self.assignment_file, assignment)?;
        let program = Program::new("engine", &programs::ours("berth-engine")?)
            .args(container_args(&self.manifest, CONTAINER, &[])?)
            .env("BERTH_CONTAINER", CONTAINER)
            .env(
                "BERTH_POD_UID",
                &pod.uid().context("reading the pod's uid")?,
            )
            .env("BERTH_NODE", pods::node(pod));
        let process = Process::start(program, OnExit::Stay, &cluster.folder)?;
        let engine = Engine {
            process,
            port: self.port,
        };
        engine.wait_until_ready().await?;
        Ok(engine)
    }
}

// === impl Engine ===

impl Engine {
    /// Without a cluster: on this machine's CPUs, with these flags.
    ///
    /// # Errors
    /// When it does not become ready in time.
    pub fn serve(model: &Path, flags: &[&str], folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let program = Program::new("engine", &programs::ours("berth-engine")?)
            .args(["serve", "--model"])
            .args([model.display().to_string()])
            .args(["--port".to_owned(), port.to_string()])
            .args(flags.iter().copied());
        let process = Process::start(program, OnExit::Stay, folder)?;
        let engine = Self { process, port };
        story::runtime()?.block_on(engine.wait_until_ready())?;
        Ok(engine)
    }

    /// The threads of its process.
    ///
    /// # Errors
    /// When it does not run, or `/proc` cannot be read.
    pub fn threads(&self) -> Result<Vec<Thread>> {
        threads(self.process.pid().context("the engine has ended")?)
    }

    async fn wait_until_ready(&self) -> Result<()> {
        eventually("the engine to be ready", LOADED_WITHIN, async || {
            ensure!(
                self.process.last_exit().is_none(),
                "it ended: {:?}",
                self.process.last_exit()
            );
            let answer = http1::get(self.port, "/ready").await?;
            ensure!(answer.status == 200, "/ready answers {}", answer.status);
            Ok(())
        })
        .await
    }
}

/// The threads of a process.
///
/// # Errors
/// When it does not run, or `/proc` cannot be read.
pub fn threads(pid: u32) -> Result<Vec<Thread>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("listing its threads")?;
    // A thread may end between the listing and the look.
    Ok(tasks
        .flatten()
        .filter_map(|task| thread(&task.path()))
        .collect())
}

/// A thread, or a process's first one, by its folder below `/proc`; nothing where that is gone.
#[must_use]
pub fn thread(task: &Path) -> Option<Thread> {
    let name = fs::read_to_string(task.join("comm"))
        .ok()?
        .trim()
        .to_owned();
    let status = fs::read_to_string(task.join("status")).ok()?;
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(Thread {
        name,
        cpus: allowed.trim().parse().ok()?,
    })
}
