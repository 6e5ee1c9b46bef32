//! Caches of the CPUs, as hwloc tells them.

use berth_topology::details::Caches;
use berth_topology::raw::{RawCaches, RawHwloc, RawMachine};

/// The outermost first. Why there are none is with hwloc's other answers.
pub(crate) fn assemble(raw: &RawMachine) -> Vec<Caches> {
    let Some(hwloc) = raw.hwloc.value() else {
        return Vec::new();
    };
    let all = hwloc.caches.iter();
    all.map(|caches| described(caches, hwloc)).collect()
}

/// Hundreds of caches that each serve one core are told by their number only.
fn described(caches: &RawCaches, hwloc: &RawHwloc) -> Caches {
    let is_of_one_core = |cpus| hwloc.cores.contains(cpus);
    let is_shared = !caches.cpus.iter().all(is_of_one_core);
    Caches {
        level: caches.level,
        kind: caches.kind.clone(),
        size_bytes: caches.size_bytes,
        count: u32::try_from(caches.cpus.len()).unwrap_or(u32::MAX),
        cpus: if is_shared {
            caches.cpus.clone()
        } else {
            Vec::new()
        },
    }
}
