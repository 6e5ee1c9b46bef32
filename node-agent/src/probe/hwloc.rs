//! hwloc's view of sockets, NUMA nodes and cores: of this machine, or from its XML.

use std::collections::BTreeMap;
use std::path::Path;

use berth_topology::cpus::{CPU_ID_MAX, CpuList};
use berth_topology::raw::{Answer, RawCaches, RawHwloc, RawHwlocNuma};
use hwlocality::Topology;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::types::{CacheType, ObjectType};
use hwlocality::topology::builder::{BuildFlags, TopologyBuilder, TypeFilter};

use super::text;
use crate::grouped::grouped;

/// `lstopo` writes 2 MiB for a machine with 8 GPUs and 224 CPUs.
const XML_BYTES_MAX: u64 = 64 << 20;

/// From the outermost in. Instructions have a cache of their own next to the core only.
const CACHES: [ObjectType; 6] = [
    ObjectType::L5Cache,
    ObjectType::L4Cache,
    ObjectType::L3Cache,
    ObjectType::L2Cache,
    ObjectType::L1Cache,
    ObjectType::L1ICache,
];

/// Asks hwloc; its XML instead of this machine where one is given.
pub(crate) fn read(xml: Option<&Path>) -> Answer<RawHwloc> {
    match discover(xml) {
        Ok(topology) => Answer::Value(describe(&topology)),
        Err(error) => Answer::failed(error),
    }
}

fn discover(xml: Option<&Path>) -> Result<Topology, String> {
    let builder = match xml {
        Some(path) => from_xml(path)?,
        None => TopologyBuilder::new(),
    };
    let failed = |error: &dyn std::fmt::Display| format!("hwloc discovery failed: {error}");
    builder
        // the agent's own cgroup must not hide CPUs that pods may use
        .with_flags(BuildFlags::INCLUDE_DISALLOWED)
        .map_err(|error| failed(&error))?
        .with_common_type_filter(TypeFilter::KeepNone)
        .map_err(|error| failed(&error))?
        .with_type_filter(ObjectType::Package, TypeFilter::KeepAll)
        .map_err(|error| failed(&error))?
        .with_type_filter(ObjectType::Core, TypeFilter::KeepAll)
        .map_err(|error| failed(&error))?
        .with_cpu_cache_type_filter(TypeFilter::KeepAll)
        .map_err(|error| failed(&error))?
        .with_cpu_icache_type_filter(TypeFilter::KeepAll)
        .map_err(|error| failed(&error))?
        // without groups, the NUMA nodes of one package would each be given all of its CPUs
        .with_type_filter(ObjectType::Group, TypeFilter::KeepStructure)
        .map_err(|error| failed(&error))?
        .build()
        .map_err(|error| failed(&error))
}

fn from_xml(path: &Path) -> Result<TopologyBuilder, String> {
    let bytes = text::read_bounded(path, XML_BYTES_MAX)
        .map_err(|error| format!("cannot read hwloc's XML {}: {error}", path.display()))?;
    let xml = String::from_utf8(bytes)
        .map_err(|_| format!("hwloc's XML {} is not UTF-8", path.display()))?;
    TopologyBuilder::new()
        .from_xml(&xml)
        .map_err(|error| format!("hwloc does not accept the XML {}: {error}", path.display()))
}

fn describe(topology: &Topology) -> RawHwloc {
    let sets = |kind| topology.objects_with_type(kind).map(cpus).collect();
    RawHwloc {
        packages: sets(ObjectType::Package),
        numa: numa(topology),
        cores: sets(ObjectType::Core),
        caches: caches(topology),
    }
}

/// The outermost first; on a machine with two kinds of cores one level has caches of two sizes.
fn caches(topology: &Topology) -> Vec<RawCaches> {
    let objects = CACHES
        .iter()
        .flat_map(|kind| topology.objects_with_type(*kind));
    let described = objects.filter_map(|object| Some((cache(object)?, cpus(object))));
    grouped(described)
        .into_iter()
        .map(|((level, kind, size_bytes), cpus)| RawCaches {
            level,
            kind: kind.to_owned(),
            size_bytes,
            cpus,
        })
        .collect()
}

/// Level, kind, and size in bytes.
fn cache(object: &TopologyObject) -> Option<(u32, &'static str, u64)> {
    let Some(ObjectAttributes::Cache(cache)) = object.attributes() else {
        return None;
    };
    let kind = match cache.cache_type() {
        CacheType::Unified => "unified",
        CacheType::Data => "data",
        CacheType::Instruction => "instruction",
        CacheType::Unknown(_) => return None,
    };
    let level = u32::try_from(cache.depth()).ok()?;
    Some((level, kind, cache.size()?.get()))
}

fn numa(topology: &Topology) -> BTreeMap<u32, RawHwlocNuma> {
    let describe = |node: &TopologyObject| {
        let id = u32::try_from(node.os_index()?).ok()?;
        Some((
            id,
            RawHwlocNuma {
                cpus: cpus(node),
                memory_bytes: memory_bytes(node),
            },
        ))
    };
    topology
        .objects_with_type(ObjectType::NUMANode)
        .filter_map(describe)
        .collect()
}

fn memory_bytes(node: &TopologyObject) -> u64 {
    match node.attributes() {
        Some(ObjectAttributes::NUMANode(numa)) => numa.local_memory().map_or(0, u64::from),
        _ => 0,
    }
}

/// An infinite set, which hwloc can express, is cut at the greatest CPU number.
fn cpus(object: &TopologyObject) -> CpuList {
    let Some(set) = object.cpuset() else {
        return CpuList::default();
    };
    let ids = set
        .iter_set()
        .map(|cpu| u32::try_from(usize::from(cpu)).unwrap_or(u32::MAX));
    ids.take_while(|cpu| *cpu <= CPU_ID_MAX).collect()
}
