//! NodeTopology: one node as its agent sees it.
//!
//! A cluster-scoped object named like its node and owned by it. Written only by that node's agent:
//! first created, then its status. An object without status reads as "no topology yet".

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::allocation::Allocation;
use crate::details::Caches;
use crate::gpu::Gpu;
use crate::ids::GpuUuid;
use crate::kubelet::{Kubelet, Plugin};
use crate::link::Link;
use crate::names;
use crate::nic::Nic;
use crate::numa::NumaNode;

/// The object. Readers ignore unknown fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeTopology {
    /// Always `berth.dev/v1alpha1`.
    #[serde(rename = "apiVersion", default = "api_version")]
    pub api_version: String,
    /// Always `NodeTopology`.
    #[serde(default = "kind")]
    pub kind: String,
    /// Named like its node.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the agent saw; absent until its first status write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// What the agent saw. Absent means unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// GPUs in index order.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
    /// Every pair of GPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// NUMA nodes by id.
    #[serde(default)]
    pub numa: Vec<NumaNode>,
    /// Caches of the CPUs, the outermost first (hwloc).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<Caches>,
    /// Network cards by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// The kubelet's policies.
    #[serde(default = "Kubelet::unknown")]
    pub kubelet: Kubelet,
    /// Device resources and who serves them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<Plugin>,
    /// What the kubelet gave to containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allocations: Vec<Allocation>,
    /// What could not be read, and why. A node that cannot be read says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknowns: Vec<Unknown>,
    /// When it was read, RFC 3339. Volatile: a change of it alone is not published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<String>,
    /// The kernel's boot id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Which load of NVIDIA's driver this is: another one after the driver was loaded again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_load: Option<String>,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Over what placement reads; equal hardware has an equal hash. See [`crate::hash`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// A fact that could not be read.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Unknown {
    /// Which fact: `gpus`, `gpu 0: numaNode`, `nics`.
    pub what: String,
    /// Why, in a sentence.
    pub why: String,
}

// === impl NodeTopology ===

impl NodeTopology {
    /// An object for the node of that name.
    #[must_use]
    pub fn new(node: &str, status: Status) -> Self {
        let metadata = ObjectMeta {
            name: Some(node.to_owned()),
            ..ObjectMeta::default()
        };
        Self {
            api_version: api_version(),
            kind: kind(),
            metadata,
            status: Some(status),
        }
    }

    /// The node's name; empty when the object has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}

// === impl Status ===

impl Status {
    /// The GPU with that UUID.
    #[must_use]
    pub fn gpu(&self, uuid: &GpuUuid) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| gpu.uuid == *uuid)
    }

    /// The pair of those two, in either order.
    #[must_use]
    pub fn link(&self, one: &GpuUuid, other: &GpuUuid) -> Option<&Link> {
        self.links.iter().find(|link| {
            (link.a == *one && link.b == *other) || (link.a == *other && link.b == *one)
        })
    }

    /// This status without what changes by itself: two equal ones need no write.
    #[must_use]
    pub fn without_volatile(&self) -> Self {
        Self {
            observed_at: None,
            ..self.clone()
        }
    }
}

impl k8s_openapi::Resource for NodeTopology {
    const API_VERSION: &'static str = names::SCHEMA;
    const GROUP: &'static str = names::GROUP;
    const KIND: &'static str = "NodeTopology";
    const VERSION: &'static str = names::VERSION;
    const URL_PATH_SEGMENT: &'static str = "nodetopologies";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for NodeTopology {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn api_version() -> String {
    names::SCHEMA.to_owned()
}

fn kind() -> String {
    "NodeTopology".to_owned()
}
