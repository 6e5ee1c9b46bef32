//! What a GPU tells that placement does not read: each NVLink, peer access, limits, what it cannot tell.

use berth_topology::details::{C2c, NvLinks, PeerAccess, PowerLimits, Temperatures};
use berth_topology::raw::{Answer, RawGpu, RawNvLink};

use super::Found;
use super::gpu::Facts;
use super::unknowns::NOT_SUPPORTED;

/// Links that are alike, in the order of the first of each.
pub(super) fn nvlinks(raw: &RawGpu) -> Vec<NvLinks> {
    let mut groups: Vec<NvLinks> = Vec::new();
    for (number, link) in (0_u32..).zip(&raw.nvlinks) {
        let described = nvlink(link);
        let number = [number].into_iter().collect();
        let alike = groups.iter_mut().find(|group| {
            **group
                == NvLinks {
                    links: group.links.clone(),
                    ..described.clone()
                }
        });
        match alike {
            Some(group) => group.links = group.links.union(&number),
            None => groups.push(NvLinks {
                links: number,
                ..described
            }),
        }
    }
    groups
}

/// A link of which nothing can be told is listed too: its number is what there is to say.
fn nvlink(link: &RawNvLink) -> NvLinks {
    let speed = link.speed_mb_per_second.value().filter(|speed| **speed > 0);
    let gb_per_second = |mb: &u64| f64::from(u32::try_from(*mb).unwrap_or(u32::MAX)) / 1000.0;
    NvLinks {
        active: link.active.value().copied(),
        version: link
            .version
            .value()
            .and_then(|version| nvlink_version(*version)),
        remote: link
            .remote_type
            .value()
            .map(|kind| remote(*kind).to_owned()),
        gb_per_second: speed.map(gb_per_second),
        ..NvLinks::default()
    }
}

/// `nvmlNvlinkVersion_t`; 0 is none.
fn nvlink_version(version: u32) -> Option<String> {
    let text = match version {
        0 => return None,
        1 => "1.0",
        2 => "2.0",
        3 => "2.2",
        4 => "3.0",
        5 => "3.1",
        6 => "4.0",
        7 => "5.0",
        newer => return Some(format!("version-{newer}")),
    };
    Some(text.to_owned())
}

/// `nvmlIntNvLinkDeviceType_t`.
fn remote(kind: u32) -> &'static str {
    match kind {
        0 => "gpu",
        1 => "npu",
        2 => "switch",
        _ => "unknown",
    }
}

/// Of this GPU to each other one; those with the same answers together.
pub(super) fn peer_access(gpu: &Found<'_>, found: &[Found<'_>]) -> Vec<PeerAccess> {
    let mut groups: Vec<PeerAccess> = Vec::new();
    for other in found.iter().filter(|other| other.index != gpu.index) {
        let to = |answers: &[Answer<u32>]| {
            let index = usize::try_from(other.index.0).ok()?;
            answers.get(index)?.value().map(|status| access(*status))
        };
        let described = PeerAccess {
            read: to(&gpu.raw.p2p_read),
            write: to(&gpu.raw.p2p_write),
            atomics: to(&gpu.raw.p2p_atomics),
            ..PeerAccess::default()
        };
        if described == PeerAccess::default() {
            continue;
        }
        let number = [other.index.0].into_iter().collect();
        let alike = groups.iter_mut().find(|group| {
            (&group.read, &group.write, &group.atomics)
                == (&described.read, &described.write, &described.atomics)
        });
        match alike {
            Some(group) => group.gpus = group.gpus.union(&number),
            None => groups.push(PeerAccess {
                gpus: number,
                ..described
            }),
        }
    }
    groups
}

/// `nvmlGpuP2PStatus_t`.
fn access(status: u32) -> String {
    let text = match status {
        0 => "ok",
        1 => "chipset-not-supported",
        2 => "gpu-not-supported",
        3 => "topology-not-supported",
        4 => "disabled-by-registry",
        5 => "not-supported",
        6 => "unknown",
        newer => return format!("status-{newer}"),
    };
    text.to_owned()
}

