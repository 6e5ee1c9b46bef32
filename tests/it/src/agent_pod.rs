//! The agent as a pod of its own image on a real kubelet, with its own account: the shipped DaemonSet's, in each
//! of its forms.

mod confined;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use berth_test_machine::{Materialized, materialize, nvml_library};
use berth_topology::raw::RawMachine;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Patch as ApiPatch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

pub use confined::Confined;

use crate::cluster::{Cluster, NAMESPACE};
use crate::control_plane::REAL_NODE;
use crate::images;
use crate::manifests;
use crate::patches::{self, DAEMONSET, DEVICE_PLUGIN, DRIVER_ROOT, Patch, RUNTIME_CLASS};
use crate::real_node::RealNode;
use crate::wait::{PATIENCE, eventually};

/// The DaemonSet's name.
const NAME: &str = "berth-node-agent";

/// How the agent comes to the driver's library, and which DaemonSet that is a patch of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// With the device plugin, by the RuntimeClass of NVIDIA's container runtime.
    PluginByRuntimeClass,
    /// Without it, from a driver's root on the host.
    PlainByDriverRoot,
}

// === impl Form ===

impl Form {
    fn file(self) -> &'static str {
        match self {
            Self::PluginByRuntimeClass => DEVICE_PLUGIN,
            Self::PlainByDriverRoot => DAEMONSET,
        }
    }

    fn patch(self) -> &'static str {
        match self {
            Self::PluginByRuntimeClass => RUNTIME_CLASS,
            Self::PlainByDriverRoot => DRIVER_ROOT,
        }
    }
}

/// Installs that form, posts the agent's pod, as the DaemonSet's controller would, and waits until it runs.
///
/// # Errors
/// When something of it is refused, or it does not run in time.
pub async fn start(
    cluster: &Cluster,
    node: &RealNode,
    machine: &RawMachine,
    form: Form,
) -> Result<Pod> {
    let folder = cluster.folder.join(format!("machine-{REAL_NODE}"));
    fs::create_dir_all(&folder).context("making the folder of a machine")?;
    let files = materialize(machine, &folder).context("writing a machine out as files")?;
    node.import(&images::pack("node-agent", &cluster.folder)?)
        .await?;
    publish_certificate(cluster.admin(), &cluster.folder.join("pki/apiserver.crt")).await?;
    let patches = patches(cluster, &files, form)?;
    manifests::apply_files(cluster.admin(), &[form.file()], &patches).await?;
    let template = patched(cluster.admin(), &manifests::read(form.patch(), &patches)?).await?;
    let posted = cluster.agent_pod(REAL_NODE, &template).await?;
    running(cluster.admin(), &posted.name_any()).await
}

fn patches(cluster: &Cluster, files: &Materialized, form: Form) -> Result<Vec<Patch>> {
    let api_server = cluster.plane.url.strip_prefix("https://");
    let api_server = api_server.and_then(|address| address.split_once(':'));
    let api_server = api_server.context("reading the address")?;
    let by_runtime = form == Form::PluginByRuntimeClass;
    let mut patches = patches::of_agent_pod(form.file(), files, api_server, by_runtime);
    if !by_runtime {
        patches.push(patches::driver_root(&make_driver_root(&cluster.folder)?));
    }
    Ok(patches)
}

/// As a driver's container lays it out: the library under the name of its version, and a link that is absolute
/// for who lives there.
fn make_driver_root(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("driver-root");
    let folder = root.join("usr/lib64");
    fs::create_dir_all(&folder).context("making a driver's root")?;
    let library = "libnvidia-ml.so.535.183.01";
    fs::copy(nvml_library(), folder.join(library)).context("copying the library")?;
    symlink(
        format!("/usr/lib64/{library}"),
        folder.join("libnvidia-ml.so.1"),
    )
    .context("linking the library")?;
    Ok(root)
}

/// `kubectl patch daemonset`: the template that comes of it.
async fn patched(admin: &Client, patch: &[Value]) -> Result<Value> {
    let sets: Api<DaemonSet> = Api::namespaced(admin.clone(), NAMESPACE);
    let patch = patch.first().context("finding a patch in its file")?;
    let patch = ApiPatch::Strategic(patch);
    let set = sets.patch(NAME, &PatchParams::default(), &patch).await;
    let set = set.context("patching the DaemonSet")?;
    serde_json::to_value(set.spec.template).context("writing the template")
}

/// What a controller-manager does in every namespace: whom a pod's token may be shown to.
async fn publish_certificate(admin: &Client, certificate: &Path) -> Result<()> {
    let text = fs::read_to_string(certificate).context("reading the API server's certificate")?;
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "kube-root-ca.crt", "namespace": NAMESPACE},
        "data": {"ca.crt": text},
    }))?;
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), NAMESPACE);
    let posted = maps.create(&PostParams::default(), &map).await;
    posted.context("publishing the certificate").map(drop)
}

async fn running(admin: &Client, name: &str) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(admin.clone(), NAMESPACE);
    eventually("the agent's pod to run", PATIENCE, async || {
        let pod = pods.get(name).await?;
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        ensure!(phase == Some("Running"), "it is {status:?}");
        Ok(pod)
    })
    .await
}
