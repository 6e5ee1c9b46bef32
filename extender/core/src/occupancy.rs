//! Which GPUs of a node are held, from intents and truths. Pure.
//!
//! An assignment on a pod is the intent; `allocations` of the NodeTopology are the truth. Truth
//! replaces intent per pod and container. Where one pod's truth covers part of another's intent, the
//! kubelet has swapped them: the other gets what the first was meant to have, if the sizes agree;
//! else its GPUs are unknown, and only their number counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_topology::allocation::Allocation;
use berth_topology::ids::GpuUuid;

use crate::pod::Holder;

/// What is held on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Occupancy {
    /// GPUs known to be held.
    pub held: BTreeSet<GpuUuid>,
    /// GPUs held of which only the number is known.
    pub unknown_count: usize,
}

/// One container that holds GPUs.
struct Slot<'a> {
    /// Position of its pod in the holders.
    pod: usize,
    intent: BTreeSet<&'a GpuUuid>,
    truth: Option<BTreeSet<&'a GpuUuid>>,
}

/// What `holders` hold, given what the kubelet has really given out.
pub(crate) fn occupancy(holders: &[Arc<Holder>], truths: &[&Allocation]) -> Occupancy {
    let (slots, strangers) = slots(holders, truths);
    let taken: BTreeSet<&GpuUuid> = slots
        .iter()
        .filter_map(|slot| slot.truth.as_ref())
        .flatten()
        .copied()
        .chain(strangers)
        .collect();
    let kept = keep(&slots, &taken);
    let swapped = swap(&slots, &taken, &kept);
    let mut pods: Vec<BTreeSet<&GpuUuid>> = vec![BTreeSet::new(); holders.len()];
    for (position, slot) in slots.iter().enumerate() {
        pods[slot.pod].extend(slot.truth.iter().flatten());
        pods[slot.pod].extend(kept[position].iter().chain(&swapped[position]));
    }
    let unknown = |(holder, known): (&Arc<Holder>, &BTreeSet<_>)| {
        holder.gpu_count.saturating_sub(known.len())
    };
    Occupancy {
        unknown_count: holders.iter().zip(&pods).map(unknown).sum(),
        held: taken
            .into_iter()
            .chain(pods.into_iter().flatten())
            .cloned()
            .collect(),
    }
}

/// Each container of each holder, and the GPUs of allocations whose pod is none of them (not seen
/// yet, or unnamed): those are held as well.
fn slots<'a>(
    holders: &'a [Arc<Holder>],
    truths: &[&'a Allocation],
) -> (Vec<Slot<'a>>, BTreeSet<&'a GpuUuid>) {
    let mut strangers = BTreeSet::new();
    let mut by_container: BTreeMap<(usize, &str), BTreeSet<&GpuUuid>> = BTreeMap::new();
    for truth in truths {
        match holders.iter().position(|holder| is_of(truth, holder)) {
            Some(pod) => by_container
                .entry((pod, &truth.container))
                .or_default()
                .extend(&truth.devices),
            None => strangers.extend(&truth.devices),
        }
    }
    let mut slots = Vec::new();
    for (pod, holder) in holders.iter().enumerate() {
        for (container, gpus) in &holder.intent {
            let truth = by_container.remove(&(pod, container.as_str()));
            slots.push(Slot {
                pod,
                intent: gpus.iter().collect(),
                truth,
            });
        }
    }
    let unplanned = by_container.into_iter();
    slots.extend(unplanned.map(|((pod, _), truth)| Slot {
        pod,
        intent: BTreeSet::new(),
        truth: Some(truth),
    }));
    (slots, strangers)
}

/// Joined by uid; by name only where the agent could not tell the uid.
pub(crate) fn is_of(truth: &Allocation, holder: &Holder) -> bool {
    match &truth.pod_uid {
        Some(uid) => *uid == holder.uid || holder.static_uid.as_ref() == Some(uid),
        None => truth.namespace == holder.namespace && truth.name == holder.name,
    }
}

