//! What of a machine can be given: its GPUs, or the MIG instances of one profile.

use std::collections::BTreeSet;

use berth_topology::gpu::{Gpu, MigInstance};
use berth_topology::ids::GpuUuid;
use berth_topology::node::Status;

use crate::set::GPUS_MAX;

/// Which of the two a resource stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whole GPUs. What NVIDIA's plugin calls `nvidia.com/gpu` with the MIG strategy `single` are
    /// instances, but the contract does not say which strategy runs: GPUs in MIG mode count as
    /// shared there.
    #[default]
    Gpus,
    /// `nvidia.com/mig-1g.10gb`: the instances of that profile (strategy `mixed`).
    Instances {
        /// As the resource spells it.
        profile: String,
    },
}

/// One that can be given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit<'a> {
    pub(crate) uuid: &'a GpuUuid,
    /// The GPU itself, or the one that the instance is part of.
    pub(crate) gpu: &'a Gpu,
    pub(crate) instance: Option<&'a MigInstance>,
}

// === impl Kind ===

impl Kind {
    pub(crate) fn of_resource(resource: &str) -> Self {
        match resource.split_once("/mig-") {
            Some((_, profile)) => Self::Instances {
                profile: profile.to_owned(),
            },
            None => Self::Gpus,
        }
    }

    /// By index, instances of one GPU by UUID; the first of equal ones, up to [`GPUS_MAX`].
    pub(crate) fn units<'a>(&self, status: &'a Status) -> Vec<Unit<'a>> {
        let mut gpus: Vec<&Gpu> = status.gpus.iter().collect();
        gpus.sort_by_key(|gpu| (gpu.index, &gpu.uuid));
        let mut units: Vec<Unit<'a>> = gpus.into_iter().flat_map(|gpu| self.of_gpu(gpu)).collect();
        let mut seen = BTreeSet::new();
        units.retain(|unit| seen.insert(unit.uuid));
        units.truncate(GPUS_MAX);
        units
    }

    fn of_gpu<'a>(&self, gpu: &'a Gpu) -> Vec<Unit<'a>> {
        let Self::Instances { profile } = self else {
            return vec![Unit {
                uuid: &gpu.uuid,
                gpu,
                instance: None,
            }];
        };
        let existing = gpu.mig.iter().flat_map(|mig| &mig.instances);
        let mut of_profile: Vec<&MigInstance> = existing
            .filter(|instance| instance.resource_profile() == *profile)
            .collect();
        of_profile.sort_by_key(|instance| &instance.uuid);
        let unit = |instance: &'a MigInstance| Unit {
            uuid: &instance.uuid,
            gpu,
            instance: Some(instance),
        };
        of_profile.into_iter().map(unit).collect()
    }
}
