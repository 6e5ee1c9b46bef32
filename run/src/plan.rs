//! What each process gets: variables, CPUs, memory. Pure.
//!
//! ```text
//! assignment ─┐                      ┌─ without --per-rank: one process for all ranks
//! container  ─┼─▶ places, GPUs ──▶ ──┤
//! wish       ─┘                      └─ with it: one for each rank
//! ```

use std::collections::BTreeSet;

use berth_topology::assignment::ContainerAssignment;
use berth_topology::cpus::CpuList;
use berth_topology::places::{Machine, Place, places};
use serde::Serialize;

use crate::container::Container;
use crate::source::Origin;

mod gpus;
mod variables;

pub use variables::{Outcome, Variable};

/// What the user asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// One process for each rank.
    pub per_rank: bool,
    /// Variables that are set already are replaced.
    pub replace: bool,
    /// Where the ranks meet.
    pub master_port: u16,
}

/// All that is done, decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Who assigned it; absent where nobody did.
    pub origin: Option<String>,
    /// The ranks; none where the command runs unchanged.
    pub ranks: Vec<RankPlan>,
    /// One, or one for each rank.
    pub processes: Vec<Process>,
    /// What the user should know, in sentences.
    pub notes: Vec<String>,
}

/// One rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RankPlan {
    /// Its number.
    pub rank: usize,
    /// Its GPU's UUID; absent for CPU ranks.
    pub gpu: Option<String>,
    /// The GPU's index in this container; absent where it cannot be told, and for MIG instances.
    pub gpu_index: Option<usize>,
    /// The CPUs that are its own.
    pub cpus: CpuList,
    /// Its NUMA node.
    pub numa_node: Option<u32>,
}

/// One process to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// The rank that it is; absent for one that is all of them.
    pub rank: Option<usize>,
    /// CPUs to run on; none where the mask stays.
    pub cpus: CpuList,
    /// NUMA nodes that memory comes from first; none where the policy stays.
    pub memory_nodes: CpuList,
    /// Variables, with what becomes of each.
    pub variables: Vec<Variable>,
}

/// Why an assignment cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A GPU that was assigned is not in the container.
    #[error(
        "rank {rank} was given {gpu} by {origin}, and the container does not have it; it has {has}"
    )]
    NotHere {
        /// The rank.
        rank: usize,
        /// Its GPU.
        gpu: String,
        /// Who said so.
        origin: String,
        /// What is there.
        has: String,
    },
}

/// Decides everything.
///
/// # Errors
/// When a GPU that was assigned is not in the container.
pub fn plan(
    origin: &Origin,
    assigned: &ContainerAssignment,
    container: &Container,
    wish: &Wish,
) -> Result<Plan, Error> {
    let places = places(&assigned.ranks, &container.machine);
    let indices = gpus::indices(&places, &container.gpus, origin)?;
    let mut notes: Vec<String> = places
        .iter()
        .filter_map(|place| cpu_note(place, &container.machine))
        .collect();
    let values = variables::Values::new(&places, &indices, container, wish);
    notes.extend(values.notes());
    let processes: Vec<Process> = if wish.per_rank {
        let one = |place| process(std::slice::from_ref(place), Some(place.rank), &values);
        places.iter().map(one).collect()
    } else {
        vec![process(&places, None, &values)]
    };
    notes.extend(memory_note(&places, &container.machine));
    notes.extend(variable_notes(&processes));
    Ok(Plan {
        origin: Some(origin.to_string()),
        ranks: places
            .iter()
            .zip(&indices)
            .map(|(place, index)| RankPlan::new(place, *index))
            .collect(),
        processes,
        notes,
    })
}

fn process(places: &[Place], rank: Option<usize>, values: &variables::Values<'_>) -> Process {
    let union = |cpus: CpuList, place: &Place| cpus.union(&place.cpus);
    Process {
        rank,
        cpus: places.iter().fold(CpuList::default(), union),
        memory_nodes: memory_nodes(places, &values.container.machine),
        variables: values.of(rank),
    }
}

/// Nodes to prefer; none where they are all that there is, for that is what the kernel does anyway,
/// and none where one rank's node is not known.
fn memory_nodes(places: &[Place], machine: &Machine) -> CpuList {
    let known: Option<CpuList> = places.iter().map(|place| place.numa_node).collect();
    let nodes = known
        .unwrap_or_default()
        .intersection(&machine.memory_nodes);
    if machine.memory_nodes.is_subset(&nodes) {
        CpuList::default()
    } else {
        nodes
    }
}

fn cpu_note(place: &Place, machine: &Machine) -> Option<String> {
    let assigned = place.cpus_assigned.as_ref()?;
    let (rank, allowed) = (place.rank, &machine.allowed);
    if place.mask_kept {
        return Some(format!(
            "rank {rank}: none of its CPUs {assigned} may be used here, {allowed} may: the mask stays"
        ));
    }
    let foreign = assigned.difference(allowed);
    (!foreign.is_empty())
        .then(|| format!("rank {rank}: of its CPUs {assigned} the container may not use {foreign}"))
}

fn memory_note(places: &[Place], machine: &Machine) -> Option<String> {
    let known: CpuList = places.iter().filter_map(|place| place.numa_node).collect();
    let foreign = known.difference(&machine.memory_nodes);
    (!foreign.is_empty()).then(|| {
        format!(
            "memory of NUMA nodes {foreign} may not be used here, that of {} may",
            machine.memory_nodes
        )
    })
}

/// Said once, even if every rank's process has it.
fn variable_notes(processes: &[Process]) -> BTreeSet<String> {
    let all = processes.iter().flat_map(|process| &process.variables);
    all.filter_map(Variable::note).collect()
}

// === impl Plan ===

impl Plan {
    /// The command as it is, and why.
    #[must_use]
    pub fn unchanged(reason: String) -> Self {
        Self {
            origin: None,
            ranks: Vec::new(),
            processes: vec![Process::default()],
            notes: vec![format!("{reason}; the command runs unchanged")],
        }
    }
}

// === impl RankPlan ===

impl RankPlan {
    fn new(place: &Place, gpu_index: Option<usize>) -> Self {
        Self {
            rank: place.rank,
            gpu: place.gpu.clone(),
            gpu_index,
            cpus: place.cpus.clone(),
            numa_node: place.numa_node,
        }
    }
}

#[cfg(test)]
mod tests;
