//! One container: which GPUs, in which order, or why not.

use std::collections::BTreeSet;

use berth_topology::assignment::{ContainerAssignment, Rank};
use berth_topology::claim::GpuClaim;
use berth_topology::ids::{GpuUuid, NumaId};
use berth_topology::link::LinkClass;

use crate::cpu_ranks::place_cpus;
use crate::criteria::{Ranked, Ranking};
use crate::facts::Facts;
use crate::machine::Machine;
use crate::quality::{Bandwidth, weakest_link};
use crate::refusal::Refusal;
use crate::ring;
use crate::search::{Room, Search};
use crate::set::GpuSet;
use crate::shape::Shape;
use crate::want::{Rule, Want};

/// What one container would be given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    /// The GPUs in rank order, group by group, each in ring order. Empty for CPU ranks.
    pub gpus: Vec<GpuUuid>,
    /// The same as positions on the machine.
    pub set: GpuSet,
    /// Each rank's GPU, NUMA node and CPUs.
    pub ranks: Vec<Rank>,
    /// The weakest class between two GPUs of a group; absent for groups of one and CPU ranks.
    pub weakest_link: Option<LinkClass>,
    /// What NVLink gives the worst group, in 10⁹ bytes a second, one direction; absent where NVLink
    /// does not join every group.
    pub gb_per_second: Option<f64>,
    /// NUMA nodes of the GPUs, ascending; those that are unknown are left out.
    pub numa_nodes: Vec<NumaId>,
    /// 0..=10: ten times its bandwidth over the best of such groups on this machine with every
    /// usable GPU free, rounded down.
    pub score: u8,
    /// 0..=10: ten times the expected future feasibility that remains, over that before, rounded
    /// down. Feasibility of some free GPUs: for each size of the [`crate::Mix`], its weight × the
    /// quality of the best group of that size among them, summed; quality is 0 for a size that does
    /// not fit, else ¼ for being there, ½ × bandwidth over the best of that size on this machine, ¼
    /// × the least NUMA nodes for that size over those it spans. 10 for CPU ranks.
    pub future: u8,
}

/// A decision by position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice {
    /// Positions in rank order.
    pub(crate) order: Vec<usize>,
    pub(crate) set: GpuSet,
    pub(crate) score: u8,
    pub(crate) future: u8,
    pub(crate) weakest_link: Option<LinkClass>,
    bandwidth: Bandwidth,
}

/// Chooses the GPUs for `claim` out of `free`, best first by the order in the crate's
/// documentation, or says why none fit.
///
/// Reasons that hold whoever leaves come first. A claim for no GPU but with a tensor-parallel size is
/// for so many CPU ranks, as [`place_cpus`] places them; without one it is an empty placement.
///
/// # Errors
/// The [`Refusal`]: a value for people, not a failure.
pub fn place(machine: &Machine, free: GpuSet, claim: &GpuClaim) -> Result<Placement, Refusal> {
    if let (0, Some(rank_count)) = (claim.gpu_count, claim.tensor_parallel_size) {
        return place_cpus(machine, rank_count);
    }
    let choice = choose(&machine.shape, free, claim)?;
    Ok(choice
        .map(|choice| choice.placement(machine))
        .unwrap_or_else(Placement::empty))
}

/// `None` for a claim without GPUs.
pub(crate) fn choose(
    shape: &Shape,
    free: GpuSet,
    claim: &GpuClaim,
) -> Result<Option<Choice>, Refusal> {
    let Some(want) = Want::read(claim)? else {
        return Ok(None);
    };
    shape
        .memo
        .recall(free, &want, || decide(shape, free, &want))
        .map(Some)
}

/// The best `limit` sets that one group of `claim` could have out of `free`, best first, each with
/// what it is judged by. Of several groups these are what the first could have.
///
/// # Errors
/// As [`place`].
pub fn ranked(
    machine: &Machine,
    free: GpuSet,
    claim: &GpuClaim,
    limit: usize,
) -> Result<Ranking, Refusal> {
    let shape = &machine.shape;
    let Some(want) = Want::read(claim)? else {
        return Ok(Ranking::default());
    };
    decide(shape, free, &want)?;
    let room = Room {
        free: free.intersection(want.eligible(shape)?),
        around: free.intersection(shape.usable),
    };
    let best = Search::new(shape, &want.rule).ranked(room, limit);
    let sets = best.criteria.into_iter().map(|criteria| Ranked {
        order: ring::order(&shape.edges, criteria.set),
        set: criteria.set,
        criteria,
    });
    Ok(Ranking {
        sets: sets.collect(),
        candidate_count: best.candidate_count,
        is_complete: best.is_complete,
    })
}