/// A GPU that has no such link says that it is off.
pub(super) fn c2c(raw: &RawGpu, facts: &mut Facts<'_>) -> Option<C2c> {
    let enabled = facts.optional("c2c", "nvmlDeviceGetC2cModeInfo", &raw.c2c_enabled)?;
    let links = facts.optional(
        "c2c links",
        "NVML_FI_DEV_C2C_LINK_COUNT",
        &raw.c2c_link_count,
    );
    let links = links.filter(|links| *links > 0);
    (enabled || links.is_some()).then_some(C2c { enabled, links })
}

pub(super) fn power(raw: &RawGpu, facts: &mut Facts<'_>) -> Option<PowerLimits> {
    let default = facts.optional(
        "power default",
        "nvmlDeviceGetPowerManagementDefaultLimit",
        &raw.power_default_milliwatts,
    );
    let enforced = facts.optional(
        "power enforced",
        "nvmlDeviceGetEnforcedPowerLimit",
        &raw.power_enforced_milliwatts,
    );
    let range = facts.optional(
        "power range",
        "nvmlDeviceGetPowerManagementLimitConstraints",
        &raw.power_range_milliwatts,
    );
    let limits = PowerLimits {
        default_milliwatts: default,
        enforced_milliwatts: enforced,
        min_milliwatts: range.map(|range| range.0),
        max_milliwatts: range.map(|range| range.1),
    };
    (limits != PowerLimits::default()).then_some(limits)
}

pub(super) fn temperatures(raw: &RawGpu, facts: &mut Facts<'_>) -> Option<Temperatures> {
    let mut threshold = |fact: &str, answer| {
        let call = "nvmlDeviceGetTemperatureThreshold";
        facts.optional(&format!("{fact} temperature"), call, answer)
    };
    let temperatures = Temperatures {
        slowdown_celsius: threshold("slowdown", &raw.slowdown_celsius),
        shutdown_celsius: threshold("shutdown", &raw.shutdown_celsius),
    };
    (temperatures != Temperatures::default()).then_some(temperatures)
}

/// `nvmlGpuVirtualizationMode_t`; a GPU of bare metal has none.
pub(super) fn virtualization(raw: &RawGpu, facts: &mut Facts<'_>) -> Option<String> {
    let call = "nvmlDeviceGetVirtualizationMode";
    let text = match facts.optional("virtualization", call, &raw.virtualization_mode)? {
        0 => return None,
        1 => "passthrough",
        2 => "vgpu",
        3 => "host-vgpu",
        4 => "host-vsga",
        newer => return Some(format!("mode-{newer}")),
    };
    Some(text.to_owned())
}

/// Facts of which NVML says that the GPU does not have them.
pub(super) fn not_supported(raw: &RawGpu) -> Vec<String> {
    let answers = [
        ("moduleId", raw.module_id.error()),
        ("memoryNumaNode", raw.numa_node_id.error()),
        ("nvlink", raw.nvlink_count.error()),
        ("fabric", raw.fabric.error()),
        ("mig", raw.mig_mode.error()),
        ("c2c", raw.c2c_enabled.error()),
        ("power default", raw.power_default_milliwatts.error()),
        ("power enforced", raw.power_enforced_milliwatts.error()),
        ("power range", raw.power_range_milliwatts.error()),
        ("slowdown temperature", raw.slowdown_celsius.error()),
        ("shutdown temperature", raw.shutdown_celsius.error()),
        ("virtualization", raw.virtualization_mode.error()),
        ("ecc", raw.ecc_uncorrected_volatile.error()),
        ("remapped rows", raw.remapped_rows_pending.error()),
        ("retired pages", raw.retired_pages_pending.error()),
        ("recovery action", raw.recovery_action.error()),
    ];
    let absent = answers
        .into_iter()
        .filter(|(_, error)| *error == Some(NOT_SUPPORTED));
    absent.map(|(fact, _)| fact.to_owned()).collect()
}