/// Containers of `holders` that were given other GPUs than they were assigned.
pub(crate) fn mismatch_count(holders: &[Arc<Holder>], truths: &[&Allocation]) -> usize {
    let (slots, _) = slots(holders, truths);
    let differs = |slot: &&Slot<'_>| {
        let is_assigned = !slot.intent.is_empty();
        is_assigned
            && slot
                .truth
                .as_ref()
                .is_some_and(|truth| *truth != slot.intent)
    };
    slots.iter().filter(differs).count()
}

/// What each intent still has. A GPU that two intents name is the first one's.
fn keep<'a>(slots: &[Slot<'a>], taken: &BTreeSet<&'a GpuUuid>) -> Vec<BTreeSet<&'a GpuUuid>> {
    let mut owners: BTreeMap<&GpuUuid, usize> = BTreeMap::new();
    let mut keep_of = |slot: &Slot<'a>| -> BTreeSet<&'a GpuUuid> {
        if slot.truth.is_some() {
            return BTreeSet::new();
        }
        let open = slot.intent.difference(taken).copied();
        open.filter(|gpu| *owners.entry(gpu).or_insert(slot.pod) == slot.pod)
            .collect()
    };
    slots.iter().map(&mut keep_of).collect()
}

/// What each intent got instead of what another's truth took from it.
fn swap<'a>(
    slots: &[Slot<'a>],
    taken: &BTreeSet<&'a GpuUuid>,
    kept: &[BTreeSet<&'a GpuUuid>],
) -> Vec<BTreeSet<&'a GpuUuid>> {
    let mut used: BTreeSet<&GpuUuid> = kept.iter().flatten().copied().collect();
    let mut swapped = vec![BTreeSet::new(); slots.len()];
    for (position, slot) in slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| slot.truth.is_none())
    {
        for culprit in slots {
            let Some(truth) = &culprit.truth else {
                continue;
            };
            let lost_count = slot.intent.intersection(truth).count();
            let freed: Vec<&GpuUuid> = culprit
                .intent
                .iter()
                .filter(|gpu| !taken.contains(*gpu) && !used.contains(*gpu))
                .copied()
                .collect();
            if lost_count > 0 && freed.len() == lost_count {
                used.extend(&freed);
                swapped[position].extend(freed);
            }
        }
    }
    swapped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(text: &str) -> Vec<GpuUuid> {
        text.split_whitespace().map(GpuUuid::from).collect()
    }

    /// `uid: count = gpus`, one container `c`.
    fn holder(text: &str) -> Arc<Holder> {
        let (uid, rest) = text.split_once(": ").unwrap();
        let (count, intent) = rest.split_once(" =").unwrap();
        let intent = [("c".to_owned(), gpus(intent))]
            .into_iter()
            .filter(|(_, gpus)| !gpus.is_empty());
        Arc::new(Holder {
            uid: uid.into(),
            namespace: "ns".to_owned(),
            name: uid.to_owned(),
            gpu_count: count.parse().unwrap(),
            cpu_count: 0,
            intent: intent.collect(),
            ..Holder::default()
        })
    }

    /// `uid = gpus`, container `c`; `?name` where the uid is unknown.
    fn truth(text: &str) -> Allocation {
        let (who, devices) = text.split_once(" = ").unwrap();
        let named = who.strip_prefix('?');
        Allocation {
            pod_uid: named.is_none().then(|| who.into()),
            namespace: "ns".to_owned(),
            name: named.unwrap_or(who).to_owned(),
            container: "c".to_owned(),
            devices: gpus(devices),
            ..Allocation::default()
        }
    }

    #[track_caller]
    fn check(holders: &[&str], truths: &[&str], held: &str, unknown_count: usize) {
        let holders: Vec<_> = holders.iter().map(|text| holder(text)).collect();
        let truths: Vec<_> = truths.iter().map(|text| truth(text)).collect();
        let seen = occupancy(&holders, &truths.iter().collect::<Vec<_>>());
        assert_eq!(
            seen,
            Occupancy {
                held: gpus(held).into_iter().collect(),
                unknown_count
            }
        );
    }

    #[test]
    fn an_intent_holds_its_gpus_until_the_truth_is_known() {
        check(&["a: 2 = 0 1"], &[], "0 1", 0);
        check(&["a: 2 = 0 1"], &["a = 2 3"], "2 3", 0);
    }

    #[test]
    fn a_pod_without_an_assignment_lowers_the_count_until_the_truth_names_its_gpus() {
        check(&["a: 2 ="], &[], "", 2);
        check(&["a: 2 ="], &["a = 4 5"], "4 5", 0);
        check(&["a: 2 ="], &["a = 4"], "4", 1);
    }

    #[test]
    fn an_equal_sized_swap_moves_the_other_intent_to_what_it_freed() {
        check(&["a: 2 = 0 1", "b: 2 = 2 3"], &["a = 2 3"], "0 1 2 3", 0);
        check(&["a: 2 = 0 1", "b: 2 = 2 3"], &["a = 1 2"], "0 1 2 3", 0);
    }

    #[test]
    fn an_unequal_swap_leaves_the_rest_unknown() {
        check(&["a: 1 = 0", "b: 2 = 2 3"], &["a = 2"], "0 2 3", 0);
        check(&["a: 2 =", "b: 2 = 2 3"], &["a = 2 3"], "2 3", 2);
        check(&["a: 2 = 0 1", "b: 1 = 2"], &["a = 2 3"], "2 3", 1);
    }

    #[test]
    fn an_allocation_of_a_pod_not_seen_yet_is_held() {
        check(&[], &["x = 6"], "6", 0);
        check(&["a: 1 = 6"], &["x = 6"], "6", 1);
    }

    #[test]
    fn a_pod_whose_uid_the_agent_could_not_tell_is_known_by_its_name() {
        check(&["a: 1 = 0"], &["?a = 3"], "3", 0);
    }

    #[test]
    fn two_intents_for_one_gpu_are_two_gpus_of_which_one_is_unknown() {
        check(&["a: 1 = 0", "b: 1 = 0"], &[], "0", 1);
    }

    proptest::proptest! {
        /// Whatever intents and truths say, no pod's GPUs are lost from the count.
        #[test]
        fn held_and_unknown_cover_every_pod_that_has_a_place(
            intents in proptest::collection::vec((0_usize..8, 1_usize..4), 1..4),
            swaps in proptest::collection::vec(0_usize..8, 0..3),
        ) {
            let holders: Vec<_> = intents.iter().enumerate().map(|(pod, (first, count))| {
                let list: Vec<String> = (0..*count).map(|step| ((first + step) % 8).to_string()).collect();
                holder(&format!("p{pod}: {count} = {}", list.join(" ")))
            }).collect();
            let truths: Vec<_> = swaps.iter().enumerate().map(|(pod, first)| {
                let count = intents.get(pod).map_or(1, |intent| intent.1);
                let list: Vec<String> = (0..count).map(|step| ((first + step) % 8).to_string()).collect();
                truth(&format!("p{pod} = {}", list.join(" ")))
            }).collect();
            let seen = occupancy(&holders, &truths.iter().collect::<Vec<_>>());
            let most: usize = holders.iter().map(|holder| holder.gpu_count).sum();
            let truth_gpus: BTreeSet<_> = truths.iter().flat_map(|truth| &truth.devices).collect();
            proptest::prop_assert!(truth_gpus.iter().all(|gpu| seen.held.contains(*gpu)));
            proptest::prop_assert!(seen.held.len() + seen.unknown_count <= most + truth_gpus.len());
        }
    }
}
