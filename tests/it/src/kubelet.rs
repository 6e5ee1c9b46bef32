//! Plays kubelet: there is none here, and no controller-manager either.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::pods;
use crate::wait::{PATIENCE, eventually};

/// Between two looks at the pods of nodes that are no machines.
const PLAY_EVERY: Duration = Duration::from_secs(1);

/// Posts a Ready node with so many GPUs and takes the taint away that every new node gets.
///
/// # Errors
/// When the API server refuses.
pub async fn join_node(admin: &Client, name: &str, gpu_count: usize) -> Result<()> {
    let nodes: Api<Node> = Api::all(admin.clone());
    let amounts = json!({
        "cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": gpu_count.to_string(),
    });
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
        }},
        "status": {
            "capacity": amounts, "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    }))?;
    nodes
        .create(&PostParams::default(), &node)
        .await
        .with_context(|| format!("node {name}"))?;
    open_to_pods(admin, name).await
}

/// What a controller-manager does when a node is Ready: takes away the taint that every new node gets.
///
/// # Errors
/// When there is no such node.
pub async fn open_to_pods(admin: &Client, node: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(admin.clone());
    let untaint = Patch::Merge(json!({"spec": {"taints": null}}));
    nodes
        .patch(node, &PatchParams::default(), &untaint)
        .await
        .context("taking the taint away")?;
    Ok(())
}

/// The account that every pod without one of its own needs; the controller-manager would make it.
///
/// # Errors
/// When the namespace does not appear in time.
pub async fn make_default_account(admin: &Client, namespace: &str) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), namespace);
    let mut account = ServiceAccount::default();
    account.metadata.name = Some("default".to_owned());
    eventually(
        "the namespace of the default account",
        PATIENCE,
        async || {
            if accounts.get_opt("default").await?.is_none() {
                accounts.create(&PostParams::default(), &account).await?;
            }
            Ok(())
        },
    )
    .await
}

/// Removes a pod at once, as a kubelet does when its containers are gone.
///
/// # Errors
/// When the API server refuses.
pub async fn remove_pod(admin: &Client, namespace: &str, name: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(admin.clone(), namespace);
    let now = DeleteParams::default().grace_period(0);
    pods.delete(name, &now)
        .await
        .with_context(|| format!("deleting pod {name}"))?;
    eventually("the pod to be gone", PATIENCE, async || {
        ensure!(pods.get_opt(name).await?.is_none(), "it is still there");
        Ok(())
    })
    .await
}

/// Plays kubelet on these nodes until the API server fails: every pod that comes there is said to run, and is
/// gone as soon as it is deleted.
///
/// # Errors
/// What the API server said when it failed.
pub async fn play(admin: &Client, nodes: &[&str]) -> Result<()> {
    let pods: Api<Pod> = Api::all(admin.clone());
    loop {
        for pod in pods.list(&ListParams::default()).await? {
            if nodes.contains(&pods::node(&pod)) {
                play_one(admin, &pod).await?;
            }
        }
        tokio::time::sleep(PLAY_EVERY).await;
    }
}

async fn play_one(admin: &Client, pod: &Pod) -> Result<()> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
    if pod.metadata.deletion_timestamp.is_some() {
        remove_pod(admin, &namespace, &name).await
    } else if phase == Some("Pending") {
        report_phase(admin, &namespace, &name, "Running").await
    } else {
        Ok(())
    }
}

/// Reports a pod's phase: `Running`, `Succeeded`.
///
/// # Errors
/// When the API server refuses.
pub async fn report_phase(admin: &Client, namespace: &str, name: &str, phase: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(admin.clone(), namespace);
    let status = Patch::Merge(json!({"status": {"phase": phase}}));
    pods.patch_status(name, &PatchParams::default(), &status)
        .await
        .with_context(|| format!("reporting pod {name} as {phase}"))?;
    Ok(())
}
