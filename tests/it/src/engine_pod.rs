//! The engine as a pod of its own image on a real kubelet: the shipped example.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_topology::cpus::CpuList;
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt as _};

use crate::engine::{Thread, thread, threads};
use crate::images;
use crate::manifests;
use crate::patches::{self, ENGINE_POD};
use crate::pods::{self, create};
use crate::ports::free_port;
use crate::real_node::RealNode;
use crate::wait::eventually;

/// Loading takes seconds where nothing else runs, and the kubelet asks every two.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// As the kernel names its first thread.
const PROGRAM: &str = "berth-engine";

/// An engine that a kubelet runs.
#[derive(Debug)]
pub struct EnginePod {
    /// As the kubelet last told of it.
    pub pod: Pod,
    /// Where it serves: on the host's network.
    pub port: u16,
    /// Of its process, outside of its container.
    pid: u32,
}

// === impl EnginePod ===

impl EnginePod {
    /// Gives the image to the node, posts the example, and waits until the kubelet finds it ready.
    ///
    /// # Errors
    /// When it does not become ready in time.
    pub async fn start(
        client: &Client,
        node: &RealNode,
        model: &Path,
        folder: &Path,
    ) -> Result<Self> {
        node.import(&images::pack("engine", folder)?).await?;
        let port = free_port()?;
        let objects = manifests::read(ENGINE_POD, &patches::of_engine_pod(model, port)?)?;
        let mut pod: Pod = serde_json::from_value(manifests::find(&objects, "Pod")?.clone())?;
        pod.metadata.namespace = Some(pods::NAMESPACE.to_owned());
        let posted = create(client, &pod).await?;
        let pod = ready(client, &posted.name_any()).await?;
        let pid = process_of(&posted.uid().context("reading the pod's uid")?)?;
        Ok(Self { pod, port, pid })
    }

    /// The threads of its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn threads(&self) -> Result<Vec<Thread>> {
        threads(self.pid)
    }

    /// What the kubelet gave its container: the CPUs of its cgroup.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn cpus(&self) -> Result<CpuList> {
        let process = PathBuf::from(format!("/proc/{}", self.pid));
        // The main thread is never pinned.
        Ok(thread(&process).context("finding the engine")?.cpus)
    }
}

/// As the kubelet's readiness probe finds it, which asks at the pod's own address.
async fn ready(client: &Client, name: &str) -> Result<Pod> {
    let what = format!("pod {name} to be ready");
    eventually(&what, READY_WITHIN, async || {
        let pod = pods::api(client).get(name).await?;
        let status = pod.status.as_ref().context("it has no status")?;
        let conditions = status.conditions.iter().flatten();
        let is_ready = conditions
            .into_iter()
            .any(|it| it.type_ == "Ready" && it.status == "True");
        ensure!(is_ready, "it is {status:?}");
        Ok(pod)
    })
    .await
}

/// The engine that was told of that pod.
fn process_of(uid: &str) -> Result<u32> {
    let told = format!("BERTH_POD_UID={uid}");
    let processes = fs::read_dir("/proc").context("listing processes")?;
    let mut pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // One may end between the listing and the look.
    let is_engine = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        name.trim() == PROGRAM && variables.any(|variable| variable == told.as_bytes())
    };
    pids.find(is_engine).context("finding the engine's process")
}
