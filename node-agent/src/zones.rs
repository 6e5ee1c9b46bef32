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

use crate::mirror;
use object::{MANAGED_BY, MANAGER};

const GROUP: &str = "topology.node.k8s.io";
const VERSION: &str = "v1alpha2";
const KIND: &str = "NodeResourceTopology";
const PLURAL: &str = "noderesourcetopologies";
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
    published: watch::Receiver<Option<Arc<Status>>>,
) {
    let name = format!("{KIND} {node}");
    let form = |status: &Status| object::of(&node, status, &resource);
    let (client, node) = (&client, &node);
    let write = |object: Value| async move { Ok(write(client, node, &object).await?) };
    mirror::keep(name, published, form, write).await;
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
