//! A machine's CPUs and NUMA nodes as hwloc 2 writes them (`lstopo --of xml`), so that the agent's hwloc
//! reads a recorded machine.

use std::fmt::Write as _;

use berth_topology::cpus::CpuList;
use berth_topology::raw::RawHwloc;

/// hwloc writes sets as words of so many bits, highest first.
const WORD_BITS: u32 = 32;

/// Writes elements with an id each, which hwloc wants to be unique.
struct Writer<'a> {
    machine: &'a RawHwloc,
    text: String,
    last_id: u32,
}

/// What an element covers.
struct Object<'a> {
    kind: &'a str,
    os_index: u32,
    cpus: &'a CpuList,
    /// Further attributes, each with a blank before it.
    more: String,
}

/// The whole document.
#[must_use]
pub(crate) fn of_machine(machine: &RawHwloc) -> String {
    let mut writer = Writer {
        machine,
        text: String::new(),
        last_id: 0,
    };
    writer.text.push_str(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n<topology version=\"2.0\">\n",
    );
    let cpus = machine
        .cores
        .iter()
        .fold(CpuList::default(), |all, core| all.union(core));
    let nodes: Vec<u32> = machine.numa.keys().copied().collect();
    let (cpu_set, node_set) = (set(cpus.iter()), set(nodes.iter().copied()));
    let more = format!(
        " allowed_cpuset=\"{cpu_set}\" complete_nodeset=\"{node_set}\" allowed_nodeset=\"{node_set}\""
    );
    writer.open(&Object {
        kind: "Machine",
        os_index: 0,
        cpus: &cpus,
        more,
    });
    writer.nodes_of(|own| own.is_empty() || *own == cpus);
    for (index, package) in (0..).zip(&machine.packages) {
        writer.package(index, package, &cpus);
    }
    writer.close();
    writer.text.push_str("</topology>\n");
    writer.text
}

// === impl Writer ===

impl Writer<'_> {
    /// A socket: its own NUMA node, or a group for each that is a part of it, then its cores.
    fn package(&mut self, index: u32, cpus: &CpuList, all: &CpuList) {
        self.open(&Object {
            kind: "Package",
            os_index: index,
            cpus,
            more: String::new(),
        });
        if cpus != all {
            self.nodes_of(|own| own == cpus);
        }
        let parts: Vec<CpuList> = self
            .machine
            .numa
            .values()
            .map(|node| node.cpus.clone())
            .collect();
        let is_part = |own: &&CpuList| !own.is_empty() && own.is_subset(cpus) && *own != cpus;
        let mut left = cpus.clone();
        for part in parts.iter().filter(is_part) {
            self.open(&Object {
                kind: "Group",
                os_index: 0,
                cpus: part,
                more: String::new(),
            });
            self.nodes_of(|own| own == part);
            self.cores_in(part);
            self.close();
            left = left.difference(part);
        }
        self.cores_in(&left);
        self.close();
    }

    /// NUMA nodes come first among an element's children.
    fn nodes_of(&mut self, is_here: impl Fn(&CpuList) -> bool) {
        let machine = self.machine;
        for (id, node) in machine.numa.iter().filter(|(_, node)| is_here(&node.cpus)) {
            let more = format!(" local_memory=\"{}\"", node.memory_bytes);
            self.open(&Object {
                kind: "NUMANode",
                os_index: *id,
                cpus: &node.cpus,
                more,
            });
            self.close();
        }
    }

    fn cores_in(&mut self, cpus: &CpuList) {
        let machine = self.machine;
        let here = |core: &&CpuList| !core.is_empty() && core.is_subset(cpus);
        for (index, core) in (0..).zip(machine.cores.iter().filter(here)) {
            self.open(&Object {
                kind: "Core",
                os_index: index,
                cpus: core,
                more: String::new(),
            });
            for cpu in core.iter() {
                let own = one(cpu);
                self.open(&Object {
                    kind: "PU",
                    os_index: cpu,
                    cpus: &own,
                    more: String::new(),
                });
                self.close();
            }
            self.close();
        }
    }

    fn open(&mut self, object: &Object<'_>) {
        self.last_id += 1;
        let Object {
            kind,
            os_index,
            cpus,
            more,
        } = object;
        let cpu_set = set(cpus.iter());
        let node_set = set(self.nodes_near(kind, *os_index, cpus).into_iter());
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.text,
            "<object type=\"{kind}\" os_index=\"{os_index}\" cpuset=\"{cpu_set}\" \
             complete_cpuset=\"{cpu_set}\" nodeset=\"{node_set}\" gp_index=\"{}\"{more}>",
            self.last_id
        );
    }

    fn close(&mut self) {
        self.text.push_str("</object>\n");
    }

    /// A NUMA node is near itself; anything else is near those that share a CPU with it, the machine
    /// also near those without CPUs.
    fn nodes_near(&self, kind: &str, os_index: u32, cpus: &CpuList) -> Vec<u32> {
        if kind == "NUMANode" {
            return vec![os_index];
        }
        let shares = |own: &CpuList| !own.intersection(cpus).is_empty();
        let near = |own: &CpuList| shares(own) || (kind == "Machine" && own.is_empty());
        let nodes = self
            .machine
            .numa
            .iter()
            .filter(|(_, node)| near(&node.cpus));
        nodes.map(|(id, _)| *id).collect()
    }
}

fn one(cpu: u32) -> CpuList {
    cpu.to_string().parse().unwrap_or_default()
}

/// `0xf0000000,0x00000001`: words of 32 bits, highest first.
fn set(bits: impl Iterator<Item = u32>) -> String {
    let mut words: Vec<u32> = vec![0];
    for bit in bits {
        let word = usize::try_from(bit / WORD_BITS).unwrap_or_default();
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        words[word] |= 1 << (bit % WORD_BITS);
    }
    let words: Vec<String> = words
        .iter()
        .rev()
        .map(|word| format!("0x{word:08x}"))
        .collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_written_in_words_of_32_bits_highest_first() {
        assert_eq!(set([0, 1, 33].into_iter()), "0x00000002,0x00000003");
        assert_eq!(set(std::iter::empty()), "0x00000000");
    }
}
