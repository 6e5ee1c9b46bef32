//! What a choice keeps of a machine for who comes next, by count, so that machines of any size compare.
//!
//! [`crate::Placement::future`] chooses between sets of one machine: it asks whether a group of each size is
//! still to be had. Between machines that would spare the small and the nearly full ones, as their
//! last group of a size goes first. What counts there is how many GPUs stay in whole groups.

use crate::machine::Machine;
use crate::set::GpuSet;

impl Machine {
    /// 1000 where `taken`, out of `free`, was in no whole group of any size of the [`crate::Mix`]; 0
    /// where it breaks as many groups of every size as so many GPUs can, and in between by GPUs of
    /// broken groups. A group that a NUMA node has room for is looked for on one.
    #[must_use]
    pub fn kept_permille(&self, free: GpuSet, taken: GpuSet) -> u32 {
        let free = free.intersection(self.shape.usable);
        let taken = taken.intersection(free);
        let left = free.difference(taken);
        let (mut lost, mut most) = (0, 0);
        for (size, weight) in self.shape.mix().weights() {
            let in_groups = |set| self.shape.in_groups(set, size);
            lost += u64::from(weight) * (in_groups(free) - in_groups(left)) as u64;
            most += u64::from(weight) * taken.len().next_multiple_of(size) as u64;
        }
        let lost_permille = (1_000 * lost).checked_div(most).unwrap_or(0);
        1_000 - u32::try_from(lost_permille.min(1_000)).unwrap_or(1_000)
    }
}

#[cfg(test)]
mod tests {
    use berth_topology::gpu::{Gpu, Health, HealthState};
    use berth_topology::ids::{GpuIndex, GpuUuid, NumaId};
    use berth_topology::node::Status;

    use super::*;

    /// So many GPUs, four on each NUMA node.
    fn machine(gpu_count: u32) -> Machine {
        let gpu = |index: u32| Gpu {
            uuid: GpuUuid(index.to_string()),
            index: GpuIndex(index),
            numa_node: Some(NumaId(index / 4)),
            health: Health {
                state: HealthState::Healthy,
                ..Health::default()
            },
            ..Gpu::default()
        };
        Machine::new(&Status {
            gpus: (0..gpu_count).map(gpu).collect(),
            ..Status::default()
        })
    }

    #[track_caller]
    fn check(gpu_count: u32, free: u64, taken: u64, expected: u32) {
        let (free, taken) = (GpuSet::from_bits(free), GpuSet::from_bits(taken));
        assert_eq!(machine(gpu_count).kept_permille(free, taken), expected);
    }

    #[test]
    fn a_single_gpu_costs_the_groups_that_it_breaks() {
        check(8, 0b1111_1111, 0b1, 0);
        check(8, 0b1111_0111, 0b1, 1_000 - 1_000 / 15);
        check(8, 0b1111_0111, 0b1_0000, 1_000 - 1_000 * 7 / 15);
        check(8, 0b0001_0000, 0b1_0000, 1_000 - 1_000 / 15);
    }

    #[test]
    fn filling_a_small_machine_costs_less_than_breaking_a_large_one() {
        check(4, 0b1111, 0b1111, 400);
        check(8, 0b1111_1111, 0b1111, 0);
        check(8, 0b1111_1111, 0b11_0011, 0);
        check(8, 0b0001_1111, 0b1111, 400);
    }
}
