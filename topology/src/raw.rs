//! A machine as it answers: NVML calls, sysfs files and hwloc objects, before anything is derived.
//!
//! Written by the agent's probe (`--print raw`), read by its `assemble`, and by the stand-in
//! `libnvidia-ml` of the tests, which answers the same calls from it. Each answer may be a failure,
//! which is recorded as such: a broken call is a fact of the machine too.

use std::collections::BTreeMap;

use serde::de::{self, DeserializeOwned};
use serde::{Deserialize, Deserializer, Serialize};

use crate::cpus::CpuList;

/// Everything that was read of one machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawMachine {
    /// Where the facts are from and what was derived, for recorded machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `/proc/sys/kernel/random/boot_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Inode of `module/nvidia` in sysfs, which the kernel gives anew each time the driver is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_load: Option<String>,
    /// NVML, or why there is none.
    pub nvml: Answer<RawNvml>,
    /// sysfs below its root (`/sys`).
    #[serde(default)]
    pub sysfs: RawSysfs,
    /// hwloc, or why it could not be asked.
    pub hwloc: Answer<RawHwloc>,
    /// The kubelet's configuration file, where somebody said which it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<Answer<RawKubelet>>,
}

/// One call's answer: its value, or `{"error": "NVML_ERROR_NOT_SUPPORTED"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer<T> {
    /// The call failed.
    Failed {
        /// NVML's name of the error, or a sentence for other sources.
        error: String,
    },
    /// The call succeeded.
    Value(T),
}

/// NVML as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawNvml {
    /// `nvmlSystemGetDriverVersion`.
    pub driver_version: Answer<String>,
    /// `nvmlSystemGetNVMLVersion`.
    pub nvml_version: Answer<String>,
    /// `nvmlDeviceGetCount_v2`; on success the length of `gpus`.
    pub device_count: Answer<u32>,
    /// By NVML index; a failure is `nvmlDeviceGetHandleByIndex_v2`'s.
    #[serde(default)]
    pub gpus: Vec<Answer<RawGpu>>,
}

