//! The search for one set for each container, in the order in which the kubelet admits them.
//!
//! Each container tries first what was proposed for all of them together, then the best that it can
//! be given, then every set that it can be given, until those after it fit as well.

use berth_topology::claim::{ContainerClaim, ContainerNeeds, GpuClaim, Phase, PodClaim};

use crate::free::Free;
use crate::kubelet::admission::{Admission, Offer};
use crate::kubelet::{Inexact, Kubelet};
use crate::machine::Machine;
use crate::place::{Choice, choose};
use crate::pod::{Admitted, PodFit};
use crate::refusal::Refusal;
use crate::set::GpuSet;
use crate::shape::Shape;

/// Orders of containers that are tried when the first fails: every one up to four containers.
const PERMUTED_CONTAINERS_MAX: usize = 4;

/// Sets that are tried for all containers together: some milliseconds. Only pods with several
/// containers with GPUs come near it, and only where the first choices do not fit.
const TRIES_MAX: usize = 1_000;

/// What each container is given.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// What was free before.
    free: GpuSet,
    inexact: Option<Inexact>,
}

/// One container.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    phase: Phase,
    pub(crate) choice: Option<Choice>,
    offer: Offer,
}

/// What one container asks for.
struct Asked<'a> {
    needs: &'a ContainerNeeds,
    claim: Option<&'a GpuClaim>,
    /// What was proposed for it beside the others.
    proposed: Option<GpuSet>,
}

struct Search<'a> {
    shape: &'a Shape,
    tries_left: usize,
}

/// A set for each container, out of `free`, of GPUs that work.
pub(crate) fn plan(machine: &Machine, free: &Free<'_>, claim: &PodClaim) -> Result<Plan, Refusal> {
    let containers = claim.admitted();
    if claim.gpu_count() > free.gpus.len() {
        return Err(too_few(&machine.shape, free.gpus, claim));
    }
    let admission = Admission::begin(&machine.kubelet, free, claim, &containers)?;
    let mut asked: Vec<Asked<'_>> = containers
        .iter()
        .map(|needs| Asked {
            needs,
            claim: claim_of(claim, needs),
            proposed: None,
        })
        .collect();
    if asked.iter().filter(|one| one.claim.is_some()).count() > 1 {
        propose(machine, &admission, claim, &mut asked);
    }
    let mut search = Search {
        shape: &machine.shape,
        tries_left: TRIES_MAX,
    };
    let plan = search.place(admission, &asked)?;
    Ok(Plan {
        free: free.gpus,
        ..plan
    })
}

/// Whether the topology manager lets the pod in when nobody else is there. Hints only get fewer, so
/// what is rejected then is rejected always.
pub(crate) fn is_ever_admitted(machine: &Machine, claim: &PodClaim) -> bool {
    let empty = Free::from(machine.usable());
    let containers = claim.admitted();
    let admission = Admission::begin(&machine.kubelet, &empty, claim, &containers);
    admission.is_ok_and(|admission| {
        let is_admitted = |needs| admission.clone().offer(needs).is_ok();
        containers.iter().all(is_admitted)
    })
}

/// A container that could not be placed alone says why better than the count.
fn too_few(shape: &Shape, free: GpuSet, claim: &PodClaim) -> Refusal {
    let all = claim.containers.iter().chain(&claim.init);
    let alone = all.filter_map(|container| choose(shape, free, &container.claim).err());
    alone.into_iter().next().unwrap_or(Refusal::NotEnoughFree)
}

fn claim_of<'a>(claim: &'a PodClaim, needs: &ContainerNeeds) -> Option<&'a GpuClaim> {
    let list: &[ContainerClaim] = match needs.phase {
        Phase::Init => &claim.init,
        Phase::Sidecar | Phase::Main => &claim.containers,
    };
    let container = list.iter().find(|container| container.name == needs.name)?;
    (container.claim.gpu_count > 0).then_some(&container.claim)
}

