//! What would be changed and why, and what a person should look at. Pure.

mod gpus;

use std::collections::BTreeMap;

use berth_topology::cpus::CpuList;
use berth_topology::ids::GpuUuid;
use serde::{Deserialize, Serialize};

use super::args::{GpuClocks, HugePages};
use super::gpus::Setting;
use super::host::{Device, Governor, Host};
use super::pcie::Pcie;

/// Reads of a network card below this leave a fast link idle between requests (NVIDIA's and
/// Mellanox's tuning guides ask for it).
const NIC_READ_REQUEST_BYTES: u32 = 4_096;

/// What is asked for; nothing unless said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Scaling governor of every CPU.
    pub governor: Option<String>,
    /// Interrupts to their device's NUMA node.
    pub irq_affinity: bool,
    /// Huge pages by node and size.
    pub huge_pages: Vec<HugePages>,
    /// Persistence mode of every GPU.
    pub persistence: bool,
    /// Graphics clock of every GPU.
    pub gpu_clocks: Option<GpuClocks>,
}

/// One setting of the kernel or of a GPU: all that this program ever writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// A CPU's scaling governor.
    Governor {
        /// The CPU.
        cpu: u32,
    },
    /// The CPUs that an interrupt may go to.
    IrqAffinity {
        /// Its number.
        irq: u32,
    },
    /// How many huge pages a node has of one size.
    HugePages {
        /// The node.
        node: u32,
        /// The size.
        #[serde(rename = "sizeKb")]
        size_kb: u64,
    },
    /// A setting that NVML takes.
    Gpu {
        /// The GPU.
        uuid: GpuUuid,
        /// Which.
        setting: Setting,
    },
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What is changed.
    pub target: Target,
    /// Its value now.
    pub from: String,
    /// Its value to be.
    pub to: String,
    /// Why.
    pub why: String,
}

/// Everything that there is to say about a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// What `apply` does, in this order.
    pub changes: Vec<Change>,
    /// What was asked for and cannot be, and why.
    pub impossible: Vec<String>,
    /// What costs time and is for a person to change.
    pub findings: Vec<String>,
}

/// Compares a machine with a wish.
#[must_use]
pub fn plan(host: &Host, wish: &Wish) -> Plan {
    let mut plan = Plan::default();
    match &wish.governor {
        Some(governor) => governors(host, governor, &mut plan),
        None => plan.findings.extend(governor_finding(&host.governors)),
    }
    for device in &host.devices {
        device_irqs(device, host, wish.irq_affinity, &mut plan);
        plan.findings.extend(link_findings(device));
    }
    if wish.irq_affinity && host.irqbalance_runs {
        plan.findings.push(
            "irqbalance runs, and moves interrupts again: stop it, or ban these interrupts in it"
                .to_owned(),
        );
    }
    for wanted in &wish.huge_pages {
        huge_pages(*wanted, host, &mut plan);
    }
    gpus::settings(host, wish, &mut plan);
    plan
}

fn governors(host: &Host, wanted: &str, plan: &mut Plan) {
    if host.governors.is_empty() {
        let reason = "no CPU has frequency scaling here: there is no governor to set";
        plan.impossible.push(reason.to_owned());
    }
    let mut refusing: BTreeMap<String, CpuList> = BTreeMap::new();
    for (cpu, governor) in &host.governors {
        if !governor.offered.iter().any(|offered| offered == wanted) {
            let cpus = refusing.entry(governor.offered.join(", ")).or_default();
            *cpus = cpus.union(&CpuList::from_iter([*cpu]));
        } else if governor.now != wanted {
            plan.changes.push(Change {
                target: Target::Governor { cpu: *cpu },
                from: governor.now.clone(),
                to: wanted.to_owned(),
                why: "a CPU that must first speed up delays every kernel launch".to_owned(),
            });
        }
    }
    let refused = refusing.into_iter().map(|(offered, cpus)| {
        format!("CPUs {cpus} do not offer the governor {wanted:?}; they offer {offered}")
    });
    plan.impossible.extend(refused);
}

fn governor_finding(governors: &BTreeMap<u32, Governor>) -> Option<String> {
    let slow = |(cpu, governor): (&u32, &Governor)| (governor.now != "performance").then_some(*cpu);
    let slow: CpuList = governors.iter().filter_map(slow).collect();
    (!slow.is_empty()).then(|| {
        format!("CPUs {slow} do not have the governor performance (--governor performance)")
    })
}

fn device_irqs(device: &Device, host: &Host, wanted: bool, plan: &mut Plan) {
    let (kind, address) = (device.kind, &device.address);
    let near = device.numa_node.and_then(|node| {
        let cpus = host.nodes.get(&node)?.intersection(&host.online);
        (!cpus.is_empty()).then_some((node, cpus))
    });
    let Some((node, near)) = near else {
        if wanted && !device.irqs.is_empty() {
            plan.impossible.push(format!(
                "interrupts of {kind} {address}: its NUMA node is not known, or has no CPUs"
            ));
        }
        return;
    };
    let is_far = |cpus: &CpuList| !cpus.is_subset(&near);
    let far = device
        .irqs
        .iter()
        .filter_map(|(irq, cpus)| Some((*irq, cpus.as_ref().filter(|cpus| is_far(cpus))?)));
    if !wanted {
        let count = far.count();
        if count > 0 {
            plan.findings.push(format!(
                "{count} interrupts of {kind} {address} may go to CPUs far from its NUMA node \
                 {node} (--irq-affinity)"
            ));
        }
        return;
    }
    plan.changes.extend(far.map(|(irq, cpus)| Change {
        target: Target::IrqAffinity { irq },
        from: cpus.to_string(),
        to: near.to_string(),
        why: format!("{kind} {address} is on NUMA node {node}"),
    }));
}

fn link_findings(device: &Device) -> Vec<String> {
    let (kind, address) = (device.kind, &device.address);
    let Some(pcie) = device.pcie else {
        return vec![format!(
            "{kind} {address}: its PCIe link cannot be read (it takes root, and a device that is PCIe)"
        )];
    };
    let Pcie {
        width, width_max, ..
    } = pcie;
    let mut findings = Vec::new();
    if width < width_max {
        findings.push(format!(
            "{kind} {address}: {width} of {width_max} PCIe lanes: the slot, a riser, or a bad contact"
        ));
    }
    if kind == "NIC" && pcie.generation < pcie.generation_max {
        findings.push(format!(
            "{kind} {address}: PCIe generation {} of {}",
            pcie.generation, pcie.generation_max
        ));
    }
    if kind == "NIC" && pcie.read_request_bytes_max < NIC_READ_REQUEST_BYTES {
        findings.push(format!(
            "{kind} {address}: MaxReadReq is {} bytes, {NIC_READ_REQUEST_BYTES} let RDMA reads fill \
             the link (setpci, at your own judgement: it is not changed here)",
            pcie.read_request_bytes_max
        ));
    }
    findings
}

fn huge_pages(wanted: HugePages, host: &Host, plan: &mut Plan) {
    let HugePages {
        node,
        size_kb,
        count,
    } = wanted;
    match host.huge_pages.get(&(node, size_kb)) {
        None => plan.impossible.push(format!(
            "NUMA node {node} has no huge pages of {size_kb} KiB"
        )),
        Some(now) if *now == count => {}
        Some(now) => plan.changes.push(Change {
            target: Target::HugePages { node, size_kb },
            from: now.to_string(),
            to: count.to_string(),
            why: format!("asked for: {} MiB on that node", count * size_kb / 1024),
        }),
    }
}

#[cfg(test)]
mod tests;
