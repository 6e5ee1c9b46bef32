//! This very host with two GPUs that it has not, so that a pod for two GPUs can really run on it.

use berth_topology::cpus::CpuList;
use berth_topology::raw::{Answer, RawGpu, RawMachine, RawNuma, RawNvml, RawPci};

/// PCIe ancestors: one switch, or the sockets' interconnect (`nvmlGpuTopologyLevel_t`).
const ANCESTOR_SINGLE: u32 = 10;
const ANCESTOR_SYSTEM: u32 = 50;
/// `NVML_P2P_STATUS_NOT_SUPPORTED`.
const P2P_NOT_SUPPORTED: u32 = 5;
const MODEL: &str = "NVIDIA L40S";
const MEMORY_BYTES: u64 = 46_068 << 20;
/// A PCI domain that no host uses.
const DOMAIN: &str = "fffe";

/// One stand-in GPU: where its machine puts it.
struct Place<'a> {
    index: u32,
    /// NUMA node; absent on a host whose sysfs has none.
    node: Option<u32>,
    cpus: &'a CpuList,
}

/// `host` (the agent's `--print raw` of this machine) with exactly two stand-in GPUs. Their CPUs
/// are the host's: of its first two NUMA nodes that have any, else all. Real GPUs are left out.
///
/// # Panics
///
/// When the host's online CPUs are not a CPU list, which the kernel's file is.
#[must_use]
pub fn with_two_gpus(mut host: RawMachine) -> RawMachine {
    let online = host.sysfs.cpus_online.as_deref().unwrap_or_default();
    let all: CpuList = online.parse().expect("the kernel writes a CPU list");
    let mut nodes: Vec<(Option<u32>, CpuList)> = host
        .sysfs
        .numa
        .iter()
        .filter_map(|(id, node)| Some((Some(*id), cpus(node)?)))
        .collect();
    if nodes.is_empty() {
        nodes.push((None, all));
    }
    let places: Vec<Place<'_>> = (0..2)
        .zip(nodes.iter().cycle())
        .map(|(index, (node, cpus))| Place {
            index,
            node: *node,
            cpus,
        })
        .collect();
    host.sysfs.pci.retain(|_, device| !is_gpu(device));
    host.sysfs
        .pci
        .extend(places.iter().map(|place| (place.address(), place.pci())));
    host.nvml = Answer::Value(nvml(&places));
    host
}

// === impl Place ===

impl Place<'_> {
    fn address(&self) -> String {
        format!("{DOMAIN}:{:02x}:00.0", self.bus())
    }

    fn bus(&self) -> u32 {
        self.index + 4
    }

    /// GPUs of one NUMA node share a PCIe switch; those of two nodes share nothing.
    fn root_bus(&self) -> u32 {
        self.node.unwrap_or(0) * 16
    }

    fn pci(&self) -> RawPci {
        let (root, slot) = (self.root_bus(), self.index);
        let bridges = format!("{DOMAIN}:{root:02x}:01.0/{DOMAIN}:02:00.0/{DOMAIN}:03:{slot:02x}.0");
        RawPci {
            device_path: Some(format!(
                "devices/pci{DOMAIN}:{root:02x}/{bridges}/{}",
                self.address()
            )),
            vendor: Some("0x10de".to_owned()),
            class: Some("0x030200".to_owned()),
            numa_node: Some(self.node.map_or(-1, i64::from).to_string()),
            local_cpulist: Some(self.cpus.to_string()),
        }
    }

    fn gpu(&self, all: &[Place<'_>]) -> RawGpu {
        let not_supported = || Answer::failed("NVML_ERROR_NOT_SUPPORTED");
        RawGpu {
            uuid: Answer::Value(format!(
                "GPU-be27be27-0000-5000-8000-00000000000{}",
                self.index
            )),
            minor: Answer::Value(self.index),
            name: Answer::Value(MODEL.to_owned()),
            pci_bus_id: Answer::Value(format!("0000{}", self.address()).to_uppercase()),
            memory_total_bytes: Answer::Value(MEMORY_BYTES),
            compute_capability: Answer::Value((8, 9)),
            pcie_generation: Answer::Value(4),
            pcie_width: Answer::Value(16),
            pcie_max_generation: Answer::Value(4),
            pcie_max_width: Answer::Value(16),
            cpu_affinity: Answer::Value(self.cpus.clone()),
            memory_affinity: self
                .node
                .map_or_else(not_supported, |node| Answer::Value(vec![node])),
            common_ancestors: all.iter().map(|other| self.ancestor(other)).collect(),
            p2p_nvlink: all.iter().map(|other| self.p2p(other)).collect(),
            p2p_read: vec![Answer::default(); all.len()],
            p2p_write: vec![Answer::default(); all.len()],
            p2p_atomics: vec![Answer::default(); all.len()],
            nvlink_count: Answer::Value(0),
            ecc_uncorrected_volatile: Answer::Value(0),
            remapped_rows_pending: Answer::Value(false),
            remapped_rows_failed: Answer::Value(false),
            ..RawGpu::default()
        }
    }

    fn ancestor(&self, other: &Place<'_>) -> Answer<u32> {
        Answer::Value(match other {
            other if other.index == self.index => 0,
            other if other.node == self.node => ANCESTOR_SINGLE,
            _ => ANCESTOR_SYSTEM,
        })
    }

    fn p2p(&self, other: &Place<'_>) -> Answer<u32> {
        if other.index == self.index {
            return Answer::failed("NVML_ERROR_INVALID_ARGUMENT");
        }
        Answer::Value(P2P_NOT_SUPPORTED)
    }
}