/// One GPU: each field is one NVML call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawGpu {
    /// `nvmlDeviceGetUUID`.
    pub uuid: Answer<String>,
    /// `nvmlDeviceGetMinorNumber`.
    pub minor: Answer<u32>,
    /// `nvmlDeviceGetModuleId`.
    pub module_id: Answer<u32>,
    /// `nvmlDeviceGetName`.
    pub name: Answer<String>,
    /// `nvmlDeviceGetPciInfo_v3`: `busId` as NVML gives it, `00000000:1A:00.0`.
    pub pci_bus_id: Answer<String>,
    /// `nvmlDeviceGetMemoryInfo_v2`: total bytes.
    pub memory_total_bytes: Answer<u64>,
    /// `nvmlDeviceGetCudaComputeCapability`: major, minor.
    pub compute_capability: Answer<(i32, i32)>,
    /// `nvmlDeviceGetCurrPcieLinkGeneration`.
    pub pcie_generation: Answer<u32>,
    /// `nvmlDeviceGetCurrPcieLinkWidth`.
    pub pcie_width: Answer<u32>,
    /// `nvmlDeviceGetMaxPcieLinkGeneration`.
    pub pcie_max_generation: Answer<u32>,
    /// `nvmlDeviceGetMaxPcieLinkWidth`.
    pub pcie_max_width: Answer<u32>,
    /// `nvmlDeviceGetCpuAffinityWithinScope(NODE)` as a list.
    pub cpu_affinity: Answer<CpuList>,
    /// `nvmlDeviceGetMemoryAffinity(NODE)`: NUMA nodes.
    pub memory_affinity: Answer<Vec<u32>>,
    /// `nvmlDeviceGetNumaNodeId`: only where the GPU itself is a NUMA node (Grace).
    pub numa_node_id: Answer<u32>,
    /// `nvmlDeviceGetTopologyCommonAncestor` with each other GPU, by its index; the diagonal too
    /// (`NVML_TOPOLOGY_INTERNAL`, 0).
    #[serde(default)]
    pub common_ancestors: Vec<Answer<u32>>,
    /// `nvmlDeviceGetP2PStatus(NVLINK)` with each GPU by index (0 is OK).
    #[serde(default)]
    pub p2p_nvlink: Vec<Answer<u32>>,
    /// The same for `READ`: over whatever joins the two.
    #[serde(default)]
    pub p2p_read: Vec<Answer<u32>>,
    /// The same for `WRITE`.
    #[serde(default)]
    pub p2p_write: Vec<Answer<u32>>,
    /// The same for `ATOMICS`.
    #[serde(default)]
    pub p2p_atomics: Vec<Answer<u32>>,
    /// Field 91, `NVML_FI_DEV_NVLINK_LINK_COUNT`.
    pub nvlink_count: Answer<u32>,
    /// Field 147, `NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT`.
    pub nvswitch_link_count: Answer<u32>,
    /// Each link from 0.
    #[serde(default)]
    pub nvlinks: Vec<RawNvLink>,
    /// `nvmlDeviceGetMigMode`: current (0 disabled, 1 enabled).
    pub mig_mode: Answer<u32>,
    /// MIG devices (`nvmlDeviceGetMigDeviceHandleByIndex`), those that exist.
    #[serde(default)]
    pub mig_devices: Vec<RawMigDevice>,
    /// `nvmlDeviceGetGpuFabricInfoV`.
    pub fabric: Answer<RawFabric>,
    /// `nvmlDeviceGetTotalEccErrors(UNCORRECTED, VOLATILE)`.
    pub ecc_uncorrected_volatile: Answer<u64>,
    /// `nvmlDeviceGetRemappedRows`: pending.
    pub remapped_rows_pending: Answer<bool>,
    /// `nvmlDeviceGetRemappedRows`: a failed remapping.
    pub remapped_rows_failed: Answer<bool>,
    /// `nvmlDeviceGetRetiredPagesPendingStatus`.
    pub retired_pages_pending: Answer<bool>,
    /// Field 230, `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`: 0 none, 1 reset, 2 reboot, 3 drain P2P,
    /// 4 drain and reset. Drivers before R565 do not have it.
    #[serde(default)]
    pub recovery_action: Answer<u32>,
    /// `nvmlDeviceGetPowerManagementDefaultLimit`, in milliwatts.
    #[serde(default)]
    pub power_default_milliwatts: Answer<u32>,
    /// `nvmlDeviceGetEnforcedPowerLimit`, in milliwatts.
    #[serde(default)]
    pub power_enforced_milliwatts: Answer<u32>,
    /// `nvmlDeviceGetPowerManagementLimitConstraints`: least and most, in milliwatts.
    #[serde(default)]
    pub power_range_milliwatts: Answer<(u32, u32)>,
    /// `nvmlDeviceGetTemperatureThreshold(SLOWDOWN)`, in degrees Celsius.
    #[serde(default)]
    pub slowdown_celsius: Answer<u32>,
    /// `nvmlDeviceGetTemperatureThreshold(SHUTDOWN)`, in degrees Celsius.
    #[serde(default)]
    pub shutdown_celsius: Answer<u32>,
    /// `nvmlDeviceGetC2cModeInfoV`: whether NVLink-C2C joins it with its CPU (Grace).
    #[serde(default)]
    pub c2c_enabled: Answer<bool>,
    /// Field 170, `NVML_FI_DEV_C2C_LINK_COUNT`.
    #[serde(default)]
    pub c2c_link_count: Answer<u32>,
    /// `nvmlDeviceGetVirtualizationMode`: 0 none, 1 passed through to this virtual machine, 2 a vGPU, 3 and
    /// 4 a host of vGPUs or vSGAs.
    #[serde(default)]
    pub virtualization_mode: Answer<u32>,
    /// What may be set of it. No probe asks: only node tuning does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<RawSettings>,
}

