//! From what a container was told to where each of its ranks runs. Pure.
//!
//! ```text
//! BERTH_ALLOCATION (the truth) ─► assignment file (the intent) ─► own part: ranks
//!                        each rank: its CPUs ∩ our own mask, split where ranks share them
//! ```
//!
//! Shared by whoever runs in the container: the engine, and `berth-run` for any other one.

use std::collections::BTreeMap;

use crate::assignment::{self, ALLOCATION_ENV, Assignment, ContainerAssignment};
use crate::cpus::{CpuList, NumberList};

mod split;

pub use split::places;

/// Where the annotation lies as a file, by the downward API.
pub const ASSIGNMENT_PATH: &str = "/etc/berth/assignment";
/// Environment variable with the container's own name.
pub const CONTAINER_ENV: &str = "BERTH_CONTAINER";
/// Environment variable with the pod's uid.
pub const POD_UID_ENV: &str = "BERTH_POD_UID";
/// Environment variable with the node's name.
pub const NODE_ENV: &str = "BERTH_NODE";

/// What tells a process which container of which pod it is.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// [`ALLOCATION_ENV`]: this container's own part, for the devices it really got.
    pub allocation: Option<String>,
    /// [`CONTAINER_ENV`].
    pub container: Option<String>,
    /// [`POD_UID_ENV`].
    pub pod_uid: Option<String>,
    /// [`NODE_ENV`].
    pub node: Option<String>,
}

/// What an assignment file says to one container.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// A pod without the annotation has an empty file.
    Nothing,
    /// It is for another pod or node, and so for nobody here.
    Foreign {
        /// The pod it names.
        pod_uid: Option<String>,
        /// The node it names.
        node: Option<String>,
    },
    /// This container's ranks.
    Own(ContainerAssignment),
}

/// Why an assignment file says nothing usable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no assignment.
    #[error(transparent)]
    Decode(#[from] assignment::Error),
    /// Several containers, and nobody said which we are; or a name that is not there.
    #[error(
        "the assignment has containers {names}, and {wanted}: set {CONTAINER_ENV} to one of them"
    )]
    Container {
        /// Names in the assignment.
        names: String,
        /// What we know of ourselves.
        wanted: String,
    },
}

/// CPUs and memory nodes that a process may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The process's own mask.
    pub allowed: CpuList,
    /// The first CPU of its core, by CPU; a CPU that is not here is a core of its own.
    pub core_of: BTreeMap<u32, u32>,
    /// Memory nodes that pages may come from.
    pub memory_nodes: NumberList,
}

/// One rank's place, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number.
    pub rank: usize,
    /// UUID; absent for CPU ranks.
    pub gpu: Option<String>,
    /// What was asked for; absent when nothing was.
    pub cpus_assigned: Option<CpuList>,
    /// What the rank is pinned to, never empty on a sound machine.
    pub cpus: CpuList,
    /// None of the assigned CPUs may be used here, so the mask is the process's own.
    pub mask_kept: bool,
    /// NUMA node for its memory; absent when unknown.
    pub numa_node: Option<u32>,
}

// === impl Identity ===

impl Identity {
    /// From the environment, as `look_up` reads it. An empty value says nothing.
    pub fn read(look_up: impl Fn(&str) -> Option<String>) -> Self {
        let read = |name| look_up(name).filter(|value| !value.is_empty());
        Self {
            allocation: read(ALLOCATION_ENV),
            container: read(CONTAINER_ENV),
            pod_uid: read(POD_UID_ENV),
            node: read(NODE_ENV),
        }
    }

    /// What the text of an assignment file says to this container.
    ///
    /// # Errors
    /// When it is no assignment, or does not tell which of its containers this is.
    pub fn part_of(&self, text: &str) -> Result<Part, Error> {
        if text.trim().is_empty() {
            return Ok(Part::Nothing);
        }
        let assignment = Assignment::decode(text)?;
        let pod_uid = assignment.pod_uid.as_ref().map(|uid| uid.as_str());
        let node = assignment.node.as_ref().map(|node| node.as_str());
        if differ(pod_uid, self.pod_uid.as_deref()) || differ(node, self.node.as_deref()) {
            return Ok(Part::Foreign {
                pod_uid: pod_uid.map(str::to_owned),
                node: node.map(str::to_owned),
            });
        }
        own_part(assignment, self.container.as_deref()).map(Part::Own)
    }
}

/// Who is not named on one side does not contradict the other.
fn differ(written: Option<&str>, own: Option<&str>) -> bool {
    matches!((written, own), (Some(written), Some(own)) if written != own)
}

fn own_part(
    mut assignment: Assignment,
    container: Option<&str>,
) -> Result<ContainerAssignment, Error> {
    let names: Vec<String> = assignment.containers.keys().cloned().collect();
    let (found, wanted) = match (container, names.as_slice()) {
        (Some(name), _) => (
            assignment.containers.remove(name),
            format!("this one is said to be {name:?}"),
        ),
        (None, [only]) => (assignment.containers.remove(only), String::new()),
        (None, _) => (None, "nothing says which is this one".to_owned()),
    };
    found.ok_or_else(|| Error::Container {
        names: names.join(", "),
        wanted,
    })
}

// === impl Machine ===

impl Machine {
    /// The cores that `cpus` are of, each as its CPUs.
    #[must_use]
    pub fn cores(&self, cpus: &CpuList) -> Vec<Vec<u32>> {
        let mut cores: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for cpu in cpus.iter() {
            cores
                .entry(self.core_of.get(&cpu).copied().unwrap_or(cpu))
                .or_default()
                .push(cpu);
        }
        cores.into_values().collect()
    }
}
