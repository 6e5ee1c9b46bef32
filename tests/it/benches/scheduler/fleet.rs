//! A thousand nodes: kwok plays their kubelets, this plays their agents.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use berth_it::cluster::{Cluster, NAMESPACE, topologies};
use berth_it::kubelet::join_node;
use berth_it::process::{OnExit, Process, Program};
use berth_it::programs::repository;
use berth_it::story::Absent;
use berth_topology::lease;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Recorded machines of 8 GPUs, in turn.
const MACHINES: [&str; 3] = ["dgx-h100", "dgx1-v100", "pix-8"];
/// What stands for a node's name in a machine's text.
const NODE: &str = "@NODE@";
/// Requests under way at once.
const AT_ONCE: usize = 8;
/// As the agents renew.
const LEASE_EVERY: Duration = Duration::from_secs(15);
/// `build.sh`'s exit code when Go is missing.
const NO_GO: i32 = 3;

/// The nodes stay until this is dropped.
#[derive(Debug)]
pub(crate) struct Fleet {
    _kwok: Process,
    renewal: JoinHandle<()>,
}

// === impl Fleet ===

impl Fleet {
    pub(crate) async fn start(cluster: &Cluster, kwok: &Path, count: usize) -> Result<Self> {
        let admin = cluster.admin();
        let names: Vec<String> = (0..count)
            .map(|number| format!("kwok-{number:04}"))
            .collect();
        let machines: Vec<String> = MACHINES
            .iter()
            .map(|name| machine(name))
            .collect::<Result<_>>()?;
        let joined = stream::iter(names.iter().zip(machines.iter().cycle()));
        let joined = joined.map(|(name, machine)| join(admin, name, machine));
        joined
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        let program = Program::new("kwok", &kwok.join("kwok")).args([
            format!(
                "--kubeconfig={}",
                cluster.folder.join("admin.kubeconfig").display()
            ),
            format!("--config={}", kwok.join("stages.yaml").display()),
            "--manage-all-nodes=true".to_owned(),
        ]);
        Ok(Self {
            _kwok: Process::start(program, OnExit::Stay, &cluster.folder)?,
            renewal: tokio::spawn(renew(admin.clone(), names)),
        })
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// The folder with kwok and its stages, built if it is not there yet.
pub(crate) fn kwok() -> Result<PathBuf> {
    let script = repository().join("tests/control-plane/kwok/build.sh");
    let output = Command::new(&script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running {}", script.display()))?;
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(
            String::from_utf8_lossy(&output.stdout).trim(),
        )),
        Some(NO_GO) => {
            Err(Absent::software("install Go 1.26 or newer (https://go.dev/dl/)").into())
        }
        code => bail!("{} ended with {code:?}", script.display()),
    }
}

fn machine(name: &str) -> Result<String> {
    let path = repository().join(format!("machines/{name}.json"));
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut topology: Value = serde_json::from_str(&text)?;
    ensure!(
        topology["status"]["gpus"].as_array().map_or(0, Vec::len) == 8,
        "{name} has not 8 GPUs"
    );
    topology["metadata"] = json!({"name": NODE});
    Ok(topology
        .to_string()
        .replace("GPU-", &format!("GPU-{NODE}-")))
}

/// Node, NodeTopology and Lease.
async fn join(admin: &Client, name: &str, machine: &str) -> Result<()> {
    join_node(admin, name, 8).await?;
    let topology: DynamicObject = serde_json::from_str(&machine.replace(NODE, name))?;
    let api = topologies(admin);
    let created = api.create(&PostParams::default(), &topology).await;
    created.with_context(|| format!("posting the topology of {name}"))?;
    let status = Patch::Merge(json!({"status": topology.data["status"]}));
    api.patch_status(name, &PatchParams::default(), &status)
        .await?;
    let lease = lease::encode(name, None, MicroTime(Timestamp::now()));
    leases(admin).create(&PostParams::default(), &lease).await?;
    Ok(())
}

fn leases(admin: &Client) -> Api<Lease> {
    Api::namespaced(admin.clone(), NAMESPACE)
}

/// Evenly, as a thousand agents would by chance.
async fn renew(admin: Client, names: Vec<String>) {
    let pause = LEASE_EVERY / u32::try_from(names.len().max(1)).unwrap_or(1);
    let mut ticks = tokio::time::interval(pause);
    let api = leases(&admin);
    for name in names.iter().cycle() {
        ticks.tick().await;
        let renewed = Patch::Merge(json!({"spec": {"renewTime": MicroTime(Timestamp::now())}}));
        // One that is lost is one of four before the node counts as silent.
        let _ = api.patch(name, &PatchParams::default(), &renewed).await;
    }
}
