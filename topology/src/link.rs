//! How two devices of one node reach each other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::GpuUuid;
use crate::open_enum::open_enum;

/// One pair of GPUs. Every pair of a node is listed once, `a` before `b` in index order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// The GPU with the lower index.
    pub a: GpuUuid,
    /// The other GPU.
    pub b: GpuUuid,
    /// Their PCIe ancestor (`nvmlDeviceGetTopologyCommonAncestor`).
    pub path: Path,
    /// NVLink between them, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvlink: Option<PairNvLink>,
}

/// NVLink between one pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairNvLink {
    /// Active lanes; behind switches the lesser of both sides.
    pub lanes: u32,
    /// Lanes that this model has between such a pair; more than `lanes` when degraded.
    pub lanes_expected: u32,
    /// Active lanes × NVML's speed of one, in 10⁹ bytes a second, one direction.
    pub gb_per_second: f64,
    /// Whether the lanes end at the peer or at a switch.
    pub via: Via,
}

open_enum! {
    /// The PCIe ancestor of two devices. `nvidia-smi topo -m` prints PIX, PXB, PHB, NODE, SYS.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Path {
        /// The same board (`NVML_TOPOLOGY_INTERNAL`).
        Board = "board",
        /// One PCIe switch (PIX).
        Switch = "switch",
        /// Several PCIe switches, no host bridge (PXB).
        Switches = "switches",
        /// A PCIe host bridge (PHB).
        HostBridge = "hostbridge",
        /// Several host bridges of one NUMA node (NODE).
        Node = "node",
        /// The interconnect of sockets (SYS).
        System = "system",
    }
}

open_enum! {
    /// Where the lanes of an NVLink pair end.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub enum Via {
        /// At the peer GPU.
        Direct = "direct",
        /// At an NVSwitch.
        Switch = "switch",
    }
}

/// The four classes that a claim may ask for and a placement reports; better ones are greater.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum LinkClass {
    /// Any path at all (SYS, unknown).
    #[default]
    Any,
    /// Through the host bridges of one NUMA node (PHB, NODE).
    Numa,
    /// Through PCIe switches or one board (PIX, PXB).
    Switch,
    /// NVLink.
    NvLink,
}

// === impl Link ===

impl Link {
    /// The class of this pair: NVLink where there is one, else its path's.
    #[must_use]
    pub fn class(&self) -> LinkClass {
        match &self.nvlink {
            Some(nvlink) if nvlink.lanes > 0 => LinkClass::NvLink,
            _ => self.path.class(),
        }
    }
}

// === impl Path ===

impl Path {
    /// The class that a path alone gives.
    #[must_use]
    pub fn class(self) -> LinkClass {
        match self {
            Self::Board | Self::Switch | Self::Switches => LinkClass::Switch,
            Self::HostBridge | Self::Node => LinkClass::Numa,
            Self::System | Self::Unknown => LinkClass::Any,
        }
    }

    /// The abbreviation of `nvidia-smi topo -m`; an unknown path is `N/A`.
    #[must_use]
    pub fn abbreviation(self) -> &'static str {
        match self {
            Self::Board | Self::Switch => "PIX",
            Self::Switches => "PXB",
            Self::HostBridge => "PHB",
            Self::Node => "NODE",
            Self::System => "SYS",
            Self::Unknown => "N/A",
        }
    }
}

// === impl LinkClass ===

impl LinkClass {
    /// The spelling used in annotations and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NvLink => "nvlink",
            Self::Switch => "switch",
            Self::Numa => "numa",
            Self::Any => "any",
        }
    }

    /// Reads a spelling.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::NvLink, Self::Switch, Self::Numa, Self::Any]
            .into_iter()
            .find(|class| class.as_str() == text)
    }
}

impl std::fmt::Display for LinkClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
