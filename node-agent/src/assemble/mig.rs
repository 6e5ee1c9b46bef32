//! MIG: mode and instances.

use berth_topology::gpu::{Mig, MigInstance};
use berth_topology::ids::GpuUuid;
use berth_topology::raw::{RawGpu, RawMigDevice};

use super::unknowns::Unknowns;

/// Absent on GPUs without MIG.
pub(crate) fn assemble(raw: &RawGpu, gpu: &str, unknowns: &mut Unknowns) -> Option<Mig> {
    let mode = *unknowns.optional(
        &format!("{gpu}: mig"),
        "nvmlDeviceGetMigMode",
        &raw.mig_mode,
    )?;
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
    })
}

/// `1g.5gb` of `NVIDIA A100-SXM4-40GB MIG 1g.5gb`.
fn profile(name: &str) -> String {
    name.rsplit_once("MIG ")
        .map_or(name, |(_, profile)| profile)
        .to_owned()
}
