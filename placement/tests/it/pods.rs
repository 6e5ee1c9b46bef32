//! Pods of several containers.

use berth_placement::{GpuSet, Machine, PodPlacement, Refusal, fit_pod, place_pod};
use berth_topology::claim::{ContainerClaim, GpuClaim, LinkPolicy, PodClaim};
use berth_topology::ids::GpuUuid;
use berth_topology::link::LinkClass;

use crate::wiring::{a100_bridges, dgx1_v100, l40s_4};

fn container(name: &str, gpu_count: usize) -> ContainerClaim {
    ContainerClaim {
        name: name.to_owned(),
        claim: GpuClaim::of_count(gpu_count),
    }
}

fn bridged(name: &str) -> ContainerClaim {
    let claim = GpuClaim {
        link: LinkClass::NvLink,
        link_policy: LinkPolicy::Require,
        ..GpuClaim::of_count(2)
    };
    ContainerClaim {
        name: name.to_owned(),
        claim,
    }
}

fn gpus(placement: &PodPlacement, name: &str) -> Vec<GpuUuid> {
    placement.containers[name].gpus().cloned().collect()
}

fn set(positions: &[usize]) -> GpuSet {
    positions.iter().copied().collect()
}

#[test]
fn the_larger_container_chooses_first() {
    let machine = Machine::new(&dgx1_v100());
    let claim = PodClaim {
        containers: vec![container("small", 1), container("large", 4)],
        ..PodClaim::default()
    };
    let placement = place_pod(&machine, machine.usable(), &claim).unwrap();
    assert_eq!(
        machine.set_of(&gpus(&placement, "large")),
        set(&[0, 1, 2, 3])
    );
    assert_eq!(placement.gpus.len(), 5);
    assert_eq!(placement.score, 10);
}

#[test]
fn fit_and_placement_agree() {
    let machine = Machine::new(&dgx1_v100());
    let claim = PodClaim {
        containers: vec![container("a", 3), container("b", 2)],
        init: vec![container("i", 4)],
        ..PodClaim::default()
    };
    for free in 0..256 {
        let free = GpuSet::from_bits(free);
        let fit = fit_pod(&machine, free, &claim).map(|fit| (fit.gpus, fit.score));
        let placement =
            place_pod(&machine, free, &claim).map(|placement| (placement.gpus, placement.score));
        assert_eq!(fit, placement);
    }
}

#[test]
fn containers_do_not_take_each_others_bridge() {
    // A free pair of bridges and two lone GPUs: whoever goes first must not break the second bridge.
    let machine = Machine::new(&a100_bridges());
    let claim = PodClaim {
        containers: vec![container("any", 2), bridged("joined")],
        ..PodClaim::default()
    };
    let placement = place_pod(&machine, set(&[0, 2, 5, 4]), &claim).unwrap();
    assert_eq!(machine.set_of(&gpus(&placement, "joined")), set(&[0, 2]));
    assert_eq!(machine.set_of(&gpus(&placement, "any")), set(&[4, 5]));
}

#[test]
fn init_containers_run_in_the_gpus_of_the_others() {
    let machine = Machine::new(&l40s_4());
    let claim = PodClaim {
        containers: vec![container("main", 2)],
        init: vec![container("load", 1)],
        ..PodClaim::default()
    };
    let placement = place_pod(&machine, set(&[1, 2, 3]), &claim).unwrap();
    assert_eq!(placement.gpus, set(&[2, 3]));
    assert_eq!(placement.containers.len(), 1);
}

#[test]
fn a_greedier_init_container_decides_and_the_others_stay_in_it() {
    let machine = Machine::new(&l40s_4());
    let claim = PodClaim {
        containers: vec![container("main", 1)],
        init: vec![container("load", 2)],
        ..PodClaim::default()
    };
    let placement = place_pod(&machine, set(&[1, 2, 3]), &claim).unwrap();
    assert_eq!(placement.gpus, set(&[2, 3]));
    assert!(
        machine
            .set_of(&gpus(&placement, "main"))
            .is_subset(placement.gpus)
    );
}

#[test]
fn together_too_many_is_too_many() {
    let machine = Machine::new(&l40s_4());
    let claim = PodClaim {
        containers: vec![container("a", 3), container("b", 2)],
        ..PodClaim::default()
    };
    assert_eq!(
        place_pod(&machine, machine.usable(), &claim),
        Err(Refusal::TooFewGpus)
    );
    let claim = PodClaim {
        containers: vec![container("a", 2), container("b", 2)],
        ..PodClaim::default()
    };
    assert_eq!(
        place_pod(&machine, set(&[0, 1, 2]), &claim),
        Err(Refusal::NotEnoughFree)
    );
}

#[test]
fn what_no_empty_machine_can_join_is_impossible() {
    let machine = Machine::new(&a100_bridges());
    let five = ["a", "b", "c", "d"].map(bridged).to_vec();
    let claim = |containers| PodClaim {
        containers,
        ..PodClaim::default()
    };
    assert!(place_pod(&machine, machine.usable(), &claim(five.clone())).is_ok());
    let mut status = a100_bridges();
    status
        .links
        .iter_mut()
        .find(|link| link.nvlink.is_some())
        .unwrap()
        .nvlink = None;
    let machine = Machine::new(&status);
    assert_eq!(
        place_pod(&machine, machine.usable(), &claim(five)),
        Err(Refusal::LinkImpossible)
    );
}

#[test]
fn a_pod_without_gpus_fits() {
    let machine = Machine::new(&l40s_4());
    let placement = place_pod(&machine, GpuSet::EMPTY, &PodClaim::default()).unwrap();
    assert!(placement.gpus.is_empty());
    assert!(placement.containers.is_empty());
}
