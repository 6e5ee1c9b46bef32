//! The PCIe path between two devices: NVML's answer for GPUs, sysfs for network cards.

use berth_topology::ids::BusId;
use berth_topology::link::Path;
use berth_topology::raw::{Answer, RawMachine, RawPci};

use super::unknowns::Unknowns;
use super::{Found, gpu, pci};

/// Between two GPUs. Where NVML does not say, sysfs does.
pub(crate) fn between_gpus(
    one: &Found<'_>,
    other: &Found<'_>,
    raw: &RawMachine,
    unknowns: &mut Unknowns,
) -> Path {
    let (forth, back) = (ancestor(one, other), ancestor(other, one));
    let by_nvml = forth
        .value()
        .or(back.value())
        .and_then(|level| from_level(*level));
    by_nvml
        .or_else(|| between(raw, one.bus_id.as_ref()?, other.bus_id.as_ref()?))
        .unwrap_or_else(|| {
            let what = format!("gpu {} - gpu {}: path", one.index, other.index);
            let nvml = match (forth.error(), forth.value()) {
                (Some(error), _) => error.to_owned(),
                (None, level) => format!("level {level:?}, which is not known"),
            };
            let why = format!("nvmlDeviceGetTopologyCommonAncestor: {nvml}; nor does sysfs tell");
            unknowns.note(&what, why);
            Path::Unknown
        })
}

/// Between two PCI devices by sysfs; `None` where it cannot be told.
pub(crate) fn between(raw: &RawMachine, one: &BusId, other: &BusId) -> Option<Path> {
    let device = |id: &BusId| raw.sysfs.pci.get(id.as_str());
    let (one, other) = (device(one)?, device(other)?);
    let shared = pci::ancestor(one.device_path.as_deref()?, other.device_path.as_deref()?);
    shared.or_else(|| across_root_complexes(raw, one, other))
}

/// One NUMA node, or the interconnect between two. Where the firmware does not say, a machine of
/// one NUMA node has no other.
fn across_root_complexes(raw: &RawMachine, one: &RawPci, other: &RawPci) -> Option<Path> {
    let node = |pci: &RawPci| gpu::numa_id(pci.numa_node.as_deref()?).ok();
    match (node(one), node(other)) {
        (Some(one), Some(other)) if one == other => Some(Path::Node),
        (Some(_), Some(_)) => Some(Path::System),
        _ => (raw.sysfs.numa.len() == 1).then_some(Path::Node),
    }
}

fn ancestor<'a>(from: &Found<'a>, to: &Found<'_>) -> &'a Answer<u32> {
    static ABSENT: std::sync::LazyLock<Answer<u32>> =
        std::sync::LazyLock::new(|| Answer::failed("not asked"));
    let index = usize::try_from(to.index.0).unwrap_or(usize::MAX);
    from.raw.common_ancestors.get(index).unwrap_or(&ABSENT)
}

/// `nvmlGpuTopologyLevel_t`.
fn from_level(level: u32) -> Option<Path> {
    match level {
        0 => Some(Path::Board),
        10 => Some(Path::Switch),
        20 => Some(Path::Switches),
        30 => Some(Path::HostBridge),
        40 => Some(Path::Node),
        50 => Some(Path::System),
        _ => None,
    }
}
