//! Every reason that a machine and a claim can give.

use berth_placement::{Machine, Refusal, place};
use berth_topology::claim::{self, GpuClaim, NumaPolicy};
use berth_topology::gpu::{HealthState, Mig, Sharing};
use berth_topology::node::Status;

use crate::wiring::l40s_4;

#[track_caller]
fn check(status: &Status, claim: &GpuClaim, expected: Refusal) {
    let machine = Machine::new(status);
    assert_eq!(place(&machine, machine.usable(), claim), Err(expected));
}

#[test]
fn failed_gpus_do_not_count() {
    let mut status = l40s_4();
    status.gpus[1].health.state = HealthState::Failed;
    check(&status, &GpuClaim::of_count(4), Refusal::TooFewGpus);
    check(
        &Status::default(),
        &GpuClaim::of_count(1),
        Refusal::TooFewGpus,
    );
}

#[test]
fn taken_gpus_are_not_enough_free() {
    let machine = Machine::new(&l40s_4());
    let free = machine.usable().without(2);
    assert_eq!(
        place(&machine, free, &GpuClaim::of_count(4)),
        Err(Refusal::NotEnoughFree)
    );
}

#[test]
fn another_model_is_refused() {
    let claim = GpuClaim {
        gpu_model: Some("h100".to_owned()),
        ..GpuClaim::of_count(1)
    };
    check(&l40s_4(), &claim, Refusal::WrongModel);
}

#[test]
fn too_little_or_unknown_memory_is_refused() {
    let claim = GpuClaim {
        gpu_memory_bytes_min: Some(40 << 30),
        ..GpuClaim::of_count(4)
    };
    let mut status = l40s_4();
    status.gpus[3].memory_bytes = None;
    check(&status, &claim, Refusal::TooLittleMemory);
    status.gpus[3].memory_bytes = Some(24 << 30);
    check(&status, &claim, Refusal::TooLittleMemory);
}

#[test]
fn single_numa_on_unknown_numa_is_refused_as_such() {
    let mut status = l40s_4();
    for gpu in &mut status.gpus {
        gpu.numa_node = None;
    }
    let claim = GpuClaim {
        numa: NumaPolicy::Single,
        ..GpuClaim::of_count(1)
    };
    check(&status, &claim, Refusal::NumaUnknown);
}

#[test]
fn shared_and_partitioned_gpus_are_refused() {
    let mut status = l40s_4();
    status.gpus[0].sharing = Some(Sharing {
        kind: "time-slicing".to_owned(),
        replicas: 4,
    });
    status.gpus[1].mig = Some(Mig {
        mode: "enabled".to_owned(),
        instances: Vec::new(),
    });
    check(&status, &GpuClaim::of_count(3), Refusal::Shared);
    check(&status, &GpuClaim::of_count(5), Refusal::TooFewGpus);
    let machine = Machine::new(&status);
    assert!(place(&machine, machine.all(), &GpuClaim::of_count(2)).is_ok());
}

#[test]
fn groups_that_do_not_divide_are_a_bad_claim() {
    for size in [0, 3, 8] {
        let claim = GpuClaim {
            tensor_parallel_size: Some(size),
            ..GpuClaim::of_count(4)
        };
        check(
            &l40s_4(),
            &claim,
            Refusal::BadClaim(claim::Error::NotDivisible),
        );
    }
}

#[test]
fn reasons_keep_their_names_and_sides() {
    use Refusal::*;
    let resolvable = [NotEnoughFree, LinkTooWeak, NumaSpan, KubeletWouldRefuse];
    let lasting = [
        Stale,
        NoTopology,
        TooFewGpus,
        WrongModel,
        TooLittleMemory,
        LinkImpossible,
        NumaImpossible,
        NumaUnknown,
        Shared,
        DraManaged,
        BadClaim(claim::Error::NotDivisible),
    ];
    assert!(resolvable.iter().all(Refusal::is_resolvable));
    assert!(!lasting.iter().any(Refusal::is_resolvable));
    for refusal in resolvable.iter().chain(&lasting) {
        assert!(format!("{refusal:?}").starts_with(refusal.kind()));
        assert!(
            !refusal.to_string().chars().any(|c| c.is_ascii_digit()),
            "{refusal}"
        );
    }
}
