//! What stands between devices on PCI: ACS, the IOMMU, and where interrupts go.

use berth_topology::cpus::CpuList;

use super::{Finding, gpus, note, ok, status, unknown, warning};
use crate::doctor::facts::{Facts, Host, Interrupts};

/// ACS control register: request redirect and completion redirect (PCIe 6.0, 7.7.11.3).
const REDIRECTS: u16 = 0b1100;

/// Nothing is asked of a machine without GPUs, nor said of one whose kernel cannot be asked.
fn host<'a>(check: &'static str, facts: &'a Facts) -> Result<&'a Host, Vec<Finding>> {
    if gpus(facts).is_empty() {
        return Err(Vec::new());
    }
    facts.host.as_ref().map_err(|why| {
        let message = "it takes the machine itself to tell";
        vec![
            unknown(check, message)
                .read(why, "/sys and /proc")
                .fix("run `berth doctor` on it, as root"),
        ]
    })
}

/// A bridge that redirects sends what one GPU writes to another up to the root complex and back.
pub(super) fn acs(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let host = match host(check, facts) {
        Ok(host) => host,
        Err(found) => return found,
    };
    let from = |bridge: &str| format!("ACS control register, /sys/bus/pci/devices/{bridge}/config");
    let mut redirecting = Vec::new();
    let mut unread = Vec::new();
    for (bridge, control) in &host.acs {
        match control {
            Ok(Some(control)) if control & REDIRECTS != 0 => {
                redirecting.push((format!("{control:#06x}"), from(bridge)));
            }
            Ok(_) => {}
            Err(why) => unread.push((why.clone(), from(bridge))),
        }
    }
    let mut found = Vec::new();
    if !redirecting.is_empty() {
        let message = format!(
            "{} of {} PCI bridges above GPUs and RDMA cards redirect peer traffic (ACS)",
            redirecting.len(),
            host.acs.len()
        );
        found.push(
            warning(check, message).read_all(redirecting).fix(
                "turn ACS off in the BIOS, or `setpci -s BRIDGE ECAP_ACS+0x6.w=0000` for each; not in a virtual \
                 machine, which needs it",
            ),
        );
    }
    if !unread.is_empty() {
        let message = "whether PCI bridges redirect peer traffic (ACS) is not known";
        found.push(
            unknown(check, message)
                .read_all(unread)
                .fix("run it as root"),
        );
    }
    if found.is_empty() {
        let count = host.acs.len();
        found.push(match count {
            0 => unknown(check, "no PCI bridge above a GPU was seen").read("none", "sysfs"),
            _ => ok(
                check,
                format!("none of {count} PCI bridges redirects peer traffic (ACS)"),
            )
            .read("0x0000 or no ACS", "/sys/bus/pci/devices/*/config"),
        });
    }
    found
}

/// Groups of type `DMA` and `DMA-FQ` translate each transfer; `identity` does not.
pub(super) fn iommu(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let host = match host(check, facts) {
        Ok(host) => host,
        Err(found) => return found,
    };
    let from = |bus_id: &str| format!("/sys/bus/pci/devices/{bus_id}/iommu_group/type");
    let mut translated = Vec::new();
    let mut unread = Vec::new();
    for (bus_id, kind) in &host.iommu_types {
        match kind {
            Ok(Some(kind)) if kind.starts_with("DMA") => {
                translated.push((kind.clone(), from(bus_id)));
            }
            Ok(_) => {}
            Err(why) => unread.push((why.clone(), from(bus_id))),
        }
    }
    if !translated.is_empty() {
        let line = host.command_line.clone().unwrap_or_else(|why| why);
        return vec![
            note(check, "the IOMMU translates what GPUs read and write: peer transfers may be slower")
                .read_all(translated)
                .read(iommu_words(&line), "/proc/cmdline")
                .fix("boot with iommu=pt (and intel_iommu=on or amd_iommu=on), if no untrusted device needs more"),
        ];
    }
    if !unread.is_empty() {
        return vec![unknown(check, "what the IOMMU does is not known").read_all(unread)];
    }
    vec![
        ok(check, "the IOMMU is off for the GPUs, or passes through")
            .read("identity or no group", "/sys/bus/pci/devices/*/iommu_group"),
    ]
}

fn iommu_words(line: &str) -> String {
    let words: Vec<&str> = line
        .split_whitespace()
        .filter(|word| word.contains("iommu"))
        .collect();
    match words.is_empty() {
        true => "no word about iommu".to_owned(),
        false => words.join(" "),
    }
}

/// Interrupts that other sockets handle cost a hop each.
pub(super) fn interrupts(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let host = match host(check, facts) {
        Ok(host) => host,
        Err(found) => return found,
    };
    let with_cpus = status(facts).map_or(0, |status| {
        status
            .numa
            .iter()
            .filter(|node| !node.cpus.is_empty())
            .count()
    });
    if with_cpus == 1 {
        return vec![
            ok(check, "there is one NUMA node: no interrupt is far").read("1", "status.numa"),
        ];
    }
    let far: Vec<(String, String)> = host.interrupts.iter().filter_map(far).collect();
    if !far.is_empty() {
        return vec![
            note(check, format!("interrupts of {} devices go to CPUs of other NUMA nodes", far.len()))
                .read_all(far)
                .fix("irqbalance with --hintpolicy=subset, or write the NUMA node's CPUs into /proc/irq/N/smp_affinity_list"),
        ];
    }
    let all = || host.interrupts.iter().flat_map(|device| device.cpus.iter());
    if let Some((number, Err(why))) = all().find(|(_, cpus)| cpus.is_err()) {
        return vec![
            unknown(check, "where interrupts go is not known")
                .read(why, format!("/proc/irq/{number}")),
        ];
    }
    match all().count() {
        0 => vec![
            unknown(check, "no interrupt of a GPU or RDMA card was seen")
                .read("none", "/sys/bus/pci/devices/*/msi_irqs"),
        ],
        count => vec![
            ok(
                check,
                format!("all {count} interrupts of GPUs and RDMA cards stay on their NUMA node"),
            )
            .read(count.to_string(), "/proc/irq/*/effective_affinity_list"),
        ],
    }
}

/// The device and its first interrupt that no CPU near it handles.
fn far(device: &Interrupts) -> Option<(String, String)> {
    let is_far = |cpus: &CpuList| !cpus.is_empty() && cpus.intersection(&device.local).is_empty();
    let far: Vec<(&u32, &CpuList)> = device
        .cpus
        .iter()
        .filter_map(|(number, cpus)| Some((number, cpus.as_ref().ok()?)))
        .filter(|(_, cpus)| !device.local.is_empty() && is_far(cpus))
        .collect();
    let (number, cpus) = far.first()?;
    let value = format!(
        "{}: {} of {} interrupts far from CPUs {}, such as {number} on CPUs {cpus}",
        device.bus_id,
        far.len(),
        device.cpus.len(),
        device.local
    );
    Some((value, format!("/proc/irq/{number}/effective_affinity_list")))
}