fn nvml(places: &[Place<'_>]) -> RawNvml {
    RawNvml {
        driver_version: Answer::Value("570.172.08".to_owned()),
        nvml_version: Answer::Value("12.570.172.08".to_owned()),
        device_count: Answer::Value(2),
        gpus: places
            .iter()
            .map(|place| Answer::Value(place.gpu(places)))
            .collect(),
    }
}

fn is_gpu(device: &RawPci) -> bool {
    let (class, vendor) = (device.class.as_deref(), device.vendor.as_deref());
    class.is_some_and(|class| class.starts_with("0x03")) && vendor == Some("0x10de")
}

/// The CPUs of a node, if it has any.
fn cpus(node: &RawNuma) -> Option<CpuList> {
    let cpus: CpuList = node.cpulist.as_deref()?.parse().ok()?;
    (!cpus.is_empty()).then_some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn host(nodes: &[&str], online: &str) -> RawMachine {
        let mut host = crate::raw("l40s-4");
        let node = |cpulist: &&str| RawNuma {
            cpulist: Some((*cpulist).into()),
            ..RawNuma::default()
        };
        host.sysfs.numa = (0..)
            .zip(nodes.iter().map(node))
            .collect::<BTreeMap<_, _>>();
        host.sysfs.cpus_online = Some(online.into());
        host
    }

    #[track_caller]
    fn check(nodes: &[&str], online: &str, expected: &str) {
        let raw = with_two_gpus(host(nodes, online));
        let gpus = &raw.nvml.value().unwrap().gpus;
        let line = |gpu: &RawGpu| {
            let address = gpu.pci_bus_id.value().unwrap()[4..].to_lowercase();
            let numa = raw.sysfs.pci[&address].numa_node.clone().unwrap();
            let cpus = gpu.cpu_affinity.value().unwrap();
            format!(
                "{cpus} numa {numa} to peer {}",
                gpu.common_ancestors
                    .iter()
                    .filter_map(Answer::value)
                    .max()
                    .unwrap()
            )
        };
        let lines: Vec<String> = gpus.iter().map(|gpu| line(gpu.value().unwrap())).collect();
        assert_eq!(lines.join("; "), expected);
        let real = raw
            .sysfs
            .pci
            .keys()
            .filter(|address| !address.starts_with(DOMAIN));
        assert!(real.clone().all(|address| !is_gpu(&raw.sysfs.pci[address])));
    }

    #[test]
    fn on_one_numa_node_both_gpus_have_its_cpus_and_share_a_switch() {
        check(
            &["0-1"],
            "0-1",
            "0-1 numa 0 to peer 10; 0-1 numa 0 to peer 10",
        );
    }

    #[test]
    fn on_two_numa_nodes_each_gpu_has_one() {
        check(
            &["0-3", "", "4-7"],
            "0-7",
            "0-3 numa 0 to peer 50; 4-7 numa 2 to peer 50",
        );
    }

    #[test]
    fn without_numa_nodes_both_gpus_have_all_cpus_and_their_node_is_unknown() {
        check(&[], "0-7", "0-7 numa -1 to peer 10; 0-7 numa -1 to peer 10");
    }
}
