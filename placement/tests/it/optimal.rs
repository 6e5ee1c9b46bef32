//! On random machines, what placement answers is what brute force finds.

use berth_placement::{GpuSet, Machine, Placement, Refusal, Shapes, place, ranked};
use berth_topology::claim::{GpuClaim, LinkPolicy, NicPolicy, NumaPolicy};
use berth_topology::link::LinkClass;
use berth_topology::node::Status;
use proptest::prelude::*;

use crate::brute::{self, Brute};
use crate::graphs::{Seeded, graph};
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

/// Any claim for one group.
fn seeded_claim(seeded: &mut Seeded, count_max: usize) -> GpuClaim {
    let link = [LinkClass::NvLink, LinkClass::Switch, LinkClass::Numa];
    GpuClaim {
        link: if seeded.one_in(3) {
            seeded.pick(&link)
        } else {
            LinkClass::Any
        },
        link_policy: seeded.pick(&[LinkPolicy::Prefer, LinkPolicy::Prefer, LinkPolicy::Require]),
        numa: seeded.pick(&[
            NumaPolicy::Prefer,
            NumaPolicy::Prefer,
            NumaPolicy::Single,
            NumaPolicy::Any,
        ]),
        nic: seeded.pick(&[NicPolicy::Any, NicPolicy::Near]),
        ..GpuClaim::of_count(1 + seeded.below(count_max))
    }
}

fn positions(placement: &Placement) -> Vec<usize> {
    placement
        .gpus
        .iter()
        .map(|gpu| (0..64).find(|position| uuid(*position) == *gpu).unwrap())
        .collect()
}

/// Set, ring, bandwidth and what stays possible are what brute force finds.
#[track_caller]
fn check(what: &str, brute: &Brute, machine: &Machine, free: u32, claim: &GpuClaim) {
    let answer = place(machine, GpuSet::from_bits(free.into()), claim);
    let expected = brute.best(free, claim);
    let told = || {
        format!(
            "{what}, free {:?}, {claim:?}: {answer:?}",
            brute::members(free)
        )
    };
    let order = expected.as_ref().map(|best| &best.order);
    let given = answer.as_ref().ok().map(positions_of(machine));
    assert_eq!(given.as_ref(), order, "{}", told());
    if let (Ok(placement), Some(best)) = (&answer, &expected) {
        let gb = (best.bandwidth.0 == 2).then(|| best.bandwidth.1 as f64 / 1_000.0);
        assert_eq!(placement.gb_per_second, gb, "{}", told());
        let taken = best.order.iter().fold(0, |bits, gpu| bits | 1_u32 << gpu);
        let free = free & u32::try_from(machine.usable().bits()).unwrap();
        let (before, after) = (brute.possible(free), brute.possible(free & !taken));
        assert_eq!(
            u64::from(placement.future),
            10 * after / before,
            "{}",
            told()
        );
    }
}

fn positions_of(machine: &Machine) -> impl Fn(&Placement) -> Vec<usize> {
    |placement| {
        let positions = placement
            .gpus
            .iter()
            .filter_map(|gpu| machine.position(gpu));
        positions.collect()
    }
}

#[test]
fn on_ten_thousand_machines_of_up_to_eight_the_best_is_found() {
    for seed in 0..10_000 {
        let status = graph(seed, 1, 8);
        let (brute, machine) = (Brute::new(&status), Machine::new(&status));
        let mut seeded = Seeded(!seed);
        for _ in 0..4 {
            let claim = seeded_claim(&mut seeded, 8);
            let free = if seeded.one_in(2) {
                brute.all()
            } else {
                seeded.bits(brute.all())
            };
            check(&format!("seed {seed}"), &brute, &machine, free, &claim);
        }
    }
}

#[test]
fn on_two_hundred_machines_of_nine_to_sixteen_the_best_is_found() {
    for seed in 0..200 {
        let status = graph(seed, 9, 16);
        let (brute, machine) = (Brute::new(&status), Machine::new(&status));
        let mut seeded = Seeded(!seed);
        for free in [brute.all(), seeded.bits(brute.all())] {
            let claim = seeded_claim(&mut seeded, 16);
            check(&format!("seed {seed}"), &brute, &machine, free, &claim);
        }
    }
}

#[test]
fn rings_by_subsets_are_the_rings_by_orders() {
    for seed in 0..300 {
        let brute = Brute::new(&graph(seed, 4, 8));
        for set in (1..=brute.all()).filter(|set| set.count_ones() >= 3) {
            let of = brute::members(set);
            let order = brute.ring_by_orders(&of);
            assert_eq!(brute.ring_by_subsets(&of), order, "seed {seed}");
            assert_eq!(
                brute.ring_weakest(set),
                brute.weakest(&order),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn ranked_sets_are_all_there_are_in_the_order_of_the_objective() {
    for seed in 0..500 {
        let status = graph(seed, 1, 8);
        let (brute, machine) = (Brute::new(&status), Machine::new(&status));
        let mut seeded = Seeded(!seed);
        let claim = seeded_claim(&mut seeded, 4);
        let free = seeded.bits(brute.all());
        let limit = 1 + seeded.below(40);
        let all = brute.ranked(free, &claim);
        let expected: Vec<u64> = all.iter().copied().take(limit).map(u64::from).collect();
        let answer = ranked(&machine, GpuSet::from_bits(free.into()), &claim, limit);
        let ranking = answer.unwrap_or_default();
        assert_eq!(ranking.candidate_count, all.len(), "seed {seed}, {claim:?}");
        assert!(ranking.is_complete || all.is_empty());
        let found = ranking.sets;
        let sets: Vec<u64> = found.iter().map(|ranked| ranked.set.bits()).collect();
        assert_eq!(sets, expected, "seed {seed}, {claim:?}");
        for pair in found.windows(2) {
            assert!(pair[0].criteria > pair[1].criteria, "seed {seed}: {pair:?}");
            assert_ne!(pair[0].criteria.decided_by(&pair[1].criteria), "same set");
        }
    }
}

fn worst(brute: &Brute, placement: &Placement, size: usize) -> brute::Bandwidth {
    let groups = positions(placement);
    let group = |group: &[usize]| group.iter().fold(0, |bits, gpu| bits | 1_u32 << gpu);
    groups
        .chunks(size)
        .map(|gpus| brute.bandwidth(group(gpus)))
        .min()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Of several groups, the worst is as good as it can be.
    #[test]
    fn of_several_groups_the_worst_is_the_best_possible(
        status in any_machine(8), claim in any_claim(), size in 1..=4_usize, free in 0_u64..256,
    ) {
        let gpu_count = size * (claim.gpu_count / size).max(1);
        let claim = GpuClaim { gpu_count, tensor_parallel_size: Some(size), ..claim };
        let machine = Machine::new(&status);
        let free = GpuSet::from_bits(free).intersection(machine.all());
        let brute = Brute::new(&status);
        let expected = brute.best_worst(u32::try_from(free.bits()).unwrap(), &claim);
        let answer = place(&machine, free, &claim).ok();
        prop_assert_eq!(answer.is_some(), expected.is_some());
        if let (Some(placement), Some((_, bandwidth))) = (answer, expected) {
            prop_assert_eq!(worst(&brute, &placement, size), bandwidth);
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