/// Settings of one GPU, and what it offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawSettings {
    /// `nvmlDeviceGetPersistenceMode`.
    pub persistence: Answer<bool>,
    /// `nvmlDeviceGetApplicationsClock`: memory, graphics.
    pub application_clocks_mhz: Answer<(u32, u32)>,
    /// `nvmlDeviceGetSupportedMemoryClocks`, each with its `nvmlDeviceGetSupportedGraphicsClocks`.
    pub supported_clocks_mhz: Answer<Vec<(u32, Vec<u32>)>>,
    /// `nvmlDeviceGetAPIRestriction(SET_APPLICATION_CLOCKS)`.
    pub clocks_restricted: Answer<bool>,
}

/// One NVLink of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawNvLink {
    /// `nvmlDeviceGetNvLinkState`: whether it is active.
    pub active: Answer<bool>,
    /// `nvmlDeviceGetNvLinkVersion`.
    pub version: Answer<u32>,
    /// `nvmlDeviceGetNvLinkRemoteDeviceType`: 0 GPU, 1 IBM NPU, 2 switch, 255 unknown.
    pub remote_type: Answer<u32>,
    /// `nvmlDeviceGetNvLinkRemotePciInfo_v2`: `busId` as NVML gives it.
    pub remote_pci_bus_id: Answer<String>,
    /// Field 164 with the link as scope, `NVML_FI_DEV_NVLINK_GET_SPEED`, in MB/s (10⁶).
    pub speed_mb_per_second: Answer<u64>,
}

/// One MIG device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawMigDevice {
    /// `nvmlDeviceGetUUID` of the MIG device.
    pub uuid: Answer<String>,
    /// `nvmlDeviceGetName` of the MIG device: `NVIDIA A100-SXM4-40GB MIG 1g.5gb`.
    pub name: Answer<String>,
    /// `nvmlDeviceGetMemoryInfo` of the MIG device: total bytes.
    pub memory_total_bytes: Answer<u64>,
    /// `nvmlDeviceGetAttributes_v2`: GPU instance slices.
    pub slices: Answer<u32>,
    /// `nvmlDeviceGetGpuInstanceId`.
    #[serde(default)]
    pub gpu_instance_id: Answer<u32>,
    /// `nvmlDeviceGetComputeInstanceId`.
    #[serde(default)]
    pub compute_instance_id: Answer<u32>,
    /// `nvmlGpuInstanceGetInfo` of that GPU instance: first memory slice, and how many.
    #[serde(default)]
    pub placement: Answer<(u32, u32)>,
}

/// `nvmlGpuFabricInfoV_t`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawFabric {
    /// 16 bytes as lower-case hexadecimal digits with dashes, as a UUID is written.
    pub cluster_uuid: String,
    /// Clique.
    pub clique_id: u32,
    /// 0 not supported, 1 not started, 2 in progress, 3 completed.
    pub state: u32,
    /// `nvmlReturn_t` of the registration; valid when completed.
    pub status: u32,
    /// Health bits, `NVML_GPU_FABRIC_HEALTH_MASK_*`.
    #[serde(default)]
    pub health_mask: u32,
    /// `NVML_GPU_FABRIC_HEALTH_SUMMARY_*`: 0 not told, 1 healthy, 2 unhealthy, 3 limited capacity. Drivers
    /// that do not know version 3 of the struct do not tell it.
    #[serde(default)]
    pub health_summary: u32,
}

/// Files and links of sysfs, by path below its root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawSysfs {
    /// `bus/pci/devices/*`, by address: GPUs, NVSwitches and network cards only.
    #[serde(default)]
    pub pci: BTreeMap<String, RawPci>,
    /// `devices/system/node/nodeN`, by N.
    #[serde(default)]
    pub numa: BTreeMap<u32, RawNuma>,
    /// `class/infiniband/*`, by name.
    #[serde(default)]
    pub infiniband: BTreeMap<String, RawPort>,
    /// `class/net/*` that are PCI devices, by name.
    #[serde(default)]
    pub net: BTreeMap<String, RawPort>,
    /// `devices/system/cpu/online`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus_online: Option<String>,
}

/// One PCI device. A file that does not exist is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawPci {
    /// Where the link in `bus/pci/devices` leads, below the root: `devices/pci0000:17/…/0000:1a:00.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_path: Option<String>,
    /// `vendor`, `0x10de`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// `class`, `0x030200`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// `numa_node`, `-1` when the firmware does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<String>,
    /// `local_cpulist`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_cpulist: Option<String>,
}

