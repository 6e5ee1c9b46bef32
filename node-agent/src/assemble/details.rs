//! What a GPU tells that placement does not read: each NVLink, peer access, limits.

use berth_topology::details::{C2c, NvLinks, PeerAccess, PowerLimits, Temperatures};
use berth_topology::ids::GpuIndex;
use berth_topology::raw::{Answer, RawGpu, RawNvLink};

use super::Found;
use super::gpu::Facts;
use crate::grouped::grouped;

/// Links that are alike, in the order of the first of each.
pub(super) fn nvlinks(raw: &RawGpu) -> Vec<NvLinks> {
    let numbered = (0_u32..).zip(&raw.nvlinks);
    grouped(numbered.map(|(number, link)| (nvlink(link), number)))
        .into_iter()
        .map(|(alike, numbers)| NvLinks {
            links: numbers.into_iter().collect(),
            ..alike
        })
        .collect()
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

/// Of this GPU to each other one; those with the same answers together, those without left out.
pub(super) fn peer_access(gpu: &Found<'_>, found: &[Found<'_>]) -> Vec<PeerAccess> {
    let others = found.iter().filter(|other| other.index != gpu.index);
    let described = others.map(|other| (to_peer(gpu.raw, other.index), other.index.0));
    let told = described.filter(|(access, _)| *access != PeerAccess::default());
    grouped(told)
        .into_iter()
        .map(|(alike, indices)| PeerAccess {
            gpus: indices.into_iter().collect(),
            ..alike
        })
        .collect()
}

/// Whom it is to is left open.
fn to_peer(raw: &RawGpu, other: GpuIndex) -> PeerAccess {
    let to = |answers: &[Answer<u32>]| {
        let index = usize::try_from(other.0).ok()?;
        answers.get(index)?.value().map(|status| access(*status))
    };
    PeerAccess {
        read: to(&raw.p2p_read),
        write: to(&raw.p2p_write),
        atomics: to(&raw.p2p_atomics),
        ..PeerAccess::default()
    }
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
    let enabled = facts.feature("c2c", "nvmlDeviceGetC2cModeInfo", &raw.c2c_enabled)?;
    let links = facts.optional(
        "c2c links",
        "NVML_FI_DEV_C2C_LINK_COUNT",
        &raw.c2c_link_count,
    );
    let links = links.filter(|links| *links > 0);
    (enabled || links.is_some()).then_some(C2c { enabled, links })
}

pub(super) fn power(raw: &RawGpu, facts: &mut Facts<'_>) -> Option<PowerLimits> {
    let default = facts.feature(
        "power default",
        "nvmlDeviceGetPowerManagementDefaultLimit",
        &raw.power_default_milliwatts,
    );
    let enforced = facts.feature(
        "power enforced",
        "nvmlDeviceGetEnforcedPowerLimit",
        &raw.power_enforced_milliwatts,
    );
    let range = facts.feature(
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
        facts.feature(&format!("{fact} temperature"), call, answer)
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
    let text = match facts.feature("virtualization", call, &raw.virtualization_mode)? {
        0 => return None,
        1 => "passthrough",
        2 => "vgpu",
        3 => "host-vgpu",
        4 => "host-vsga",
        newer => return Some(format!("mode-{newer}")),
    };
    Some(text.to_owned())
}
