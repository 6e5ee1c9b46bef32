//! The node's NUMA zones as a NodeResourceTopology (`topology.node.k8s.io/v1alpha2`), for schedulers
//! that read those. Off unless asked for.
//!
//! An object that somebody else wrote is left alone, and a cluster without the CRD is told of once: it
//! may get one later.

mod object;

use std::sync::Arc;
use std::time::Duration;

use berth_topology::ids::NodeName;
use berth_topology::node::Status;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use object::{MANAGED_BY, MANAGER};

const GROUP: &str = "topology.node.k8s.io";
const VERSION: &str = "v1alpha2";
const KIND: &str = "NodeResourceTopology";
const PLURAL: &str = "noderesourcetopologies";
/// After a failure, which is told once.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
const CALL_WITHIN: Duration = Duration::from_secs(10);

/// Why the zones are not in the cluster.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the cluster has no NodeResourceTopology ({GROUP}/{VERSION})")]
    NoCrd,
    #[error(
        "somebody else writes NodeResourceTopology {0}: it lacks the label {MANAGED_BY}={MANAGER}"
    )]
    Foreign(String),
    #[error("cannot write NodeResourceTopology {name}")]
    Call {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("cannot write NodeResourceTopology {0}: no answer in time")]
    Late(String),
}

/// Writes the object whenever it would say something else, until nobody tells what is published.
pub async fn keep(
    client: kube::Client,
    node: NodeName,
    resource: String,
    mut published: watch::Receiver<Option<Arc<Status>>>,
) {
    let (mut written, mut told) = (None, String::new());
    loop {
        let status = published.borrow_and_update().clone();
        let object = status.map(|status| object::of(&node, &status, &resource));
        let mut again = false;
        if let Some(object) = object
            && written.as_ref() != Some(&object)
        {
            match write(&client, &node, &object).await {
                Ok(()) => {
                    info!(node = node.as_str(), "NodeResourceTopology");
                    (written, told) = (Some(object), String::new());
                }
                Err(error) => {
                    again = true;
                    let text = format!("{:#}", anyhow::Error::from(error));
                    if text != told {
                        warn!(node = node.as_str(), "{text}; trying again");
                        told = text;
                    }
                }
            }
        }
        if again {
            tokio::time::sleep(AGAIN_AFTER).await;
        } else if published.changed().await.is_err() {
            return;
        }
    }
}

async fn write(client: &kube::Client, node: &NodeName, object: &Value) -> Result<(), Error> {
    let name = node.to_string();
    let kind = GroupVersionKind::gvk(GROUP, VERSION, KIND);
    let kind = ApiResource::from_gvk_with_plural(&kind, PLURAL);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let writing = async {
        match api.get_opt(&name).await? {
            None => {
                let object = serde_json::from_value(object.clone());
                let object = object.map_err(kube::Error::SerdeError)?;
                api.create(&PostParams::default(), &object).await?;
                Ok(true)
            }
            Some(found) if !is_ours(&found) => Ok(false),
            Some(_) => {
                let patch = Patch::Merge(object);
                api.patch(&name, &PatchParams::default(), &patch).await?;
                Ok(true)
            }
        }
    };
    match timeout(CALL_WITHIN, writing).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(Error::Foreign(name)),
        // without the CRD creating is not found, either
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(Error::NoCrd),
        Ok(Err(source)) => Err(Error::Call {
            name,
            source: Box::new(source),
        }),
        Err(_) => Err(Error::Late(name)),
    }
}

fn is_ours(found: &DynamicObject) -> bool {
    let labels = found.metadata.labels.as_ref();
    let manager = labels.and_then(|labels| labels.get(MANAGED_BY));
    manager.is_some_and(|manager| manager == MANAGER)
}
