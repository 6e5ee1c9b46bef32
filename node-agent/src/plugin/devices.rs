//! What is listed to the kubelet: GPUs and MIG instances by UUID, with health and NUMA nodes. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_placement::{Machine, Shapes};
use berth_topology::gpu::{Gpu, MigInstance};
use berth_topology::ids::{DEVICE_ID_BYTES_MAX, GpuUuid};
use berth_topology::node::Status;

use super::api::{Device, HEALTHY, NumaNode, TopologyInfo, UNHEALTHY};

/// One resource of one machine, as of the last probe.
#[derive(Clone, Debug)]
pub struct View {
    /// As listed to the kubelet.
    pub devices: Vec<Device>,
    /// The same as placement sees them.
    pub machine: Machine,
    /// What it was read from.
    pub status: Arc<Status>,
}

// === impl View ===

impl View {
    /// The devices of `resource`; their NUMA nodes are told only with `numa_hints`.
    #[must_use]
    pub fn of(status: &Arc<Status>, resource: &str, numa_hints: bool) -> Self {
        Self {
            devices: devices(status, resource, numa_hints),
            machine: Shapes::default().of_resource(resource).machine(status),
            status: status.clone(),
        }
    }
}

/// Resources that the machine has devices of: `base` for whole GPUs, and beside it one for each MIG
/// profile, named as NVIDIA's plugin does with `--mig-strategy mixed`.
#[must_use]
pub fn resources(status: &Status, base: &str) -> BTreeSet<String> {
    let domain = base.split_once('/').map_or(base, |(domain, _)| domain);
    let instances = status.gpus.iter().flat_map(instances);
    let profiles = instances.map(MigInstance::resource_profile);
    let mut names: BTreeSet<String> = profiles
        .filter(|profile| !profile.is_empty())
        .map(|profile| format!("{domain}/mig-{profile}"))
        .collect();
    if status.gpus.iter().any(|gpu| !is_partitioned(gpu)) {
        names.insert(base.to_owned());
    }
    names
}

fn devices(status: &Status, resource: &str, numa_hints: bool) -> Vec<Device> {
    let units: Vec<(&GpuUuid, &Gpu)> = match resource.split_once("/mig-") {
        None => whole_gpus(status).collect(),
        Some((_, profile)) => instances_of(status, profile).collect(),
    };
    let listed = units
        .into_iter()
        .filter(|(uuid, _)| (1..=DEVICE_ID_BYTES_MAX).contains(&uuid.as_str().len()));
    listed
        .map(|(uuid, gpu)| Device {
            id: uuid.to_string(),
            health: if gpu.is_usable() { HEALTHY } else { UNHEALTHY }.to_owned(),
            topology: if numa_hints { numa(gpu) } else { None },
        })
        .collect()
}

/// A GPU in MIG mode cannot be given as a whole.
fn whole_gpus(status: &Status) -> impl Iterator<Item = (&GpuUuid, &Gpu)> {
    let whole = status.gpus.iter().filter(|gpu| !is_partitioned(gpu));
    whole.map(|gpu| (&gpu.uuid, gpu))
}

fn instances_of<'a>(
    status: &'a Status,
    profile: &'a str,
) -> impl Iterator<Item = (&'a GpuUuid, &'a Gpu)> {
    status.gpus.iter().flat_map(move |gpu| {
        let of_profile =
            instances(gpu).filter(move |instance| instance.resource_profile() == profile);
        of_profile.map(move |instance| (&instance.uuid, gpu))
    })
}

fn is_partitioned(gpu: &Gpu) -> bool {
    gpu.mig.as_ref().is_some_and(|mig| mig.mode == "enabled")
}

fn instances(gpu: &Gpu) -> impl Iterator<Item = &MigInstance> {
    gpu.mig.iter().flat_map(|mig| &mig.instances)
}