/// Proposes sets for the containers that stay, the largest first, and for each init container room
/// inside them: an init container that takes others makes the pod hold more.
fn propose(
    machine: &Machine,
    admission: &Admission<'_>,
    claim: &PodClaim,
    asked: &mut [Asked<'_>],
) {
    let within = proposal_room(&machine.kubelet, admission, asked);
    let Ok(sets) = choose_side_by_side(&machine.shape, within, &claim.containers) else {
        return;
    };
    let mut next = None;
    for one in asked.iter_mut().rev().filter(|one| one.claim.is_some()) {
        if one.needs.phase == Phase::Init {
            one.proposed = next;
            continue;
        }
        let of_name =
            |(index, _): &&(usize, GpuSet)| claim.containers[*index].name == one.needs.name;
        one.proposed = sets.iter().find(of_name).map(|(_, set)| *set);
        next = one.proposed;
    }
}

/// What the containers that stay can be given, as if they came first.
fn proposal_room(kubelet: &Kubelet, admission: &Admission<'_>, asked: &[Asked<'_>]) -> GpuSet {
    let mut admission = admission.clone();
    let stays = |one: &&Asked<'_>| one.claim.is_some() && one.needs.phase != Phase::Init;
    let first = asked.iter().find(stays);
    let offer = first.and_then(|one| admission.offer(one.needs).ok());
    match offer.filter(|_| kubelet.aligns()) {
        Some(offer) => offer.must.union(offer.from),
        None => admission.reachable(),
    }
}

