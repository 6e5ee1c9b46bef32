//! hwloc's XML (version 2.0, read by 2.9): machine, packages, NUMA nodes, caches, cores, threads.
//!
//! A NUMA node is a memory child of the object that has exactly its CPUs; where a package has
//! several, a group stands between, as hwloc makes one.

use std::fmt::Write as _;

use berth_topology::cpus::CpuList;
use berth_topology::raw::{RawCaches, RawHwloc, RawHwlocNuma};

use crate::cpuset;

/// `HWLOC_GROUP_KIND_MEMORY`.
const GROUP_KIND: &str = "1001";

/// Writes objects, each with an index of its own.
struct Writer<'a> {
    hwloc: &'a RawHwloc,
    text: String,
    written: usize,
}

/// One NUMA node and its id.
type Node<'a> = (u32, &'a RawHwlocNuma);

/// The document.
pub(crate) fn xml(hwloc: &RawHwloc) -> String {
    let mut writer = Writer {
        hwloc,
        text: String::new(),
        written: 0,
    };
    writer.machine();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n\
         <topology version=\"2.0\">\n{}</topology>\n",
        writer.text
    )
}

// === impl Writer ===

impl<'a> Writer<'a> {
    fn machine(&mut self) {
        let sets = self.hwloc.packages.iter().chain(&self.hwloc.cores);
        let cpus = sets.fold(CpuList::default(), |all, set| all.union(set));
        let (cpus_text, nodes) = (cpuset::text(&cpus), self.nodeset(&cpus));
        let allowed = format!(" allowed_cpuset=\"{cpus_text}\" allowed_nodeset=\"{nodes}\"");
        self.open("Machine", Some(0), &cpus, &allowed);
        let everywhere = |node: &Node<'a>| node.1.cpus == cpus || node.1.cpus.is_empty();
        let (shared, local): (Vec<_>, Vec<_>) = self.nodes().into_iter().partition(everywhere);
        let shared_by_package = self.hwloc.packages.len() == 1;
        if !shared_by_package {
            self.memory(&shared, &cpus);
        }
        for (id, package) in self.hwloc.packages.iter().enumerate() {
            let inside = if shared_by_package {
                &shared
            } else {
                &Vec::new()
            };
            self.package(id, package, inside, &local);
        }
        if self.hwloc.packages.is_empty() {
            self.caches(&cpus, &self.hwloc.caches);
        }
        self.close();
    }

    fn package(&mut self, id: usize, cpus: &CpuList, shared: &[Node<'_>], local: &[Node<'_>]) {
        self.open("Package", u32::try_from(id).ok(), cpus, "");
        self.memory(shared, cpus);
        let mut rest = cpus.clone();
        for node in local.iter().filter(|node| node.1.cpus.is_subset(cpus)) {
            if node.1.cpus == *cpus {
                self.memory(&[*node], cpus);
                continue;
            }
            let kind = format!(" kind=\"{GROUP_KIND}\" subkind=\"0\"");
            self.open("Group", None, &node.1.cpus, &kind);
            self.memory(&[*node], &node.1.cpus);
            self.caches(&node.1.cpus, &self.hwloc.caches);
            self.close();
            rest = rest.difference(&node.1.cpus);
        }
        self.caches(&rest, &self.hwloc.caches);
        self.close();
    }

    /// Those inside `cpus`, the outermost around the next, and the cores in the innermost.
    fn caches(&mut self, cpus: &CpuList, outermost_first: &'a [RawCaches]) {
        let Some((outer, inner)) = outermost_first.split_first() else {
            return self.cores(cpus);
        };
        let mut rest = cpus.clone();
        for shared in outer.cpus.iter().filter(|shared| shared.is_subset(cpus)) {
            let more = attributes(outer);
            let kind = if outer.kind == "instruction" {
                "iCache"
            } else {
                "Cache"
            };
            self.open(&format!("L{}{kind}", outer.level), None, shared, &more);
            self.caches(shared, inner);
            self.close();
            rest = rest.difference(shared);
        }
        if !rest.is_empty() {
            self.caches(&rest, inner);
        }
    }

    /// Memory children. A node without CPUs is as near to all of its parent's.
    fn memory(&mut self, nodes: &[Node<'_>], parent: &CpuList) {
        for (id, node) in nodes {
            let nodes = cpuset::text(&[*id].into_iter().collect());
            let cpus = cpuset::text(parent);
            self.written += 1;
            let _ = writeln!(
                self.text,
                "<object type=\"NUMANode\" os_index=\"{id}\" cpuset=\"{cpus}\" \
                 complete_cpuset=\"{cpus}\" nodeset=\"{nodes}\" complete_nodeset=\"{nodes}\" \
                 gp_index=\"{}\" local_memory=\"{}\"/>",
                self.written, node.memory_bytes
            );
        }
    }

    /// The cores that lie inside `cpus`, each with its threads.
    fn cores(&mut self, cpus: &CpuList) {
        let all = self.hwloc.cores.iter().enumerate();
        let inside: Vec<_> = all
            .filter(|(_, core)| !core.is_empty() && core.is_subset(cpus))
            .collect();
        for (id, core) in inside {
            self.open("Core", u32::try_from(id).ok(), core, "");
            for cpu in core.iter() {
                self.open("PU", Some(cpu), &[cpu].into_iter().collect(), "");
                self.close();
            }
            self.close();
        }
    }

    fn open(&mut self, kind: &str, os_index: Option<u32>, cpus: &CpuList, more: &str) {
        self.written += 1;
        let os_index = os_index
            .map(|id| format!(" os_index=\"{id}\""))
            .unwrap_or_default();
        let (cpu_text, nodes) = (cpuset::text(cpus), self.nodeset(cpus));
        let _ = writeln!(
            self.text,
            "<object type=\"{kind}\"{os_index} cpuset=\"{cpu_text}\" complete_cpuset=\"{cpu_text}\" \
             nodeset=\"{nodes}\" complete_nodeset=\"{nodes}\" gp_index=\"{}\"{more}>",
            self.written
        );
    }

    fn close(&mut self) {
        self.text.push_str("</object>\n");
    }

    fn nodes(&self) -> Vec<Node<'a>> {
        self.hwloc
            .numa
            .iter()
            .map(|(id, node)| (*id, node))
            .collect()
    }

    /// NUMA nodes that share a CPU with `cpus`, and those that have none.
    fn nodeset(&self, cpus: &CpuList) -> String {
        let near =
            |node: &RawHwlocNuma| node.cpus.is_empty() || !node.cpus.intersection(cpus).is_empty();
        let nodes = self.hwloc.numa.iter().filter(|(_, node)| near(node));
        cpuset::text(&nodes.map(|(id, _)| *id).collect())
    }
}

/// As hwloc writes a cache: `hwloc_obj_cache_type_t` is 0 unified, 1 data, 2 instruction.
fn attributes(caches: &RawCaches) -> String {
    let kind = match caches.kind.as_str() {
        "data" => 1,
        "instruction" => 2,
        _ => 0,
    };
    format!(
        " cache_size=\"{}\" depth=\"{}\" cache_linesize=\"64\" cache_associativity=\"0\" \
         cache_type=\"{kind}\"",
        caches.size_bytes, caches.level
    )
}
