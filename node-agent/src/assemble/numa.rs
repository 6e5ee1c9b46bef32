//! NUMA nodes: sysfs, and hwloc where sysfs is silent.

use std::collections::BTreeSet;

use berth_topology::cpus::CpuList;
use berth_topology::ids::NumaId;
use berth_topology::numa::{HugePages, NumaNode};
use berth_topology::raw::{RawHwlocNuma, RawMachine, RawNuma};

use super::unknowns::Unknowns;

/// All nodes by number, those without CPUs too.
pub(crate) fn assemble(raw: &RawMachine, unknowns: &mut Unknowns) -> Vec<NumaNode> {
    let hwloc = unknowns.value("hwloc", "hwloc", &raw.hwloc);
    let by_hwloc = |id: &u32| hwloc.and_then(|hwloc| hwloc.numa.get(id));
    let known = hwloc
        .map(|hwloc| hwloc.numa.keys().copied())
        .into_iter()
        .flatten();
    let ids: BTreeSet<u32> = raw.sysfs.numa.keys().copied().chain(known).collect();
    if ids.is_empty() {
        unknowns.note("numa", "neither sysfs nor hwloc lists a NUMA node");
    }
    ids.iter()
        .map(|id| node(*id, raw.sysfs.numa.get(id), by_hwloc(id), unknowns))
        .collect()
}

fn node(
    id: u32,
    sysfs: Option<&RawNuma>,
    hwloc: Option<&RawHwlocNuma>,
    unknowns: &mut Unknowns,
) -> NumaNode {
    let what = |fact: &str| format!("numa {id}: {fact}");
    let told = hwloc
        .map(|hwloc| hwloc.memory_bytes)
        .filter(|bytes| *bytes > 0);
    let memory_bytes = sysfs
        .and_then(|numa| numa.mem_total_kb)
        .map(|kb| kb << 10)
        .or(told);
    if memory_bytes.is_none() {
        unknowns.note(&what("memoryBytes"), "neither sysfs meminfo nor hwloc says");
    }
    let distances = sysfs.and_then(|numa| distances(numa.distance.as_deref()?));
    if distances.is_none() {
        unknowns.note(&what("distances"), "sysfs has no list of distances for it");
    }
    NumaNode {
        id: NumaId(id),
        cpus: cpus(&what("cpus"), sysfs, hwloc, unknowns),
        memory_bytes,
        huge_pages: sysfs.map(huge_pages).unwrap_or_default(),
        distances: distances.unwrap_or_default(),
    }
}

fn cpus(
    what: &str,
    sysfs: Option<&RawNuma>,
    hwloc: Option<&RawHwlocNuma>,
    unknowns: &mut Unknowns,
) -> CpuList {
    let text = sysfs.and_then(|numa| numa.cpulist.as_deref());
    match (text.map(str::parse::<CpuList>), hwloc) {
        (Some(Ok(cpus)), _) => cpus,
        (Some(Err(error)), _) => {
            unknowns.note(what, format!("sysfs cpulist: {error}"));
            hwloc.map(|hwloc| hwloc.cpus.clone()).unwrap_or_default()
        }
        (None, Some(hwloc)) => hwloc.cpus.clone(),
        (None, None) => {
            unknowns.note(what, "sysfs has no cpulist for it");
            CpuList::default()
        }
    }
}

fn distances(text: &str) -> Option<Vec<u32>> {
    text.split_whitespace()
        .map(|distance| distance.parse().ok())
        .collect()
}

/// Sizes of which none is set aside are left out.
fn huge_pages(numa: &RawNuma) -> Vec<HugePages> {
    let set_aside = numa.huge_pages.iter().filter(|(_, total)| **total > 0);
    set_aside
        .map(|(kb, total)| HugePages {
            size_bytes: kb << 10,
            total: *total,
        })
        .collect()
}
