//! Calls to the API server: each with a deadline, each error naming what was tried.

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_topology::ids::NodeName;
use berth_topology::node::NodeTopology;
use berth_topology::{lease, names};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use super::plan::{SeenNode, SeenTopology, Write};

/// An answer that takes longer is as good as none: the server was killed, or the network is cut.
const CALL_SECONDS_MAX: u64 = 10;

/// The API server, and the three kinds of objects that an agent touches.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    nodes: Api<Node>,
    topologies: Api<NodeTopology>,
    leases: Api<Lease>,
}

/// Why something was not published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig file.
    #[error("cannot use the kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: kube::config::KubeconfigError,
    },
    /// Neither a kubeconfig nor a service account.
    #[error("no cluster: give --kubeconfig, or run in a pod with a service account")]
    NoCluster(#[source] Box<kube::config::InferConfigError>),
    /// The client could not be built.
    #[error("cannot build a client for the API server")]
    Client(#[source] Box<kube::Error>),
    /// A call failed.
    #[error("cannot {what} {name}")]
    Call {
        /// Verb and kind.
        what: &'static str,
        /// The object.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A call had no answer in time.
    #[error("cannot {what} {name}: no answer within {CALL_SECONDS_MAX} s")]
    Late {
        /// Verb and kind.
        what: &'static str,
        /// The object.
        name: String,
    },
    /// The Node is not there.
    #[error("there is no Node {0}: is --node-name its name in the cluster?")]
    NoNode(String),
    /// The machine does not answer.
    #[error("the last probe of the machine was {seconds} s ago; its Lease is not renewed")]
    ProbeHangs {
        /// Its age.
        seconds: u64,
    },
}

// === impl Cluster ===

impl Cluster {
    /// The cluster of a kubeconfig, else that of the pod that this runs in.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be read; the server itself is not called.
    pub async fn connect(kubeconfig: Option<&Path>) -> Result<Self, Error> {
        let config = cluster_config(kubeconfig).await?;
        let client = Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))?;
        Ok(Self {
            nodes: Api::all(client.clone()),
            topologies: Api::all(client.clone()),
            leases: Api::namespaced(client.clone(), names::NAMESPACE),
            client,
        })
    }

    /// For who reads other kinds of objects.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The Node; only its metadata is read.
    pub(crate) async fn node(&self, name: &NodeName) -> Result<SeenNode, Error> {
        let found = call("get Node", name, self.nodes.get_metadata_opt(name.as_str())).await?;
        let node = found.ok_or_else(|| Error::NoNode(name.to_string()))?;
        Ok(seen_node(node.metadata))
    }

    /// The NodeTopology. Its status is read only if it is not the version that is `known`.
    pub(crate) async fn topology(
        &self,
        name: &NodeName,
        known: Option<SeenTopology>,
    ) -> Result<Option<SeenTopology>, Error> {
        let metadata = self.topologies.get_metadata_opt(name.as_str());
        let Some(found) = call("get NodeTopology", name, metadata).await? else {
            return Ok(None);
        };
        let version = found.metadata.resource_version.unwrap_or_default();
        if known
            .as_ref()
            .is_some_and(|known| known.resource_version == version)
        {
            return Ok(known);
        }
        let found = call(
            "get NodeTopology",
            name,
            self.topologies.get_opt(name.as_str()),
        )
        .await?;
        Ok(found.map(seen_topology))
    }

    pub(crate) async fn write_topology(
        &self,
        name: &NodeName,
        write: &Write,
    ) -> Result<SeenTopology, Error> {
        let (api, params) = (&self.topologies, PatchParams::default());
        let written = match write {
            Write::Create(object) => {
                let params = PostParams::default();
                call("create NodeTopology", name, api.create(&params, object)).await?
            }
            Write::Adopt(patch) => {
                let patch = Patch::Merge(patch);
                call(
                    "patch NodeTopology",
                    name,
                    api.patch(name.as_str(), &params, &patch),
                )
                .await?
            }
            Write::Status(patch) => {
                let patch = Patch::Merge(patch);
                let patched = api.patch_status(name.as_str(), &params, &patch);
                call("patch the status of NodeTopology", name, patched).await?
            }
        };
        Ok(seen_topology(written))
    }

    pub(crate) async fn write_labels(
        &self,
        name: &NodeName,
        patch: &Value,
    ) -> Result<SeenNode, Error> {
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let patched = self.nodes.patch_metadata(name.as_str(), &params, &patch);
        Ok(seen_node(
            call("patch the labels of Node", name, patched)
                .await?
                .metadata,
        ))
    }

    /// One write: the Lease is created only where the patch finds none.
    pub(crate) async fn renew_lease(
        &self,
        name: &NodeName,
        owner: Option<OwnerReference>,
        now: jiff::Timestamp,
    ) -> Result<(), Error> {
        let lease = lease::encode(name.as_str(), owner, MicroTime(now));
        let (params, patch) = (PatchParams::default(), Patch::Merge(&lease));
        let patched = self.leases.patch(name.as_str(), &params, &patch);
        match call("renew Lease", name, patched).await {
            Err(error) if error.is_not_found() => {
                let params = PostParams::default();
                call("create Lease", name, self.leases.create(&params, &lease))
                    .await
                    .map(drop)
            }
            result => result.map(drop),
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

// === impl Error ===

impl Error {
    fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { source, .. }
            if matches!(&**source, kube::Error::Api(status) if status.code == 404))
    }
}

/// How a kubeconfig, or the pod that this runs in, says that the API server is called.
pub(crate) async fn cluster_config(kubeconfig: Option<&Path>) -> Result<Config, Error> {
    match kubeconfig {
        Some(path) => from_file(path).await,
        None => Config::infer()
            .await
            .map_err(|error| Error::NoCluster(Box::new(error))),
    }
}

async fn from_file(path: &Path) -> Result<Config, Error> {
    let failed = |source| Error::Kubeconfig {
        path: path.to_owned(),
        source,
    };
    let file = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(failed)
}

async fn call<T>(
    what: &'static str,
    name: &NodeName,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    let name = name.to_string();
    match tokio::time::timeout(Duration::from_secs(CALL_SECONDS_MAX), answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(Error::Call {
            what,
            name,
            source: Box::new(source),
        }),
        Err(_) => Err(Error::Late { what, name }),
    }
}

fn seen_node(metadata: ObjectMeta) -> SeenNode {
    SeenNode {
        uid: metadata.uid.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
    }
}

fn seen_topology(object: NodeTopology) -> SeenTopology {
    let owners = object.metadata.owner_references.unwrap_or_default();
    SeenTopology {
        resource_version: object.metadata.resource_version.unwrap_or_default(),
        owner_uid: owners
            .into_iter()
            .find(|owner| owner.kind == "Node")
            .map(|owner| owner.uid),
        status: object.status,
        dropped: None,
    }
}
