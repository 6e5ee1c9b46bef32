//! What the node's kubelet does with CPUs and devices, as far as it can be read.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cpus::{self, CpuList};
use crate::open_enum::open_enum;
use crate::raw::RawKubelet;

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
    /// Whether it tells the kubelet no NUMA nodes, so that the topology manager does not align its devices
    /// (`--numa-hints=off`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unaligned: bool,
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
    /// What a configuration says; what it leaves out is the kubelet's default
    /// (`SetDefaults_KubeletConfiguration` of `kubelet.config.k8s.io/v1beta1`). Reserved CPUs that are no
    /// list are unknown, and the error says why.
    #[must_use]
    pub fn of_config(config: &RawKubelet) -> (Self, Option<cpus::Error>) {
        let or = |value: &Option<String>, default: &str| {
            let given = value.as_deref().filter(|value| !value.is_empty());
            given.unwrap_or(default).to_owned()
        };
        let reserved = config.reserved_system_cpus.as_deref();
        let reserved = reserved.filter(|text| !text.is_empty());
        let (reserved_cpus, error) = match reserved.map(str::parse).transpose() {
            Ok(cpus) => (cpus, None),
            Err(error) => (None, Some(error)),
        };
        let options =
            |options: &Option<BTreeMap<String, String>>| Some(options.clone().unwrap_or_default());
        let kubelet = Self {
            topology_manager_policy: or(&config.topology_manager_policy, "none"),
            topology_manager_scope: or(&config.topology_manager_scope, "container"),
            cpu_manager_policy: or(&config.cpu_manager_policy, "none"),
            topology_manager_policy_options: options(&config.topology_manager_policy_options),
            cpu_manager_policy_options: options(&config.cpu_manager_policy_options),
            memory_manager_policy: Some(or(&config.memory_manager_policy, "None")),
            reserved_cpus,
        };
        (kubelet, error)
    }

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
