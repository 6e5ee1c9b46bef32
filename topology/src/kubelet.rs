//! What the node's kubelet does with CPUs and devices, as far as it can be read.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cpus::CpuList;
use crate::open_enum::open_enum;

/// Policies of the kubelet; each `unknown` where it cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Kubelet {
    /// `topologyManagerPolicy`: `none`, `best-effort`, `restricted`, `single-numa-node`, `unknown`.
    #[serde(default = "unknown")]
    pub topology_manager_policy: String,
    /// `topologyManagerScope`: `container`, `pod`, `unknown`.
    #[serde(default = "unknown")]
    pub topology_manager_scope: String,
    /// `cpuManagerPolicy`: `none`, `static`, `unknown`.
    #[serde(default = "unknown")]
    pub cpu_manager_policy: String,
    /// `topologyManagerPolicyOptions`, empty where none is set; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_manager_policy_options: Option<BTreeMap<String, String>>,
    /// `cpuManagerPolicyOptions`, empty where none is set; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_manager_policy_options: Option<BTreeMap<String, String>>,
    /// `memoryManagerPolicy`: `None`, `Static`; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_manager_policy: Option<String>,
    /// `reservedSystemCPUs`; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_cpus: Option<CpuList>,
}

/// One device resource of the node and who serves it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plugin {
    /// Extended resource, `nvidia.com/gpu`.
    pub resource: String,
    /// Who serves it.
    pub owner: PluginOwner,
    /// Whether it is registered with the kubelet now.
    #[serde(default)]
    pub registered: bool,
    /// Whether the set that was promised is the set that a pod gets.
    #[serde(default)]
    pub exact: bool,
}

open_enum! {
    /// Who serves a device resource.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub enum PluginOwner {
        /// Berth's device plugin.
        Berth = "berth",
        /// Another device plugin.
        Other = "other",
        /// A DRA driver (DRAExtendedResource).
        Dra = "dra",
        /// Nobody.
        None = "none",
    }
}

impl Kubelet {
    /// What is said of a kubelet of which nothing could be read.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            topology_manager_policy: unknown(),
            topology_manager_scope: unknown(),
            cpu_manager_policy: unknown(),
            topology_manager_policy_options: None,
            cpu_manager_policy_options: None,
            memory_manager_policy: None,
            reserved_cpus: None,
        }
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}
