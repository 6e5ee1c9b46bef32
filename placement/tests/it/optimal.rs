//! On random machines, what placement answers is what brute force finds.

use berth_placement::{GpuSet, Machine, Placement, Refusal, Shapes, place};
use berth_topology::claim::{GpuClaim, LinkPolicy, NumaPolicy};
use berth_topology::link::LinkClass;
use berth_topology::node::Status;
use proptest::prelude::*;

use crate::brute;
use crate::wiring::{any_machine, uuid};

fn any_claim() -> impl Strategy<Value = GpuClaim> {
    let link = proptest::sample::select(vec![
        LinkClass::Any,
        LinkClass::Numa,
        LinkClass::Switch,
        LinkClass::NvLink,
    ]);
    let policy = proptest::sample::select(vec![LinkPolicy::Prefer, LinkPolicy::Require]);
    let numa = proptest::sample::select(vec![
        NumaPolicy::Single,
        NumaPolicy::Prefer,
        NumaPolicy::Any,
    ]);
    (link, policy, numa, 1..=8_usize).prop_map(|(link, link_policy, numa, gpu_count)| GpuClaim {
        link,
        link_policy,
        numa,
        ..GpuClaim::of_count(gpu_count)
    })
}

fn positions(placement: &Placement) -> Vec<usize> {
    placement
        .gpus
        .iter()
        .map(|gpu| (0..64).find(|position| uuid(*position) == *gpu).unwrap())
        .collect()
}

fn worst(status: &Status, placement: &Placement, size: usize) -> brute::Bandwidth {
    let groups = positions(placement);
    groups
        .chunks(size)
        .map(|group| {
            let mut set = group.to_vec();
            set.sort_unstable();
            brute::bandwidth(status, &set)
        })
        .min()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// The set and the ring are the best there are; nothing is found where brute force finds nothing.
    #[test]
    fn one_group_is_the_best_one(status in any_machine(8), claim in any_claim(), free in 0_u64..256) {
        let machine = Machine::new(&status);
        let free = GpuSet::from_bits(free).intersection(machine.all());
        let expected = brute::best(&status, &free.iter().collect::<Vec<_>>(), &claim);
        let answer = place(&machine, free, &claim);
        prop_assert_eq!(
            answer.as_ref().ok().map(positions),
            expected.as_ref().map(|best| best.order.clone()),
            "{:?}", answer
        );
        if let (Ok(placement), Some(best)) = (&answer, &expected) {
            let gb = (best.bandwidth.0 == 1).then(|| best.bandwidth.1 as f64 / 1_000.0);
            prop_assert_eq!(placement.gb_per_second, gb);
        }
    }

    /// Of several groups, the worst is as good as it can be.
    #[test]
    fn of_several_groups_the_worst_is_the_best_possible(
        status in any_machine(8), claim in any_claim(), size in 1..=4_usize, free in 0_u64..256,
    ) {
        let gpu_count = size * (claim.gpu_count / size).max(1);
        let claim = GpuClaim { gpu_count, tensor_parallel_size: Some(size), ..claim };
        let machine = Machine::new(&status);
        let free = GpuSet::from_bits(free).intersection(machine.all());
        let expected = brute::best_worst(&status, &free.iter().collect::<Vec<_>>(), &claim);
        let answer = place(&machine, free, &claim).ok();
        prop_assert_eq!(answer.is_some(), expected.is_some());
        if let (Some(placement), Some((_, bandwidth))) = (answer, expected) {
            prop_assert_eq!(worst(&status, &placement, size), bandwidth);
            prop_assert_eq!(placement.ranks.len(), gpu_count);
        }
    }

    /// A refusal is resolvable exactly where the claim would fit an empty machine.
    #[test]
    fn a_refusal_says_truly_whether_leaving_helps(
        status in any_machine(8), claim in any_claim(), free in 0_u64..256,
    ) {
        let machine = Machine::new(&status);
        let free = GpuSet::from_bits(free).intersection(machine.all());
        if let Err(refusal) = place(&machine, free, &claim) {
            let fits_empty = place(&machine, machine.usable(), &claim).is_ok();
            prop_assert_eq!(refusal.is_resolvable(), fits_empty, "{:?}", refusal);
        }
    }

    /// What is given is free, usable, as many as asked for, and each once.
    #[test]
    fn only_free_gpus_are_given(status in any_machine(8), claim in any_claim(), free in 0_u64..256) {
        let machine = Machine::new(&status);
        let free = GpuSet::from_bits(free);
        if let Ok(placement) = place(&machine, free, &claim) {
            prop_assert_eq!(placement.set.len(), claim.gpu_count);
            prop_assert!(placement.set.is_subset(free.intersection(machine.usable())));
            prop_assert_eq!(machine.set_of(&placement.gpus), placement.set);
            prop_assert!(placement.score <= 10);
        }
    }

    /// In which order an agent lists its GPUs and pairs is no matter.
    #[test]
    fn the_order_of_listing_is_irrelevant(status in any_machine(6), claim in any_claim(), turn in 0..6_usize) {
        let mut turned = status.clone();
        let turn = turn % turned.gpus.len();
        turned.gpus.rotate_left(turn);
        turned.links.reverse();
        for link in &mut turned.links {
            std::mem::swap(&mut link.a, &mut link.b);
        }
        let answer = |status: &Status| {
            let machine = Machine::new(status);
            place(&machine, machine.usable(), &claim)
        };
        prop_assert_eq!(answer(&status), answer(&turned));
    }

    /// A shared shape, with all its answers, gives what a fresh one gives.
    #[test]
    fn a_shared_shape_answers_like_a_fresh_one(status in any_machine(6), claims in proptest::collection::vec((any_claim(), 0_u64..64), 1..8)) {
        let mut shapes = Shapes::default();
        let twin = shapes.machine(&status);
        for (claim, free) in claims {
            let free = GpuSet::from_bits(free);
            let warm = place(&shapes.machine(&status), free, &claim);
            prop_assert_eq!(&warm, &place(&Machine::new(&status), free, &claim));
            prop_assert_eq!(&warm, &place(&twin, free, &claim));
        }
    }
}

#[test]
fn sixteen_equal_gpus_are_searched_whole() {
    let status =
        crate::wiring::machine(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], |a, b| {
            (
                if a / 8 == b / 8 {
                    berth_topology::link::Path::Node
                } else {
                    berth_topology::link::Path::System
                },
                150.0,
            )
        });
    let machine = Machine::new(&status);
    let free = machine.usable().without(3);
    let placement = place(&machine, free, &GpuClaim::of_count(8)).unwrap();
    assert_eq!(
        placement.set.iter().collect::<Vec<_>>(),
        (8..16).collect::<Vec<_>>()
    );
    let eight_pairs = GpuClaim {
        tensor_parallel_size: Some(2),
        ..GpuClaim::of_count(16)
    };
    assert_eq!(
        place(&machine, machine.usable(), &eight_pairs)
            .unwrap()
            .ranks
            .len(),
        16
    );
}

#[test]
fn more_gpus_than_a_set_holds_are_left_alone() {
    let status = crate::wiring::machine(&[0; 70], |_, _| (berth_topology::link::Path::Switch, 0.0));
    let machine = Machine::new(&status);
    assert_eq!(machine.usable().len(), 64);
    assert_eq!(
        place(&machine, machine.usable(), &GpuClaim::of_count(8))
            .unwrap()
            .ranks
            .len(),
        8
    );
    assert_eq!(
        place(&machine, machine.usable(), &GpuClaim::of_count(65)),
        Err(Refusal::TooFewGpus)
    );
}
