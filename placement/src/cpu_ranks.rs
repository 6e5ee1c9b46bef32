//! Ranks without a GPU: each on one NUMA node, with CPUs of its own.

use std::collections::BTreeSet;

use berth_topology::assignment::{RANKS_MAX, Rank};
use berth_topology::claim;
use berth_topology::cpus::CpuList;
use berth_topology::names;

use crate::facts::NumaFacts;
use crate::machine::Machine;
use crate::place::Placement;
use crate::refusal::Refusal;

/// Spreads `rank_count` ranks over the NUMA nodes, so that the rank with the fewest CPUs has as many
/// as can be, and splits each node's CPUs among its ranks. Where there are more ranks than CPUs,
/// those of one node share them; on a machine that names no CPUs, ranks carry none.
///
/// # Errors
/// [`Refusal::BadClaim`] for no rank at all or more than an assignment holds.
pub fn place_cpus(machine: &Machine, rank_count: usize) -> Result<Placement, Refusal> {
    if !(1..=RANKS_MAX).contains(&rank_count) {
        return Err(Refusal::BadClaim(claim::Error::Annotation {
            name: names::TENSOR_PARALLEL_SIZE,
            value: rank_count.to_string(),
            allowed: "a whole number from 1 to 1024",
        }));
    }
    let numa = &machine.shape.facts.numa;
    let ranks = if numa.is_empty() {
        anywhere(rank_count)
    } else {
        spread(numa, rank_count)
    };
    let nodes: BTreeSet<_> = ranks.iter().filter_map(|rank| rank.numa_node).collect();
    Ok(Placement {
        ranks,
        numa_nodes: nodes.into_iter().collect(),
        score: 10,
        future: 10,
        ..Placement::default()
    })
}

fn anywhere(rank_count: usize) -> Vec<Rank> {
    (0..rank_count)
        .map(|rank| Rank {
            rank,
            ..Rank::default()
        })
        .collect()
}

fn spread(numa: &[NumaFacts], rank_count: usize) -> Vec<Rank> {
    let mut ranks_of = vec![0_usize; numa.len()];
    for _ in 0..rank_count {
        // a/b > c/d as a·d > c·b; of equal nodes the first.
        let roomier = (1..numa.len()).fold(0, |best, node| {
            let here = numa[node].cpus.len() * (ranks_of[best] + 1);
            if here > numa[best].cpus.len() * (ranks_of[node] + 1) {
                node
            } else {
                best
            }
        });
        ranks_of[roomier] += 1;
    }
    let parts = numa.iter().zip(ranks_of).flat_map(|(node, parts)| {
        split(&node.cpus, parts)
            .into_iter()
            .map(|cpus| (node.id, cpus))
    });
    let numbered = parts.enumerate();
    numbered
        .map(|(rank, (node, cpus))| Rank {
            rank,
            numa_node: Some(node),
            cpus: Some(cpus),
            ..Rank::default()
        })
        .collect()
}

/// Cuts a list into parts of about equal size. Where it is two runs of equal length, the usual
/// numbering of two threads a core, both are cut alike, so that a core's threads stay together.
fn split(cpus: &CpuList, parts: usize) -> Vec<CpuList> {
    let all: Vec<u32> = cpus.iter().collect();
    let (low, high) = all.split_at(all.len() / 2);
    let is_run = |half: &[u32]| half.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    let is_two_runs = low.len() == high.len()
        && is_run(low)
        && is_run(high)
        && low
            .last()
            .zip(high.first())
            .is_some_and(|(last, first)| last + 1 < *first);
    let runs: Vec<&[u32]> = if is_two_runs {
        vec![low, high]
    } else {
        vec![&all]
    };
    if runs[0].len() < parts {
        return split_evenly(&[&all], parts);
    }
    split_evenly(&runs, parts)
}

fn split_evenly(runs: &[&[u32]], parts: usize) -> Vec<CpuList> {
    let bounds =
        |part: usize, run: &[u32]| part * run.len() / parts..(part + 1) * run.len() / parts;
    let part = |part: usize| {
        runs.iter()
            .flat_map(|run| &run[bounds(part, run)])
            .copied()
            .collect()
    };
    let whole = || runs.iter().flat_map(|run| run.iter()).copied().collect();
    let is_too_short = runs.iter().map(|run| run.len()).sum::<usize>() < parts;
    (0..parts)
        .map(|index| if is_too_short { whole() } else { part(index) })
        .collect()
}
