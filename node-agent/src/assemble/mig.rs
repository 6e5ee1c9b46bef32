//! MIG: mode and instances.

use berth_topology::gpu::{Mig, MigInstance, MigPlacement};
use berth_topology::ids::GpuUuid;
use berth_topology::raw::{RawGpu, RawMigDevice};

use super::gpu::Facts;
use super::unknowns::Unknowns;

/// Absent on GPUs without MIG.
pub(super) fn assemble(raw: &RawGpu, facts: &mut Facts<'_>) -> Option<Mig> {
    let mode = facts.feature("mig", "nvmlDeviceGetMigMode", &raw.mig_mode)?;
    let (gpu, unknowns) = (&facts.gpu, &mut *facts.unknowns);
    let numbered = raw.mig_devices.iter().enumerate();
    let instances = numbered
        .filter_map(|(number, device)| instance(device, &format!("{gpu}: mig {number}"), unknowns))
        .collect();
    let mode = if mode == 1 { "enabled" } else { "disabled" };
    Some(Mig {
        mode: mode.to_owned(),
        instances,
    })
}

/// An instance without an identity cannot be given to anybody.
fn instance(device: &RawMigDevice, what: &str, unknowns: &mut Unknowns) -> Option<MigInstance> {
    let uuid = unknowns.value(what, "nvmlDeviceGetUUID", &device.uuid)?;
    let name = unknowns.value(what, "nvmlDeviceGetName", &device.name);
    let memory = unknowns.value(what, "nvmlDeviceGetMemoryInfo", &device.memory_total_bytes);
    let slices = unknowns.value(what, "nvmlDeviceGetAttributes", &device.slices);
    Some(MigInstance {
        uuid: GpuUuid(uuid.clone()),
        profile: name.map(|name| profile(name)).unwrap_or_default(),
        memory_bytes: memory.copied().unwrap_or(0),
        compute_slices: slices.copied().unwrap_or(0),
        placement: placement(device, what, unknowns),
    })
}

/// Where its memory lies NVML tells administrators only: then the numbers alone are known.
fn placement(device: &RawMigDevice, what: &str, unknowns: &mut Unknowns) -> Option<MigPlacement> {
    let what = format!("{what} placement");
    let (gpu, compute) = (&device.gpu_instance_id, &device.compute_instance_id);
    let gpu_instance_id = *unknowns.optional(&what, "nvmlDeviceGetGpuInstanceId", gpu)?;
    let compute_instance_id =
        *unknowns.optional(&what, "nvmlDeviceGetComputeInstanceId", compute)?;
    let slices = unknowns.optional(&what, "nvmlGpuInstanceGetInfo", &device.placement);
    Some(MigPlacement {
        first_slice: slices.map(|slices| slices.0),
        slice_count: slices.map(|slices| slices.1),
        gpu_instance_id,
        compute_instance_id,
    })
}

/// `1g.5gb` of `NVIDIA A100-SXM4-40GB MIG 1g.5gb`.
fn profile(name: &str) -> String {
    name.rsplit_once("MIG ")
        .map_or(name, |(_, profile)| profile)
        .to_owned()
}
