//! hwloc itself accepts the XML of every machine and finds in it what was recorded.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use berth_test_machine::{materialize, names, raw};
use berth_topology::cpus::CpuList;
use berth_topology::raw::{RawHwloc, RawHwlocNuma};
use hwlocality::Topology;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::types::ObjectType;
use hwlocality::topology::builder::TopologyBuilder;

#[test]
fn hwloc_finds_the_recorded_packages_numa_nodes_and_cores() {
    for name in names() {
        let machine = raw(&name);
        let dir = tempfile::tempdir().unwrap();
        let xml = materialize(&machine, dir.path())
            .unwrap()
            .hwloc_xml
            .unwrap();
        let topology = TopologyBuilder::new()
            .from_xml_file(&xml)
            .unwrap()
            .build()
            .unwrap();
        // caches are compared where the agent itself reads them: see round_trip
        let without_caches = |hwloc: RawHwloc| RawHwloc {
            caches: Vec::new(),
            ..hwloc
        };
        let recorded = machine.hwloc.map(without_caches);
        assert_eq!(Some(&described(&topology)), recorded.value(), "{name}");
    }
}

fn described(topology: &Topology) -> RawHwloc {
    let sets = |kind| topology.objects_with_type(kind).map(cpus).collect();
    let numa = topology
        .objects_with_type(ObjectType::NUMANode)
        .map(|node| {
            let id = u32::try_from(node.os_index().unwrap()).unwrap();
            (
                id,
                RawHwlocNuma {
                    cpus: cpus(node),
                    memory_bytes: memory_bytes(node),
                },
            )
        });
    RawHwloc {
        packages: sets(ObjectType::Package),
        numa: numa.collect(),
        cores: sets(ObjectType::Core),
        caches: Vec::new(),
    }
}

fn cpus(object: &TopologyObject) -> CpuList {
    let set = object.cpuset().unwrap();
    set.iter_set()
        .map(|cpu| u32::try_from(usize::from(cpu)).unwrap())
        .collect()
}

fn memory_bytes(node: &TopologyObject) -> u64 {
    match node.attributes() {
        Some(ObjectAttributes::NUMANode(numa)) => numa.local_memory().map_or(0, u64::from),
        _ => 0,
    }
}
