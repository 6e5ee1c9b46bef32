//! NUMA nodes of a machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cpus::CpuList;
use crate::ids::NumaId;

/// One NUMA node. Memory-only nodes (Grace GPU memory, CXL) are listed with no CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NumaNode {
    /// The kernel's number.
    pub id: NumaId,
    /// Its CPUs.
    #[serde(default)]
    pub cpus: CpuList,
    /// Its memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Huge pages by size.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub huge_pages: Vec<HugePages>,
    /// Distance to each NUMA node, in the order of the list (ACPI SLIT: 10 is itself).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distances: Vec<u32>,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HugePages {
    /// Size of a page in bytes.
    pub size_bytes: u64,
    /// How many are set aside in all.
    pub total: u64,
}