fn decide(shape: &Shape, free: GpuSet, want: &Want) -> Result<Choice, Refusal> {
    let eligible = want.eligible(shape)?;
    let room = Room {
        free: free.intersection(eligible),
        around: free.intersection(shape.usable),
    };
    match Search::new(shape, &want.rule).best_groups(room) {
        Some(groups) => Ok(Choice::of(shape, &want.rule, &groups, room.around)),
        None => Err(why_not(shape, &want.rule, eligible, room.free)),
    }
}

/// Why no groups were found in `free`, a subset of `eligible`.
fn why_not(shape: &Shape, rule: &Rule, eligible: GpuSet, free: GpuSet) -> Refusal {
    let fits = |rule: &Rule, set| Search::new(shape, rule).fits(set);
    let any_link = Rule {
        link_required: LinkClass::Any,
        ..rule.clone()
    };
    let refusal = |set| {
        if fits(&any_link, set) {
            Refusal::LinkTooWeak
        } else {
            Refusal::NumaSpan
        }
    };
    if !fits(rule, eligible) {
        let is_unknown = |position: usize| shape.facts.gpus[position].numa.is_none();
        return match refusal(eligible) {
            Refusal::NumaSpan if eligible.iter().any(is_unknown) => Refusal::NumaUnknown,
            other => other.on_empty_machine(),
        };
    }
    if free.len() < rule.gpu_count() {
        Refusal::NotEnoughFree
    } else {
        refusal(free)
    }
}

// === impl Choice ===

impl Choice {
    fn of(shape: &Shape, rule: &Rule, groups: &[GpuSet], around: GpuSet) -> Self {
        let worst = groups
            .iter()
            .map(|group| shape.bandwidth(*group))
            .min()
            .unwrap_or(Bandwidth::Alone);
        let best = shape
            .best(rule.group_size, rule.group_count)
            .unwrap_or(worst);
        let set = groups.iter().copied().fold(GpuSet::EMPTY, GpuSet::union);
        Self {
            order: groups
                .iter()
                .flat_map(|group| ring::order(&shape.edges, *group))
                .collect(),
            set,
            score: worst.score(best),
            future: shape.future(around, set),
            weakest_link: groups
                .iter()
                .filter_map(|group| weakest_link(&shape.facts, *group))
                .min(),
            bandwidth: worst,
        }
    }

    pub(crate) fn placement(&self, machine: &Machine) -> Placement {
        let facts = &machine.shape.facts;
        let numa: BTreeSet<NumaId> = self
            .set
            .iter()
            .filter_map(|position| facts.gpus[position].numa)
            .collect();
        Placement {
            gpus: self
                .order
                .iter()
                .map(|position| machine.uuids()[*position].clone())
                .collect(),
            set: self.set,
            ranks: self.ranks(machine),
            weakest_link: self.weakest_link,
            gb_per_second: self.bandwidth.gb_per_second(),
            numa_nodes: numa.into_iter().collect(),
            score: self.score,
            future: self.future,
        }
    }

    pub(crate) fn assignment(&self, machine: &Machine) -> ContainerAssignment {
        ContainerAssignment {
            ranks: self.ranks(machine),
            weakest_link: self.weakest_link,
            gb_per_second: self.bandwidth.gb_per_second(),
        }
    }

    fn ranks(&self, machine: &Machine) -> Vec<Rank> {
        let numbered = self.order.iter().enumerate();
        numbered
            .map(|(rank, position)| {
                rank_on(
                    &machine.shape.facts,
                    &machine.uuids()[*position],
                    rank,
                    *position,
                )
            })
            .collect()
    }
}

fn rank_on(facts: &Facts, uuid: &GpuUuid, rank: usize, position: usize) -> Rank {
    let gpu = &facts.gpus[position];
    Rank {
        rank,
        gpu: Some(uuid.clone()),
        index: Some(gpu.index),
        numa_node: gpu.numa,
        cpus: gpu.cpus.clone(),
    }
}

// === impl Placement ===

impl Placement {
    /// What is given to who asks for nothing.
    pub(crate) fn empty() -> Self {
        Self {
            score: 10,
            future: 10,
            ..Self::default()
        }
    }

    /// The part that an assignment carries.
    #[must_use]
    pub fn assignment(&self) -> ContainerAssignment {
        ContainerAssignment {
            ranks: self.ranks.clone(),
            weakest_link: self.weakest_link,
            gb_per_second: self.gb_per_second,
        }
    }
}
