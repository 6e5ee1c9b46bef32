//! One GPU of a node, as NVML describes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cpus::{CpuList, NumberList};
use crate::details::{C2c, NvLinks, PeerAccess, PowerLimits, Temperatures};
use crate::ids::{BusId, GpuIndex, GpuUuid, NumaId};
use crate::open_enum::open_enum;

/// One GPU. What is absent is unknown; [`crate::node::Status::unknowns`] says why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Identity (`nvmlDeviceGetUUID`).
    pub uuid: GpuUuid,
    /// Position on the node (`nvmlDeviceGetIndex`).
    pub index: GpuIndex,
    /// Number of `/dev/nvidiaN` (`nvmlDeviceGetMinorNumber`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor: Option<u32>,
    /// The fabric manager's physical number (`nvmlDeviceGetModuleId`), not in PCI order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_id: Option<u32>,
    /// Product name (`nvmlDeviceGetName`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Whole memory in bytes (`nvmlDeviceGetMemoryInfo_v2`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// CUDA compute capability, `9.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<String>,
    /// PCI address in sysfs form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus_id: Option<BusId>,
    /// PCIe link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcie: Option<Pcie>,
    /// NUMA node by sysfs; absent when unknown, never 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<NumaId>,
    /// NUMA nodes whose memory is near it (`nvmlDeviceGetMemoryAffinity`), as a list; absent where
    /// NVML does not say, or says just `numaNode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_affinity: Option<NumberList>,
    /// The NUMA node that its own memory is (`nvmlDeviceGetNumaNodeId`: Grace only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_numa_node: Option<NumaId>,
    /// CPUs near it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuList>,
    /// Its whole NVLink budget, which caps the sum over all peers behind a switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvlink: Option<GpuNvLink>,
    /// Whether it can be given to a pod.
    #[serde(default)]
    pub health: Health,
    /// NVSwitch fabric membership, when registered successfully.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fabric: Option<Fabric>,
    /// MIG mode and instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<Mig>,
    /// Time-slicing or MPS, where the plugin shares this GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// Its NVLinks one by one, alike ones together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nvlinks: Vec<NvLinks>,
    /// How it may reach the memory of the other GPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peer_access: Vec<PeerAccess>,
    /// NVLink-C2C to its CPU, where there is such a thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub c2c: Option<C2c>,
    /// Limits of its power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerLimits>,
    /// What it does when it is too hot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperatures: Option<Temperatures>,
    /// How it is virtualised (`nvmlDeviceGetVirtualizationMode`): `passthrough`, `vgpu`, `host-vgpu`,
    /// `host-vsga`; absent where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtualization: Option<String>,
    /// Facts that are absent because NVML answers `NVML_ERROR_NOT_SUPPORTED`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_supported: Vec<String>,
}

/// A PCIe link. `generation` and `width` are the highest seen since boot: links idle at Gen1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pcie {
    /// Highest generation seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// Most lanes seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Generation that device and slot allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_generation: Option<u32>,
    /// Lanes that device and slot allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_width: Option<u32>,
}

/// All NVLinks of one GPU together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuNvLink {
    /// Active lanes.
    pub lanes: u32,
    /// Lanes that this model has.
    pub lanes_expected: u32,
    /// Active lanes × NVML's speed of one, in 10⁹ bytes a second, one direction.
    pub gb_per_second: f64,
}

/// Whether a GPU can be given to a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// The verdict.
    pub state: HealthState,
    /// Why it is not healthy, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Since when, RFC 3339; absent for one that was healthy from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The driver's errors that still count against it, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<Xid>,
    /// What the driver says is to be done with it (field `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`):
    /// `none`, `reset`, `reboot`, `drain-p2p`, `drain-and-reset`; absent where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_action: Option<String>,
}

/// An error of NVIDIA's driver that has not ended yet. An agent that starts takes it up from here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Xid {
    /// Its number in NVIDIA's catalogue.
    pub code: u32,
    /// When it was first told, RFC 3339.
    pub at: String,
    /// [`crate::node::Status::driver_load`] of that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_load: Option<String>,
}

open_enum! {
    /// The verdict on a GPU. `Unknown` is treated as failed by placement.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum HealthState {
        /// Usable.
        Healthy = "healthy",
        /// Usable, but less than its model promises (a lost NVLink lane).
        Degraded = "degraded",
        /// Not usable; stays listed.
        Failed = "failed",
    }
}

/// Membership of an NVSwitch fabric (`nvmlDeviceGetGpuFabricInfoV`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fabric {
    /// UUID of the NVLink domain.
    pub cluster_uuid: String,
    /// Clique inside the domain: its members reach each other by NVLink.
    pub clique_id: u32,
    /// `completed`, or how far registration got.
    pub state: String,
    /// What the fabric says is wrong (`healthMask`): `degraded-bandwidth`, `route-recovery`,
    /// `route-unhealthy`, `access-timeout-recovery`, `incorrect-configuration`, `limited-capacity`, `unhealthy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<String>,
}

/// MIG of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mig {
    /// `enabled` or `disabled`.
    pub mode: String,
    /// Instances that exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<MigInstance>,
}

/// One MIG compute instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigInstance {
    /// Identity (`MIG-…`).
    pub uuid: GpuUuid,
    /// Profile, `1g.10gb`.
    pub profile: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Compute slices.
    pub compute_slices: u32,
    /// Where in the GPU's memory it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<MigPlacement>,
}

/// The memory slices of a GPU instance (`nvmlGpuInstancePlacement_t`), and its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigPlacement {
    /// The first slice; absent where the agent may not ask (NVML wants an administrator).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_slice: Option<u32>,
    /// How many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice_count: Option<u32>,
    /// `nvmlDeviceGetGpuInstanceId`.
    pub gpu_instance_id: u32,
    /// `nvmlDeviceGetComputeInstanceId`.
    pub compute_instance_id: u32,
}

/// How a shared GPU is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sharing {
    /// `time-slicing` or `mps`.
    pub kind: String,
    /// How many pods may hold it at once.
    pub replicas: u32,
}

// === impl MigInstance ===

impl MigInstance {
    /// The profile as resources spell it, which have no plus: `1g.10gb.me` for `1g.10gb+me`, as NVIDIA's
    /// plugin does.
    #[must_use]
    pub fn resource_profile(&self) -> String {
        self.profile.replace('+', ".")
    }
}

// === impl Gpu ===

impl Gpu {
    /// Whether it may be given to a pod: healthy or degraded.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(
            self.health.state,
            HealthState::Healthy | HealthState::Degraded
        )
    }
}
