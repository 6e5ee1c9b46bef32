//! What a GPU tells of itself for people and tools; placement reads none of it, nor does the hash.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cpus::{CpuList, NumberList};

/// NVLinks of one GPU that are alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NvLinks {
    /// Their numbers, as a list: `0-17`.
    pub links: NumberList,
    /// Whether they are up (`nvmlDeviceGetNvLinkState`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Version of NVLink (`nvmlDeviceGetNvLinkVersion`): `4.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What they end at (`nvmlDeviceGetNvLinkRemoteDeviceType`): `gpu`, `npu`, `switch`, `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// Speed of each by NVML, in 10⁹ bytes a second, one direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gb_per_second: Option<f64>,
}

/// Peer access to some other GPUs (`nvmlDeviceGetP2PStatus`): `ok`, `chipset-not-supported`,
/// `gpu-not-supported`, `topology-not-supported`, `disabled-by-registry`, `not-supported`; absent is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerAccess {
    /// The others' indices, as a list: `1-7`.
    pub gpus: NumberList,
    /// Reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<String>,
    /// Writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<String>,
    /// Atomic operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atomics: Option<String>,
}

/// NVLink-C2C between a GPU and the CPU of its superchip.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct C2c {
    /// Whether it is in use (`nvmlDeviceGetC2cModeInfoV`).
    pub enabled: bool,
    /// Links (field `NVML_FI_DEV_C2C_LINK_COUNT`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<u32>,
}

/// Limits of a GPU's power.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PowerLimits {
    /// After a boot (`nvmlDeviceGetPowerManagementDefaultLimit`), in milliwatts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_milliwatts: Option<u32>,
    /// Now, of all limits the least (`nvmlDeviceGetEnforcedPowerLimit`), in milliwatts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced_milliwatts: Option<u32>,
    /// The least that may be set (`nvmlDeviceGetPowerManagementLimitConstraints`), in milliwatts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_milliwatts: Option<u32>,
    /// The most that may be set, in milliwatts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_milliwatts: Option<u32>,
}

/// Temperatures at which a GPU protects itself (`nvmlDeviceGetTemperatureThreshold`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Temperatures {
    /// It slows down, in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowdown_celsius: Option<u32>,
    /// It shuts down, in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown_celsius: Option<u32>,
}

/// Caches of the node's CPUs that are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Caches {
    /// 1 is the nearest to a core.
    pub level: u32,
    /// `unified`, `data` or `instruction`.
    pub kind: String,
    /// Size of each in bytes.
    pub size_bytes: u64,
    /// How many there are.
    pub count: u32,
    /// Which CPUs share each, where it is more than those of one core.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<CpuList>,
}