/// One NUMA node. A file that does not exist is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawNuma {
    /// `cpulist`, empty for a memory-only node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpulist: Option<String>,
    /// `distance`, `10 21`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance: Option<String>,
    /// `MemTotal` of `meminfo`, in kB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_total_kb: Option<u64>,
    /// `hugepages/hugepages-NkB/nr_hugepages`, by N.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub huge_pages: BTreeMap<u64, u64>,
}

/// One network card's entry in `class/infiniband` or `class/net`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawPort {
    /// PCI address that its `device` link leads to.
    pub pci: String,
    /// `ports/1/rate` (`400 Gb/sec (4X NDR)`), or `speed` in Mb/s for `net`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
}

/// What hwloc says of CPUs and NUMA nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawHwloc {
    /// CPU sets of packages (sockets), by logical index.
    #[serde(default)]
    pub packages: Vec<CpuList>,
    /// NUMA nodes by OS index.
    #[serde(default)]
    pub numa: BTreeMap<u32, RawHwlocNuma>,
    /// CPU sets of cores: hardware threads that share one are one core.
    #[serde(default)]
    pub cores: Vec<CpuList>,
    /// Caches of the CPUs, the outermost first; alike ones together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<RawCaches>,
}

/// Caches of one kind, level and size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawCaches {
    /// 1 is the nearest to a core.
    pub level: u32,
    /// `unified`, `data` or `instruction`.
    pub kind: String,
    /// Size of each.
    pub size_bytes: u64,
    /// Which CPUs share each.
    pub cpus: Vec<CpuList>,
}

/// One NUMA node of hwloc.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawHwlocNuma {
    /// Its CPUs.
    #[serde(default)]
    pub cpus: CpuList,
    /// Local memory in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
}

/// What a kubelet answers to `/configz`: its file, drop-ins and flags, and the defaults of what they leave out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configz {
    /// The part of it that is read.
    pub kubeletconfig: RawKubelet,
}

/// A `KubeletConfiguration`, the part that decides where CPUs and devices come from. What is not in the
/// file is absent; flags that the kubelet has beside it are not seen there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawKubelet {
    /// `topologyManagerPolicy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_manager_policy: Option<String>,
    /// `topologyManagerScope`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_manager_scope: Option<String>,
    /// `topologyManagerPolicyOptions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_manager_policy_options: Option<BTreeMap<String, String>>,
    /// `cpuManagerPolicy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_manager_policy: Option<String>,
    /// `cpuManagerPolicyOptions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_manager_policy_options: Option<BTreeMap<String, String>>,
    /// `memoryManagerPolicy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_manager_policy: Option<String>,
    /// `reservedSystemCPUs`.
    #[serde(
        default,
        rename = "reservedSystemCPUs",
        skip_serializing_if = "Option::is_none"
    )]
    pub reserved_system_cpus: Option<String>,
}

// === impl Answer ===

impl<T> Answer<T> {
    /// The value of a call that succeeded.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Failed { .. } => None,
        }
    }

    /// The failure of a call that did not.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Value(_) => None,
            Self::Failed { error } => Some(error),
        }
    }

    /// The answer with its value changed.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Value(value) => Answer::Value(change(value)),
            Self::Failed { error } => Answer::Failed { error },
        }
    }

    /// A failure.
    pub fn failed(error: impl Into<String>) -> Self {
        Self::Failed {
            error: error.into(),
        }
    }
}

/// Through a document, not derived: serde's untagged enums lose both the reason why a value is wrong
/// and maps whose keys are numbers.
impl<'de, T: DeserializeOwned> Deserialize<'de> for Answer<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = serde_json::Value::deserialize(deserializer)?;
        if let Some(error) = document.get("error").and_then(serde_json::Value::as_str) {
            return Ok(Self::failed(error));
        }
        T::deserialize(document)
            .map(Self::Value)
            .map_err(de::Error::custom)
    }
}

impl<T> Default for Answer<T> {
    /// What NVML says of what a GPU does not have.
    fn default() -> Self {
        Self::failed("NVML_ERROR_NOT_SUPPORTED")
    }
}
