//! Splits CPUs among the ranks that were given the same ones. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::assignment::Rank;
use crate::cpus::CpuList;

use super::{Machine, Place};

/// Each rank's place: its CPUs within the process's mask, ranks with the same CPUs sharing them
/// out by whole cores, or by CPUs where there are fewer cores than ranks. Where there are fewer
/// CPUs than ranks, all of those ranks keep all of them.
#[must_use]
pub fn places(ranks: &[Rank], machine: &Machine) -> Vec<Place> {
    let usable: Vec<(CpuList, bool)> = ranks
        .iter()
        .map(|rank| usable(rank.cpus.as_ref(), machine))
        .collect();
    let mut sharers: BTreeMap<&CpuList, Vec<usize>> = BTreeMap::new();
    for (index, (cpus, mask_kept)) in usable.iter().enumerate() {
        if !mask_kept {
            sharers.entry(cpus).or_default().push(index);
        }
    }
    let place = |index: usize, rank: &Rank| {
        let (cpus, mask_kept) = &usable[index];
        let shared = sharers.get(cpus).and_then(|sharing| {
            let turn = sharing.iter().position(|sharer| *sharer == index)?;
            Some(share(cpus, turn, sharing.len(), machine))
        });
        Place {
            rank: rank.rank,
            gpu: rank.gpu.as_ref().map(|gpu| gpu.as_str().to_owned()),
            cpus_assigned: rank.cpus.clone(),
            // A rank that keeps the mask is not held to a share of it.
            cpus: shared.unwrap_or_else(|| cpus.clone()),
            mask_kept: *mask_kept,
            numa_node: rank.numa_node.map(|node| node.0),
        }
    };
    ranks
        .iter()
        .enumerate()
        .map(|(index, rank)| place(index, rank))
        .collect()
}

/// The assigned CPUs that may be used, and whether there were none of them.
fn usable(assigned: Option<&CpuList>, machine: &Machine) -> (CpuList, bool) {
    let Some(assigned) = assigned else {
        return (machine.allowed.clone(), false);
    };
    let usable = assigned.intersection(&machine.allowed);
    if usable.is_empty() {
        (machine.allowed.clone(), true)
    } else {
        (usable, false)
    }
}

fn share(cpus: &CpuList, turn: usize, sharer_count: usize, machine: &Machine) -> CpuList {
    let cores = machine.cores(cpus);
    if cores.len() >= sharer_count {
        return cores[part(cores.len(), sharer_count, turn)]
            .iter()
            .flatten()
            .copied()
            .collect();
    }
    if cpus.len() < sharer_count {
        return cpus.clone();
    }
    // By core first, so that the threads of one core go to one rank where they can.
    let flat: Vec<u32> = cores.into_iter().flatten().collect();
    flat[part(flat.len(), sharer_count, turn)]
        .iter()
        .copied()
        .collect()
}

/// The `turn`th of `count` runs of `total` things, as even as they can be, longer ones first.
fn part(total: usize, count: usize, turn: usize) -> Range<usize> {
    let (least, more) = (total / count, total % count);
    let start = turn * least + turn.min(more);
    start..start + least + usize::from(turn < more)
}
