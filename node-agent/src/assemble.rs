//! From a machine's answers to its topology. Pure: no I/O, no clock, no memory of earlier answers.
//!
//! What an answer does not give stays absent, and `unknowns` says why. Nothing is made up: a NUMA
//! node of -1 is not 0, and a bandwidth that nobody told is not in the topology.

mod caches;
mod details;
mod fabric;
mod gpu;
mod health;
mod kubelet;
mod lanes;
mod mig;
mod nics;
mod numa;
mod nvlink;
mod paths;
pub(crate) mod pci;
mod told;
mod unknowns;

use berth_topology::gpu::Gpu;
use berth_topology::hash;
use berth_topology::ids::{BusId, GpuIndex, GpuUuid};
use berth_topology::link::Link;
use berth_topology::node::Status;
use berth_topology::raw::{RawGpu, RawMachine};

use nvlink::Wiring;
use told::{is_tame, tame};
use unknowns::Unknowns;

/// A GPU that told its identity.
pub(crate) struct Found<'a> {
    /// Position in NVML's enumeration, failed GPUs counted.
    index: GpuIndex,
    uuid: GpuUuid,
    bus_id: Option<BusId>,
    raw: &'a RawGpu,
}

/// The topology that a machine's answers tell.
#[must_use]
pub fn assemble(raw: &RawMachine) -> Status {
    let mut unknowns = Unknowns::default();
    let found = found(raw, &mut unknowns);
    let wiring = Wiring::read(&found, raw, &mut unknowns);
    let links = links(raw, &found, &wiring, &mut unknowns);
    let status = Status {
        gpus: gpus(raw, &found, &wiring, &mut unknowns),
        links,
        numa: numa::assemble(raw, &mut unknowns),
        caches: caches::assemble(raw),
        nics: nics::assemble(raw, &found, &mut unknowns),
        kubelet: kubelet::assemble(raw, &mut unknowns),
        boot_id: raw.boot_id.as_deref().map(tame),
        driver_load: raw.driver_load.as_deref().map(tame),
        unknowns: unknowns.into_list(),
        ..Status::default()
    };
    Status {
        hash: hash::of_status(&status),
        ..status
    }
}

/// GPUs without an identity cannot be listed; why is among the unknowns.
fn found<'a>(raw: &'a RawMachine, unknowns: &mut Unknowns) -> Vec<Found<'a>> {
    let Some(nvml) = unknowns.value("gpus", "NVML", &raw.nvml) else {
        return Vec::new();
    };
    unknowns.value("gpus", "nvmlDeviceGetCount", &nvml.device_count);
    let mut found: Vec<Found<'a>> = Vec::new();
    for (index, gpu) in (0..).map(GpuIndex).zip(&nvml.gpus) {
        let what = format!("gpu {index}");
        let Some(raw) = unknowns.value(&what, "nvmlDeviceGetHandleByIndex", gpu) else {
            continue;
        };
        let Some(uuid) = unknowns.value(&what, "nvmlDeviceGetUUID", &raw.uuid) else {
            continue;
        };
        if !is_tame(uuid) {
            unknowns.note(
                &what,
                format!("NVML gives it an identity that is none: {uuid}"),
            );
            continue;
        }
        let uuid = GpuUuid(uuid.clone());
        if found.iter().any(|other| other.uuid == uuid) {
            unknowns.note(&what, format!("NVML gives two GPUs the identity {uuid}"));
            continue;
        }
        let bus_id = raw.pci_bus_id.value().and_then(|id| pci::from_nvml(id));
        found.push(Found {
            index,
            uuid,
            bus_id,
            raw,
        });
    }
    found
}

fn gpus(
    raw: &RawMachine,
    found: &[Found<'_>],
    wiring: &Wiring,
    unknowns: &mut Unknowns,
) -> Vec<Gpu> {
    let assemble = |(position, gpu): (usize, &Found<'_>)| Gpu {
        nvlink: wiring.budget(position),
        nvlinks: details::nvlinks(gpu.raw),
        peer_access: details::peer_access(gpu, found),
        health: health::assess(gpu.raw, &wiring.problems(position)),
        ..gpu::assemble(gpu, &raw.sysfs, unknowns)
    };
    found.iter().enumerate().map(assemble).collect()
}

/// Every pair once, the lower index first.
fn links(
    raw: &RawMachine,
    found: &[Found<'_>],
    wiring: &Wiring,
    unknowns: &mut Unknowns,
) -> Vec<Link> {
    let mut links = Vec::new();
    for (a, one) in found.iter().enumerate() {
        for (b, other) in found.iter().enumerate().skip(a + 1) {
            links.push(Link {
                a: one.uuid.clone(),
                b: other.uuid.clone(),
                path: paths::between_gpus(one, other, raw, unknowns),
                nvlink: wiring.pair(a, b),
            });
        }
    }
    links
}

#[cfg(test)]
mod tests;
