//! MIG instances, placed like GPUs.

use berth_placement::{Machine, Refusal, Shapes, place};
use berth_topology::claim::{GpuClaim, LinkPolicy, NumaPolicy};
use berth_topology::gpu::{Mig, MigInstance};
use berth_topology::ids::{GpuIndex, GpuUuid};
use berth_topology::link::LinkClass;
use berth_topology::node::Status;

use crate::wiring::dgx_h100;

const SMALL: &str = "nvidia.com/mig-1g.10gb";

fn instance(gpu: usize, number: usize, profile: &str) -> MigInstance {
    MigInstance {
        uuid: GpuUuid(format!("MIG-{gpu}-{number}")),
        profile: profile.to_owned(),
        memory_bytes: 10 << 30,
        compute_slices: 1,
        ..MigInstance::default()
    }
}

/// GPUs 3 and 4, of different sockets, are partitioned: three small instances and a larger one each.
fn partitioned() -> Status {
    let mut status = dgx_h100();
    for gpu in [3, 4] {
        let small = (0..3).map(|number| instance(gpu, number, "1g.10gb"));
        status.gpus[gpu].mig = Some(Mig {
            mode: "enabled".to_owned(),
            instances: small.chain([instance(gpu, 3, "2g.20gb+me")]).collect(),
        });
    }
    status
}

fn instances(resource: &str) -> Machine {
    Shapes::default()
        .of_resource(resource)
        .machine(&partitioned())
}

fn given(machine: &Machine, claim: &GpuClaim) -> Result<Vec<String>, Refusal> {
    let placement = place(machine, machine.usable(), claim)?;
    Ok(placement.gpus.into_iter().map(|gpu| gpu.0).collect())
}

#[test]
fn units_are_the_instances_of_the_profile_that_the_resource_names() {
    assert_eq!(instances(SMALL).usable().len(), 6);
    assert_eq!(instances("nvidia.com/mig-2g.20gb.me").usable().len(), 2);
    assert_eq!(instances("nvidia.com/mig-7g.80gb").usable().len(), 0);
    assert_eq!(instances("nvidia.com/gpu").usable().len(), 6);
}

#[test]
fn ranks_of_one_group_share_a_socket_and_say_their_instance() {
    let machine = instances(SMALL);
    let placement = place(&machine, machine.usable(), &GpuClaim::of_count(3)).unwrap();
    assert_eq!(placement.numa_nodes.len(), 1);
    assert_eq!(placement.weakest_link, Some(LinkClass::Numa));
    assert_eq!(placement.gb_per_second, None);
    let ranks = placement.ranks.iter();
    let shown: Vec<_> = ranks
        .map(|rank| (rank.gpu.clone().unwrap().0, rank.index))
        .collect();
    let index = Some(GpuIndex(3));
    let expected = ["MIG-3-0", "MIG-3-1", "MIG-3-2"].map(|uuid| (uuid.to_owned(), index));
    assert_eq!(shown, expected);
}

#[test]
fn single_instance_goes_to_the_gpu_that_is_broken_already() {
    let machine = instances(SMALL);
    let taken = machine.set_of([&GpuUuid("MIG-4-0".to_owned())]);
    let free = machine.usable().difference(taken);
    let placement = place(&machine, free, &GpuClaim::of_count(1)).unwrap();
    assert_eq!(placement.gpus, [GpuUuid("MIG-4-1".to_owned())]);
}

#[test]
fn several_instances_have_no_nvlink_and_no_switch() {
    let machine = instances(SMALL);
    for link in [LinkClass::NvLink, LinkClass::Switch] {
        let require = |gpu_count| GpuClaim {
            link,
            link_policy: LinkPolicy::Require,
            ..GpuClaim::of_count(gpu_count)
        };
        assert_eq!(given(&machine, &require(2)), Err(Refusal::LinkImpossible));
        assert_eq!(given(&machine, &require(1)), Ok(vec!["MIG-3-0".to_owned()]));
    }
    let single = GpuClaim {
        numa: NumaPolicy::Single,
        ..GpuClaim::of_count(4)
    };
    assert_eq!(given(&machine, &single), Err(Refusal::NumaImpossible));
}

#[test]
fn memory_is_the_instances_own() {
    let machine = instances(SMALL);
    let claim = |gib: u64| GpuClaim {
        gpu_memory_bytes_min: Some(gib << 30),
        ..GpuClaim::of_count(2)
    };
    assert!(given(&machine, &claim(10)).is_ok());
    assert_eq!(given(&machine, &claim(11)), Err(Refusal::TooLittleMemory));
}
