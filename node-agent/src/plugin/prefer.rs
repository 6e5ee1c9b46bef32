//! GetPreferredAllocation: which of the devices on offer a container should get. Pure.
//!
//! 1. What the pod was promised that the kubelet should be asking for now.
//! 2. What a swap freed instead: an earlier pod of the same size was given this one's set.
//! 3. Another pod's set of the same size, if each of the two sets meets the other's requirements.
//! 4. For an init container: of what its pod was promised, as the others reuse it.
//! 5. What placement finds best, sparing what others were promised.
//!
//! The kubelet follows the answer as far as its topology manager lets it.

use std::collections::BTreeSet;

use berth_placement::{GpuSet, Machine, place};
use berth_topology::claim::{GpuClaim, Phase};
use berth_topology::ids::GpuUuid;

use super::promises::{Promises, Waiting, Want};

/// What the kubelet asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Devices to choose among, those that must be included too.
    pub available: BTreeSet<GpuUuid>,
    /// Devices that the container gets in any case.
    pub must_include: BTreeSet<GpuUuid>,
    /// How many it gets.
    pub size: usize,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// The devices, at most as many as were asked for, sorted.
    pub devices: BTreeSet<GpuUuid>,
    /// Where they are from.
    pub basis: Basis,
    /// For whom, `namespace/name`, as far as that can be concluded.
    pub pod: Option<String>,
}

/// Where an answer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The pod was promised exactly these.
    Promise,
    /// Another pod of the same size was: the two sets are swapped.
    Swap,
    /// An init container gets what its pod was promised for later.
    Init,
    /// Nothing was promised that can be given: placement's best.
    Placed,
}

// === impl Question ===

impl Question {
    fn admits(&self, devices: &BTreeSet<GpuUuid>) -> bool {
        devices.len() == self.size
            && devices.is_subset(&self.available)
            && self.must_include.is_subset(devices)
    }
}

// === impl Preference ===

impl Preference {
    fn of(devices: BTreeSet<GpuUuid>, basis: Basis, waiting: Option<&Waiting>) -> Self {
        Self {
            devices,
            basis,
            pod: waiting.map(|waiting| waiting.name.clone()),
        }
    }
}

/// Answers the kubelet's question.
#[must_use]
pub fn prefer(question: &Question, promises: &Promises, machine: &Machine) -> Preference {
    let Some((waiting, want)) = promises.asking(question.size) else {
        let claim = GpuClaim::of_count(question.size);
        let placed = placed(question, promises, None, &claim, machine);
        return Preference::of(placed, Basis::Placed, None);
    };
    let promised = want.promised();
    if question.admits(&promised) {
        return Preference::of(promised, Basis::Promise, Some(waiting));
    }
    if let Some(swapped) = swapped(question, promises, (waiting, want), machine) {
        return Preference::of(swapped, Basis::Swap, Some(waiting));
    }
    if let Some(init) = for_init(question, waiting, want) {
        return Preference::of(init, Basis::Init, Some(waiting));
    }
    let placed = placed(question, promises, Some(waiting), &want.claim, machine);
    Preference::of(placed, Basis::Placed, Some(waiting))
}

/// What a swap freed, else what another pod that waits was promised.
fn swapped(
    question: &Question,
    promises: &Promises,
    (waiting, want): (&Waiting, &Want),
    machine: &Machine,
) -> Option<BTreeSet<GpuUuid>> {
    let promised = want.promised();
    if promised.is_empty() {
        return None;
    }
    let freed = promises.instead_of(&promised);
    let is_open =
        |set: &&BTreeSet<GpuUuid>| question.admits(set) && meets(machine, &want.claim, set);
    if let Some(set) = freed.filter(is_open) {
        return Some(set.clone());
    }
    let others = promises.waiting.iter();
    let others = others.filter(|other| other.pod != waiting.pod);
    let mut sets = others.filter_map(|other| {
        let theirs = other.next()?;
        let set = theirs.promised();
        let is_fair = question.admits(&set)
            && meets(machine, &want.claim, &set)
            && meets(machine, &theirs.claim, &promised);
        is_fair.then_some(set)
    });
    sets.next()
}

/// Whether exactly `set` meets the hard requirements of `claim`.
fn meets(machine: &Machine, claim: &GpuClaim, set: &BTreeSet<GpuUuid>) -> bool {
    let positions = machine.set_of(set);
    positions.len() == claim.gpu_count
        && set.len() == claim.gpu_count
        && place(machine, positions, claim).is_ok()
}

/// The first ranks of the pod's later promises. The kubelet hands an init container's devices on to
/// the containers after it, those first.
fn for_init(question: &Question, waiting: &Waiting, want: &Want) -> Option<BTreeSet<GpuUuid>> {
    if want.phase != Phase::Init {
        return None;
    }
    let later = waiting
        .wants
        .iter()
        .filter_map(|want| want.promise.as_ref());
    let mut set = question.must_include.clone();
    for gpu in later.flat_map(berth_topology::assignment::ContainerAssignment::gpus) {
        if set.len() < question.size && question.available.contains(gpu) {
            set.insert(gpu.clone());
        }
    }
    (set.len() == question.size).then_some(set)
}

/// Without what others were promised if that does; then by the claim if that does.
fn placed(
    question: &Question,
    promises: &Promises,
    waiting: Option<&Waiting>,
    claim: &GpuClaim,
    machine: &Machine,
) -> BTreeSet<GpuUuid> {
    let reserved: BTreeSet<&GpuUuid> = promises
        .reserved(waiting.map(|waiting| &waiting.pod))
        .collect();
    let spared = question.available.iter();
    let spared: BTreeSet<GpuUuid> = spared
        .filter(|device| !reserved.contains(device))
        .cloned()
        .collect();
    let bare = GpuClaim::of_count(question.size);
    if question.must_include.is_empty() {
        for from in [&spared, &question.available] {
            for claim in [claim, &bare] {
                if let Ok(placement) = place(machine, machine.set_of(from), claim) {
                    return placement.gpus.into_iter().collect();
                }
            }
        }
    }
    filled(question, &spared, machine)
}

/// What must be included and the lowest of the others: first those that nobody was promised.
fn filled(question: &Question, spared: &BTreeSet<GpuUuid>, machine: &Machine) -> BTreeSet<GpuUuid> {
    let order = |devices: GpuSet| {
        devices
            .iter()
            .map(|position| machine.uuids()[position].clone())
    };
    let first = order(machine.set_of(spared));
    let then = order(machine.set_of(&question.available));
    let rest = first.chain(then).chain(question.available.iter().cloned());
    let mut set = question.must_include.clone();
    for device in rest {
        if set.len() >= question.size {
            break;
        }
        set.insert(device);
    }
    set
}

#[cfg(test)]
mod tests;