fn numa(gpu: &Gpu) -> Option<TopologyInfo> {
    gpu.numa_node.map(|node| TopologyInfo {
        nodes: vec![NumaNode {
            id: i64::from(node.0),
        }],
    })
}

#[cfg(test)]
mod tests {
    use berth_topology::gpu::{Health, HealthState, Mig};
    use berth_topology::ids::{GpuIndex, NumaId};
    use expect_test::{Expect, expect};

    use super::*;

    fn gpu(index: u32) -> Gpu {
        Gpu {
            uuid: GpuUuid(format!("GPU-{index}")),
            index: GpuIndex(index),
            numa_node: Some(NumaId(index / 2)),
            health: Health {
                state: HealthState::Healthy,
                ..Health::default()
            },
            ..Gpu::default()
        }
    }

    fn partitioned(index: u32, profiles: &[&str]) -> Gpu {
        let instance = |(number, profile): (usize, &&str)| MigInstance {
            uuid: GpuUuid(format!("MIG-{index}-{number}")),
            profile: (*profile).to_owned(),
            ..MigInstance::default()
        };
        Gpu {
            mig: Some(Mig {
                mode: "enabled".to_owned(),
                instances: profiles.iter().enumerate().map(instance).collect(),
            }),
            ..gpu(index)
        }
    }

    #[track_caller]
    fn check(gpus: Vec<Gpu>, numa_hints: bool, expected: Expect) {
        let status = Arc::new(Status {
            gpus,
            ..Status::default()
        });
        let mut text = String::new();
        for resource in resources(&status, "nvidia.com/gpu") {
            text += &format!("{resource}\n");
            for device in View::of(&status, &resource, numa_hints).devices {
                let nodes = device.topology.iter().flat_map(|topology| &topology.nodes);
                let nodes: Vec<i64> = nodes.map(|node| node.id).collect();
                text += &format!("  {} {} {nodes:?}\n", device.id, device.health);
            }
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn a_failed_gpu_stays_listed_as_unhealthy_and_a_degraded_one_can_be_given() {
        let with = |index, state| {
            let mut gpu = gpu(index);
            gpu.health.state = state;
            gpu
        };
        let gpus = vec![
            gpu(0),
            with(1, HealthState::Degraded),
            with(2, HealthState::Failed),
            with(3, HealthState::Unknown),
        ];
        check(
            gpus,
            true,
            expect![[r#"
                nvidia.com/gpu
                  GPU-0 Healthy [0]
                  GPU-1 Healthy [0]
                  GPU-2 Unhealthy [1]
                  GPU-3 Unhealthy [1]
            "#]],
        );
    }

    #[test]
    fn each_mig_profile_is_a_resource_of_its_own_and_its_gpu_is_not_listed_whole() {
        let gpus = vec![
            gpu(0),
            partitioned(1, &["1g.10gb", "1g.10gb+me", "3g.40gb", "1g.10gb"]),
        ];
        check(
            gpus,
            true,
            expect![[r#"
                nvidia.com/gpu
                  GPU-0 Healthy [0]
                nvidia.com/mig-1g.10gb
                  MIG-1-0 Healthy [0]
                  MIG-1-3 Healthy [0]
                nvidia.com/mig-1g.10gb.me
                  MIG-1-1 Healthy [0]
                nvidia.com/mig-3g.40gb
                  MIG-1-2 Healthy [0]
            "#]],
        );
    }

    #[test]
    fn without_hints_no_numa_node_is_told_and_an_unknown_one_is_never_made_up() {
        check(
            vec![gpu(2)],
            false,
            expect![[r#"
                nvidia.com/gpu
                  GPU-2 Healthy []
            "#]],
        );
        let unknown = Gpu {
            numa_node: None,
            ..gpu(2)
        };
        check(
            vec![unknown],
            true,
            expect![[r#"
                nvidia.com/gpu
                  GPU-2 Healthy []
            "#]],
        );
    }
}
