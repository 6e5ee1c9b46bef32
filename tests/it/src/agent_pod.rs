//! The agent as a pod of its own image on a real kubelet, with its own account: the shipped DaemonSet's.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use berth_test_machine::materialize;
use berth_topology::raw::RawMachine;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::cluster::{Cluster, NAMESPACE, pod_template};
use crate::control_plane::REAL_NODE;
use crate::images;
use crate::manifests;
use crate::patches::{self, DEVICE_PLUGIN};
use crate::real_node::RealNode;
use crate::wait::{PATIENCE, eventually};

/// Posts the agent's pod, as the DaemonSet's controller would, and waits until it runs.
///
/// # Errors
/// When something of it is refused, or it does not run in time.
pub async fn start(cluster: &Cluster, node: &RealNode, machine: &RawMachine) -> Result<Pod> {
    let folder = cluster.folder.join(format!("machine-{REAL_NODE}"));
    fs::create_dir_all(&folder).context("making the folder of a machine")?;
    let files = materialize(machine, &folder).context("writing a machine out as files")?;
    node.import(&images::pack("node-agent", &cluster.folder)?)
        .await?;
    publish_certificate(cluster.admin(), &cluster.folder.join("pki/apiserver.crt")).await?;
    let api_server = cluster.plane.url.strip_prefix("https://");
    let api_server = api_server.and_then(|address| address.split_once(':'));
    let patches = patches::of_agent_pod(&files, api_server.context("reading the address")?);
    manifests::apply_files(cluster.admin(), &[DEVICE_PLUGIN], &patches).await?;
    let template = pod_template(&manifests::read(DEVICE_PLUGIN, &patches)?, "DaemonSet")?;
    let posted = cluster.agent_pod(REAL_NODE, &template).await?;
    running(cluster.admin(), &posted.name_any()).await
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
