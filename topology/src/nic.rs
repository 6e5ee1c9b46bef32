//! Network cards and how far each GPU is from them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{BusId, GpuUuid, NumaId};
use crate::link::Path;

/// One network card.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// The kernel's name: `mlx5_0`, `eth0`.
    pub name: String,
    /// PCI address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus_id: Option<BusId>,
    /// NUMA node; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<NumaId>,
    /// Whether it can do RDMA (InfiniBand or RoCE).
    #[serde(default)]
    pub rdma: bool,
    /// Link rate in 10⁹ bytes a second, one direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_gb_per_second: Option<f64>,
    /// Its path to each GPU, in index order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<NicPath>,
    /// Its path to each card that stands after it in the list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nic_paths: Vec<NicPeerPath>,
}

/// From a network card to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NicPeerPath {
    /// The other card's name.
    pub nic: String,
    /// Their PCIe ancestor.
    pub path: Path,
}

/// From a network card to one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NicPath {
    /// The GPU.
    pub gpu: GpuUuid,
    /// Their PCIe ancestor.
    pub path: Path,
}
