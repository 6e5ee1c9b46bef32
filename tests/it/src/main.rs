//! The playground of `./x cluster`: all of Berth on one machine, until it is interrupted.
//!
//! A control plane, a real kubelet whose GPUs are those of a recorded DGX-1, kube-scheduler with the extender,
//! and two nodes that are no machines: their agents are real and read recorded ones, and a hand plays kubelet.
//! Prints what to try to stdout, between the lines of the harness that begin otherwise.

#![expect(clippy::print_stdout, reason = "it tells a person what to try")]

use std::path::Path;

use anyhow::{Context as _, Result};
use berth_it::agent::Agent;
use berth_it::control_plane::REAL_NODE;
use berth_it::given::Dgx;
use berth_it::kubelet;
use berth_it::pods::gpu_pod;
use berth_it::programs;
use berth_it::real_node::running_here;
use berth_it::story::Stage;
use berth_test_machine::raw as recorded;
use k8s_openapi::api::core::v1::Pod;
use tokio::signal::unix::{SignalKind, signal};

/// The nodes that are no machines, named as what they are.
const FAKE_NODES: [&str; 2] = ["dgx-a100", "dgx-h100"];
/// Any of these ends it in order.
const ENDS: [SignalKind; 3] = [
    SignalKind::interrupt(),
    SignalKind::terminate(),
    SignalKind::hangup(),
];

/// Drops in this order: the API server last.
#[derive(Debug)]
struct Playground {
    _agents: Vec<Agent>,
    dgx: Dgx,
}

fn main() -> Result<()> {
    programs::machine_allows()?;
    programs::control_plane()?;
    let stage = Stage::new("cluster", "berth-cluster-")?;
    let runtime = tokio::runtime::Runtime::new().context("building a runtime")?;
    runtime.block_on(async {
        tokio::select! {
            ended = play(&stage) => ended,
            interrupted = interrupted() => interrupted,
        }
    })
}

/// Until something of it fails.
async fn play(stage: &Stage) -> Result<()> {
    let playground = Playground::start(stage).await?;
    playground.say_what_to_try(stage.folder())?;
    kubelet::play(playground.dgx.client(), &FAKE_NODES).await
}

async fn interrupted() -> Result<()> {
    let mut ends = Vec::new();
    for kind in ENDS {
        let mut signal = signal(kind).context("listening for a signal")?;
        ends.push(Box::pin(async move { signal.recv().await }));
    }
    futures::future::select_all(ends).await;
    Ok(())
}

// === impl Playground ===

impl Playground {
    async fn start(stage: &Stage) -> Result<Self> {
        let dgx = Dgx::start(stage, &[]).await?;
        let mut agents = Vec::new();
        for node in FAKE_NODES {
            agents.push(Agent::start(&dgx.cluster, node, &recorded(node)).await?);
        }
        dgx.pair.wait_until_alive().await?;
        Ok(Self {
            _agents: agents,
            dgx,
        })
    }

    fn say_what_to_try(&self, folder: &Path) -> Result<()> {
        write_pod(
            &running_here(gpu_pod("quad", 4, &[])),
            Some(REAL_NODE),
            folder,
        )?;
        write_pod(&running_here(gpu_pod("anywhere", 4, &[])), None, folder)?;
        let berth = programs::ours("berth")?;
        let (berth, folder) = (berth.display(), folder.display());
        let [first, second] = FAKE_NODES;
        let port = self.dgx.pair.extender_port;
        println!(
            "
berth: the cluster is up
  node {REAL_NODE}: a kubelet and containerd on this machine, with the GPUs of a recorded DGX-1
  nodes {first} and {second}: recorded machines with real agents; their pods only look as if they ran

export KUBECONFIG={folder}/admin.kubeconfig
kubectl get nodes,nodetopologies
kubectl apply -f {folder}/quad.yaml       # 4 GPUs of the node {REAL_NODE}, in a container that prints its environment
kubectl get pod quad -o wide
grep -E 'NVIDIA_VISIBLE|BERTH_ALLOCATION' {folder}/node/var-log/pods/default_quad_*/engine/0.log
kubectl apply -f {folder}/anywhere.yaml   # 4 GPUs wherever they are wired best
{berth} explain pod default/anywhere --extender http://127.0.0.1:{port}
{berth} snapshot --extender http://127.0.0.1:{port} -o now.json

Pods need `schedulerName: berth-scheduler`. Logs are in {folder}.
Ctrl-C ends all of it and removes everything."
        );
        Ok(())
    }
}

/// For `kubectl apply`: JSON is YAML.
fn write_pod(pod: &Pod, node: Option<&str>, folder: &Path) -> Result<()> {
    let mut object = serde_json::to_value(pod)?;
    if let Some(node) = node {
        object["spec"]["nodeSelector"] = serde_json::json!({"kubernetes.io/hostname": node});
    }
    let name = object["metadata"]["name"]
        .as_str()
        .context("reading a pod's name")?;
    let path = folder.join(format!("{name}.yaml"));
    std::fs::write(&path, serde_yaml_ng::to_string(&object)?)
        .with_context(|| format!("writing {}", path.display()))
}
