//! A whole pod: its containers side by side, its init containers in their GPUs before them.

use std::collections::BTreeMap;

use berth_topology::assignment::ContainerAssignment;
use berth_topology::claim::{ContainerClaim, PodClaim};
use berth_topology::link::LinkClass;

use crate::machine::Machine;
use crate::place::{Choice, choose};
use crate::refusal::Refusal;
use crate::set::GpuSet;
use crate::shape::Shape;

/// Orders of containers that are tried when the first fails: every one up to four containers.
const PERMUTED_CONTAINERS_MAX: usize = 4;

/// What a pod would be given.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPlacement {
    /// By container. Init containers are not listed: they run in the GPUs of these, and an
    /// assignment names a GPU once.
    pub containers: BTreeMap<String, ContainerAssignment>,
    /// Every GPU that the pod holds at some time.
    pub gpus: GpuSet,
    /// Of the container that does worst, 0..=10.
    pub score: u8,
}

/// A pod that fits, without the assignment's texts: all that filter and prioritize need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodFit {
    /// Every GPU that the pod would hold.
    pub gpus: GpuSet,
    /// Of the container that does worst, 0..=10.
    pub score: u8,
    /// Of the container that does worst; absent where no group has two GPUs.
    pub weakest_link: Option<LinkClass>,
    /// 0..=10: what stays possible beside the whole pod, as [`crate::Placement::future`].
    pub future: u8,
}

/// One choice for each container with GPUs.
struct PodChoice {
    /// Container's place in the claim, and its choice.
    containers: Vec<(usize, Choice)>,
    fit: PodFit,
}

/// Places every container of a pod on `free`.
///
/// # Errors
/// The [`Refusal`] of the container that does not fit beside the others.
pub fn place_pod(
    machine: &Machine,
    free: GpuSet,
    claim: &PodClaim,
) -> Result<PodPlacement, Refusal> {
    let choice = choose_pod(&machine.shape, free, claim)?;
    let named = choice.containers.iter().map(|(index, choice)| {
        (
            claim.containers[*index].name.clone(),
            choice.assignment(machine),
        )
    });
    Ok(PodPlacement {
        containers: named.collect(),
        gpus: choice.fit.gpus,
        score: choice.fit.score,
    })
}

/// Whether and how well the pod fits: the decision of [`place_pod`], at a fraction of its cost.
///
/// # Errors
/// As [`place_pod`].
pub fn fit_pod(machine: &Machine, free: GpuSet, claim: &PodClaim) -> Result<PodFit, Refusal> {
    choose_pod(&machine.shape, free, claim).map(|choice| choice.fit)
}

fn choose_pod(shape: &Shape, free: GpuSet, claim: &PodClaim) -> Result<PodChoice, Refusal> {
    // One container's refusal already says whether anybody's leaving helps.
    let is_alone = claim.containers.len() <= 1 && claim.init.is_empty();
    let free = free.intersection(shape.usable);
    choose_together(shape, free, claim).map_err(|refusal| match refusal {
        refusal if is_alone || !refusal.is_resolvable() => refusal,
        refusal => match choose_together(shape, shape.usable, claim) {
            Ok(_) => refusal,
            Err(empty) => empty.on_empty_machine(),
        },
    })
}

fn choose_together(shape: &Shape, free: GpuSet, claim: &PodClaim) -> Result<PodChoice, Refusal> {
    let held = claim
        .containers
        .iter()
        .map(|container| container.claim.gpu_count)
        .sum();
    let greediest = claim.init.iter().max_by_key(|init| init.claim.gpu_count);
    let first = greediest.filter(|init| init.claim.gpu_count > held);
    // An init container that needs more than the rest together decides; they run in what it leaves.
    let within = match first {
        Some(init) => choose(shape, free, &init.claim)?.map_or(GpuSet::EMPTY, |choice| choice.set),
        None => free,
    };
    let containers = choose_side_by_side(shape, within, &claim.containers)?;
    let held = containers
        .iter()
        .fold(GpuSet::EMPTY, |held, (_, choice)| held.union(choice.set));
    let gpus = if first.is_some() { within } else { held };
    for init in &claim.init {
        choose(shape, gpus, &init.claim)?;
    }
    let score = containers
        .iter()
        .map(|(_, choice)| choice.score)
        .min()
        .unwrap_or(10);
    let weakest_link = containers
        .iter()
        .filter_map(|(_, choice)| choice.weakest_link)
        .min();
    Ok(PodChoice {
        containers,
        fit: PodFit {
            gpus,
            score,
            weakest_link,
            future: shape.future(free, gpus),
        },
    })
}

/// The largest first, as it is the hardest to place; where that fails every order is tried.
fn choose_side_by_side(
    shape: &Shape,
    free: GpuSet,
    containers: &[ContainerClaim],
) -> Result<Vec<(usize, Choice)>, Refusal> {
    let mut order: Vec<usize> = (0..containers.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(containers[*index].claim.gpu_count));
    let refusal = match choose_in_order(shape, free, containers, &order) {
        Err(refusal)
            if refusal.is_resolvable() && (2..=PERMUTED_CONTAINERS_MAX).contains(&order.len()) =>
        {
            refusal
        }
        settled => return settled,
    };
    let orders = permutations(&order);
    orders
        .iter()
        .find_map(|order| choose_in_order(shape, free, containers, order).ok())
        .ok_or(refusal)
}

fn choose_in_order(
    shape: &Shape,
    free: GpuSet,
    containers: &[ContainerClaim],
    order: &[usize],
) -> Result<Vec<(usize, Choice)>, Refusal> {
    let mut left = free;
    let mut chosen = Vec::with_capacity(order.len());
    for &index in order {
        let Some(choice) = choose(shape, left, &containers[index].claim)? else {
            continue;
        };
        left = left.difference(choice.set);
        chosen.push((index, choice));
    }
    Ok(chosen)
}

fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let starting_with = |first: &usize| {
        let rest: Vec<usize> = items.iter().copied().filter(|item| item != first).collect();
        permutations(&rest)
            .into_iter()
            .map(|tail| [&[*first], tail.as_slice()].concat())
            .collect::<Vec<_>>()
    };
    items.iter().flat_map(starting_with).collect()
}
