//! The decision: which device each rank of each container was given.
//!
//! Travels as annotation [`names::ASSIGNMENT`] in the one Binding that sets the node, and, for one
//! container, in the environment variable [`ALLOCATION_ENV`] that the device plugin sets. The
//! environment is the truth, the annotation the intent. Rank order is ring order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cpus::CpuList;
use crate::ids::{GpuIndex, GpuUuid, NodeName, NumaId, PodUid};
use crate::link::LinkClass;
use crate::names;

/// Environment variable with one container's [`ContainerAssignment`], set by the device plugin.
pub const ALLOCATION_ENV: &str = "BERTH_ALLOCATION";
/// Longer texts are refused unread: sixteen containers of sixteen GPUs need a tenth of it.
pub const TEXT_BYTES_MAX: usize = 256 * 1024;
/// More ranks than any node has devices.
pub const RANKS_MAX: usize = 1_024;

/// What one pod was given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// [`names::SCHEMA`].
    pub schema: String,
    /// The pod it is for; optional in files of `berth up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<PodUid>,
    /// The node it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Hash of the topology that it was decided on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_hash: Option<String>,
    /// By container name.
    pub containers: BTreeMap<String, ContainerAssignment>,
}

/// What one container was given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerAssignment {
    /// In ring order, numbered through all groups; group = rank / K.
    pub ranks: Vec<Rank>,
    /// The weakest class between two GPUs of a group; absent for one GPU and for CPU ranks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weakest_link: Option<LinkClass>,
    /// What NVLink gives the set, in 10⁹ bytes a second, one direction; absent without NVLink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gb_per_second: Option<f64>,
}

/// One rank's place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rank {
    /// Number of the rank.
    pub rank: usize,
    /// The GPU; absent for CPU ranks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuUuid>,
    /// The GPU's index when it was decided. For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<GpuIndex>,
    /// NUMA node for the rank's memory; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<NumaId>,
    /// CPUs for the rank's threads, a preference; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuList>,
}

/// Why a text is not an assignment.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Longer than [`TEXT_BYTES_MAX`].
    #[error("assignment of {0} bytes is longer than the {TEXT_BYTES_MAX} allowed")]
    TooLong(usize),
    /// Not JSON of this form.
    #[error("reading the assignment")]
    Json(#[source] serde_json::Error),
    /// Written by an incompatible version.
    #[error("assignment has schema {0:?}; this build reads {SCHEMA:?}", SCHEMA = names::SCHEMA)]
    Schema(String),
    /// Ranks are not numbered 0, 1, 2, … or there are more than [`RANKS_MAX`].
    #[error("ranks of container {0:?} are not numbered from 0 without gaps")]
    Ranks(String),
    /// One GPU appears twice.
    #[error("GPU {0} is assigned twice")]
    GpuTwice(GpuUuid),
}

// === impl Assignment ===

impl Assignment {
    /// Reads an annotation or file, and checks what types alone cannot.
    ///
    /// # Errors
    /// When the text is too long, not an assignment, of another schema, or contradicts itself.
    pub fn decode(text: &str) -> Result<Self, Error> {
        let assignment: Self = parse(text)?;
        if assignment.schema != names::SCHEMA {
            return Err(Error::Schema(assignment.schema.chars().take(64).collect()));
        }
        for (name, container) in &assignment.containers {
            container.check_ranks(name)?;
        }
        check_gpus(assignment.gpus())?;
        Ok(assignment)
    }

    /// The text for the annotation or file.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("an assignment has only string keys")
    }

    /// Every GPU of the pod, container by container, in rank order.
    pub fn gpus(&self) -> impl Iterator<Item = &GpuUuid> {
        self.containers.values().flat_map(ContainerAssignment::gpus)
    }
}

// === impl ContainerAssignment ===

impl ContainerAssignment {
    /// Reads the value of [`ALLOCATION_ENV`].
    ///
    /// # Errors
    /// As [`Assignment::decode`].
    pub fn decode(text: &str) -> Result<Self, Error> {
        let container: Self = parse(text)?;
        container.check_ranks("")?;
        check_gpus(container.gpus())?;
        Ok(container)
    }

    /// The text for the environment.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("an assignment has only string keys")
    }

    /// Its GPUs in rank order.
    pub fn gpus(&self) -> impl Iterator<Item = &GpuUuid> {
        self.ranks.iter().filter_map(|rank| rank.gpu.as_ref())
    }

    fn check_ranks(&self, name: &str) -> Result<(), Error> {
        let numbered = self
            .ranks
            .iter()
            .enumerate()
            .all(|(position, rank)| rank.rank == position);
        if numbered && self.ranks.len() <= RANKS_MAX {
            Ok(())
        } else {
            Err(Error::Ranks(name.to_owned()))
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Error> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::TooLong(text.len()));
    }
    serde_json::from_str(text).map_err(Error::Json)
}

fn check_gpus<'a>(gpus: impl Iterator<Item = &'a GpuUuid>) -> Result<(), Error> {
    let mut seen = std::collections::BTreeSet::new();
    for gpu in gpus {
        if !seen.insert(gpu) {
            return Err(Error::GpuTwice(gpu.clone()));
        }
    }
    Ok(())
}
