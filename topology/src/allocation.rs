//! What the kubelet really gave to a container.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cpus::CpuList;
use crate::ids::{GpuUuid, PodUid};

/// Devices that a container holds: the truth, where an assignment is the intent.
///
/// A container that holds exclusive CPUs is listed even without a device: they decide, too, which
/// NUMA nodes the kubelet's topology manager takes next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// The pod's uid; absent where it could not be joined (PodResources has none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<PodUid>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The container.
    pub container: String,
    /// The resource that the devices belong to; empty where there are only CPUs.
    pub resource: String,
    /// UUIDs of the devices.
    #[serde(default)]
    pub devices: Vec<GpuUuid>,
    /// Exclusive CPUs, where the CPU manager gave some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuList>,
}
