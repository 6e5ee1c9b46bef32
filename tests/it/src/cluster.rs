//! A control plane with Berth installed: the shipped manifests, applied in the order of the README.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::accounts;
use crate::control_plane::ControlPlane;
use crate::kubelet;
use crate::manifests;
use crate::patches::{DAEMONSET, DEPLOYMENT, SCHEDULER_CONFIG};
use crate::pods;
use crate::story::Stage;
use crate::wait::{PATIENCE, eventually};

/// Berth's namespace.
pub const NAMESPACE: &str = "berth-system";
/// The account of kube-scheduler and extender.
pub const SCHEDULER_ACCOUNT: &str = "berth-scheduler";
/// The account of the agents.
pub const AGENT_ACCOUNT: &str = "berth-node-agent";
/// What `kubectl apply -f daemonset/ -f scheduler-config/` applies, as it orders them.
pub const FILES: [&str; 9] = [
    "daemonset/berth-system.yaml",
    "daemonset/crd.yaml",
    DAEMONSET,
    "daemonset/policy.yaml",
    "daemonset/rbac.yaml",
    SCHEDULER_CONFIG,
    DEPLOYMENT,
    "scheduler-config/policy.yaml",
    "scheduler-config/rbac.yaml",
];

/// The control plane, and where the story's files are.
#[derive(Debug)]
pub struct Cluster {
    /// etcd and the API server.
    pub plane: ControlPlane,
    /// Logs and kubeconfigs.
    pub folder: PathBuf,
}

// === impl Cluster ===

impl Cluster {
    /// Starts a control plane, installs Berth, and waits until its policies are in force.
    ///
    /// # Errors
    /// When something does not start, or a manifest is refused.
    pub async fn start(stage: &Stage) -> Result<Self> {
        let plane = ControlPlane::start(stage).await?;
        let cluster = Self {
            plane,
            folder: stage.folder().to_owned(),
        };
        let admin = cluster.admin();
        // A fresh API server makes its own namespaces and roles a moment after it is ready.
        eventually("the manifests to be applied", PATIENCE, async || {
            manifests::apply_files(admin, &FILES, &[]).await
        })
        .await?;
        kubelet::make_default_account(admin, pods::NAMESPACE).await?;
        cluster.wait_until_served().await?;
        cluster.wait_until_enforced().await?;
        Ok(cluster)
    }

    /// May do everything.
    #[must_use]
    pub fn admin(&self) -> &Client {
        &self.plane.admin
    }

    /// A kubeconfig with the token of one of Berth's accounts, bound to `pod` where one is given.
    ///
    /// # Errors
    /// When the token is not given.
    pub async fn kubeconfig_of(
        &self,
        name: &str,
        account: &str,
        pod: Option<&Pod>,
    ) -> Result<PathBuf> {
        let token = accounts::token(self.admin(), NAMESPACE, account, pod).await?;
        self.plane.kubeconfig(name, &token)
    }

    /// The pod that the DaemonSet would have on that node, posted as its controller would.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn agent_pod(&self, node: &str, template: &Value) -> Result<Pod> {
        let mut pod = json!({"metadata": {
            "name": format!("berth-node-agent-{node}"), "namespace": NAMESPACE,
            "labels": template["metadata"]["labels"],
        }, "spec": template["spec"]});
        pod["spec"]["nodeName"] = json!(node);
        let pod: Pod = serde_json::from_value(pod)?;
        let api: Api<Pod> = Api::namespaced(self.admin().clone(), NAMESPACE);
        let posted = api.create(&PostParams::default(), &pod).await;
        posted.with_context(|| format!("posting the agent's pod on {node}"))
    }

    async fn wait_until_served(&self) -> Result<()> {
        let topologies = topologies(self.admin());
        eventually("NodeTopology to be served", PATIENCE, async || {
            topologies.list(&ListParams::default()).await?;
            Ok(())
        })
        .await
    }

    /// A policy takes effect a second or two after it was posted; all were posted before this looks.
    async fn wait_until_enforced(&self) -> Result<()> {
        let forged = pods::gpu_pod("forged", 1, &[(berth_topology::names::ASSIGNMENT, "{}")]);
        let rehearse = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        eventually(
            "the admission policies to be in force",
            PATIENCE,
            async || {
                let answer = pods::api(self.admin()).create(&rehearse, &forged).await;
                ensure!(answer.is_err(), "a forged assignment is still accepted");
                Ok(())
            },
        )
        .await
    }
}

/// The cluster's NodeTopology objects, untyped: what is in them is read by `berth-topology`.
#[must_use]
pub fn topologies(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("berth.dev", "v1alpha1", "NodeTopology");
    Api::all_with(
        client.clone(),
        &ApiResource::from_gvk_with_plural(&kind, "nodetopologies"),
    )
}

/// The template of the pods that a shipped workload makes.
///
/// # Errors
/// When the file has no such workload.
pub fn pod_template(objects: &[Value], kind: &str) -> Result<Value> {
    Ok(manifests::find(objects, kind)?["spec"]["template"].clone())
}

/// What a container of a template would be started with: command without its program, then args, with
/// the variables of the downward API put in.
///
/// # Errors
/// When the template has no such container.
pub fn container_args(
    template: &Value,
    container: &str,
    variables: &[(&str, &str)],
) -> Result<Vec<String>> {
    let containers = template["spec"]["containers"]
        .as_array()
        .context("reading containers")?;
    let found = containers.iter().find(|each| each["name"] == container);
    let found = found.with_context(|| format!("finding the container {container}"))?;
    let words = |key: &str| found[key].as_array().cloned().unwrap_or_default();
    let words = words("command").into_iter().skip(1).chain(words("args"));
    Ok(words
        .filter_map(|word| word.as_str().map(|word| expand(word, variables)))
        .collect())
}

fn expand(word: &str, variables: &[(&str, &str)]) -> String {
    variables
        .iter()
        .fold(word.to_owned(), |word, (name, value)| {
            word.replace(&format!("$({name})"), value)
        })
}

/// Writes a file that a kubelet would mount.
///
/// # Errors
/// When it cannot be written.
pub fn mount_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