/// The largest first, as it is the hardest to place; where that fails every order is tried.
fn choose_side_by_side(
    shape: &Shape,
    free: GpuSet,
    containers: &[ContainerClaim],
) -> Result<Vec<(usize, GpuSet)>, Refusal> {
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
) -> Result<Vec<(usize, GpuSet)>, Refusal> {
    let mut left = free;
    let mut chosen = Vec::with_capacity(order.len());
    for &index in order {
        let Some(choice) = choose(shape, left, &containers[index].claim)? else {
            continue;
        };
        left = left.difference(choice.set);
        chosen.push((index, choice.set));
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

// === impl Search ===

impl Search<'_> {
    fn place(
        &mut self,
        mut admission: Admission<'_>,
        asked: &[Asked<'_>],
    ) -> Result<Plan, Refusal> {
        let Some((one, rest)) = asked.split_first() else {
            return Ok(Plan {
                steps: Vec::new(),
                free: GpuSet::EMPTY,
                inexact: admission.doubt(),
            });
        };
        let offer = admission.offer(one.needs)?;
        let Some(claim) = one.claim else {
            return self.with(admission, one, rest, (offer, None));
        };
        let mut refusal = None;
        for choice in self.first_choices(&admission, one, claim, offer) {
            match choice
                .and_then(|choice| self.with(admission.clone(), one, rest, (offer, Some(choice))))
            {
                Ok(plan) => return Ok(plan),
                Err(no) => refusal = refusal.or(Some(no)),
            }
        }
        let refusal = refusal.unwrap_or(Refusal::NotEnoughFree);
        // The last container's own best is all that it can be given.
        let is_settled = rest.iter().all(|later| later.claim.is_none()) && offer.must.is_empty();
        if !refusal.is_resolvable() || is_settled {
            return Err(refusal);
        }
        self.any(&admission, one, rest, (offer, claim))
            .ok_or(refusal)
    }

    /// The rest of the pod after `one` has got its GPUs.
    fn with(
        &mut self,
        mut admission: Admission<'_>,
        one: &Asked<'_>,
        rest: &[Asked<'_>],
        (offer, choice): (Offer, Option<Choice>),
    ) -> Result<Plan, Refusal> {
        let set = choice.as_ref().map_or(GpuSet::EMPTY, |choice| choice.set);
        admission.take(one.needs, offer.mask, set)?;
        let mut plan = self.place(admission, rest)?;
        let step = Step {
            phase: one.needs.phase,
            choice,
            offer,
        };
        plan.steps.insert(0, step);
        Ok(plan)
    }

    /// What was proposed, then the best that it can be given, or why there is none.
    fn first_choices(
        &mut self,
        admission: &Admission<'_>,
        one: &Asked<'_>,
        claim: &GpuClaim,
        offer: Offer,
    ) -> Vec<Result<Choice, Refusal>> {
        let all = offer.must.union(offer.from);
        let proposed = one
            .proposed
            .map(|set| set.union(offer.must).intersection(all));
        let proposed = proposed.and_then(|set| self.choose(set, claim, offer).ok());
        let best = self.choose(all, claim, offer).map_err(|no| {
            // What links or NUMA nodes do not allow anyway is not the kubelet's doing.
            match choose(self.shape, admission.reachable(), claim) {
                Ok(_) => Refusal::KubeletWouldRefuse,
                Err(anyway) if no == Refusal::KubeletWouldRefuse => anyway,
                Err(_) => no,
            }
        });
        proposed.map(Ok).into_iter().chain([best]).collect()
    }

    /// The best of `set` that is within the offer.
    fn choose(&self, set: GpuSet, claim: &GpuClaim, offer: Offer) -> Result<Choice, Refusal> {
        let choice = choose(self.shape, set, claim)?.ok_or(Refusal::NotEnoughFree)?;
        if offer.must.is_subset(choice.set) {
            Ok(choice)
        } else {
            Err(Refusal::KubeletWouldRefuse)
        }
    }

    /// Every set that it can be given, until the rest fits.
    fn any(
        &mut self,
        admission: &Admission<'_>,
        one: &Asked<'_>,
        rest: &[Asked<'_>],
        (offer, claim): (Offer, &GpuClaim),
    ) -> Option<Plan> {
        let more = claim.gpu_count.checked_sub(offer.must.len())?;
        let from: Vec<usize> = offer.from.iter().collect();
        let mut picked: Vec<usize> = (0..more).collect();
        if more > from.len() {
            return None;
        }
        loop {
            self.tries_left = self.tries_left.checked_sub(1)?;
            let some = picked.iter().map(|index| from[*index]);
            let set = some.collect::<GpuSet>().union(offer.must);
            let choice = self.choose(set, claim, offer);
            if let Ok(choice) = choice
                && let Ok(plan) = self.with(admission.clone(), one, rest, (offer, Some(choice)))
            {
                return Some(plan);
            }
            if !advance(&mut picked, from.len()) {
                return None;
            }
        }
    }
}

/// The next combination of as many indices below `count`; `false` after the last.
fn advance(picked: &mut [usize], count: usize) -> bool {
    let size = picked.len();
    let movable = |place: &usize| picked[*place] < count - size + place;
    let Some(place) = (0..size).rev().find(movable) else {
        return false;
    };
    let start = picked[place] + 1;
    for (offset, index) in picked[place..].iter_mut().enumerate() {
        *index = start + offset;
    }
    true
}

// === impl Plan ===

impl Plan {
    pub(crate) fn fit(&self, shape: &Shape) -> PodFit {
        let sets = self.steps.iter().map(Step::set);
        let gpus = sets.fold(GpuSet::EMPTY, GpuSet::union);
        let stays = self.steps.iter().filter(|step| step.phase != Phase::Init);
        let choices = stays.filter_map(|step| step.choice.as_ref());
        PodFit {
            gpus,
            score: choices
                .clone()
                .map(|choice| choice.score)
                .min()
                .unwrap_or(10),
            weakest_link: choices.filter_map(|choice| choice.weakest_link).min(),
            future: shape.future(self.free, gpus),
            inexact: self.inexact,
        }
    }

    pub(crate) fn admitted(
        &self,
        machine: &Machine,
        containers: &[ContainerNeeds],
    ) -> Vec<Admitted> {
        let steps = containers.iter().zip(&self.steps);
        let admitted = steps.map(|(needs, step)| Admitted {
            container: needs.name.clone(),
            numa_nodes: step.offer.mask.map(|mask| machine.kubelet.numa_ids(mask)),
            gpus: step.set(),
        });
        admitted.collect()
    }
}

// === impl Step ===

impl Step {
    fn set(&self) -> GpuSet {
        self.choice
            .as_ref()
            .map_or(GpuSet::EMPTY, |choice| choice.set)
    }
}
