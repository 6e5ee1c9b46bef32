//! What the kernel's files say: the model that a plan is made from. Reads, and never writes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use berth_topology::cpus::CpuList;
use berth_topology::raw::{Answer, RawPci};

use super::Machine;
use super::gpus::Gpu;
use super::pcie::{self, Pcie};
use crate::assemble::pci::{self, Kind};
use crate::probe::{sysfs, text};

/// Above the kernel's own limit of CPUs (`NR_CPUS`).
const CPUS_MAX: usize = 16_384;
/// PCI devices that are looked at.
const DEVICES_MAX: usize = 65_536;
/// Interrupts of one device: MSI-X has 2,048.
const IRQS_MAX: usize = 2_048;
/// Processes that are looked at.
const PROCESSES_MAX: usize = 100_000;
/// The configuration space of a PCIe device.
const CONFIG_BYTES_MAX: u64 = 4_096;

/// A machine's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// By CPU; those without frequency scaling are left out, as in most virtual machines.
    pub governors: BTreeMap<u32, Governor>,
    /// CPUs that run.
    pub online: CpuList,
    /// GPUs and network cards.
    pub devices: Vec<Device>,
    /// CPUs by NUMA node.
    pub nodes: BTreeMap<u32, CpuList>,
    /// Huge pages there are, by node and size in KiB.
    pub huge_pages: BTreeMap<(u32, u64), u64>,
    /// GPUs that NVML lists, or why it cannot be asked.
    pub gpus: Answer<Vec<Gpu>>,
    /// Whether this program may do what NVML leaves to root.
    pub is_root: bool,
    /// A daemon moves interrupts by itself.
    pub irqbalance_runs: bool,
}

/// One CPU's scaling governor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Governor {
    /// `scaling_governor`.
    pub now: String,
    /// `scaling_available_governors`.
    pub offered: Vec<String>,
}

/// One GPU or network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its PCI address.
    pub address: String,
    /// `GPU` or `NIC`.
    pub kind: &'static str,
    /// Absent where the firmware does not say.
    pub numa_node: Option<u32>,
    /// Its interrupts, with the CPUs that each may go to; a list that cannot be read is absent.
    pub irqs: BTreeMap<u32, Option<CpuList>>,
    /// Its link; absent where the configuration space is not all readable, which takes root.
    pub pcie: Option<Pcie>,
}

/// Reads everything; what cannot be read is left out.
#[must_use]
pub fn read(machine: &Machine) -> Host {
    let cpus = machine.sys.join("devices/system/cpu");
    let raw = sysfs::read(&machine.sys);
    let list = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or_default();
    let huge = raw.numa.iter().flat_map(|(node, numa)| {
        let sizes = numa.huge_pages.iter();
        sizes.map(|(size_kb, count)| ((*node, *size_kb), *count))
    });
    Host {
        governors: governors(&cpus),
        online: list(raw.cpus_online.as_deref()),
        devices: devices(machine, &raw.pci),
        huge_pages: huge.collect(),
        nodes: raw
            .numa
            .iter()
            .map(|(node, numa)| (*node, list(numa.cpulist.as_deref())))
            .collect(),
        gpus: machine.gpus.read(),
        is_root: is_root(),
        irqbalance_runs: irqbalance_runs(&machine.proc),
    }
}

/// By whom this process's own folder belongs to, which is its effective user.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|folder| folder.uid() == 0)
}

fn governors(cpus: &Path) -> BTreeMap<u32, Governor> {
    let governor = |name: String| {
        let cpu = name.strip_prefix("cpu")?.parse().ok()?;
        let folder = cpus.join(&name).join("cpufreq");
        let offered = text::read(&folder.join("scaling_available_governors"))?;
        let governor = Governor {
            now: text::read(&folder.join("scaling_governor"))?,
            offered: offered.split_whitespace().map(str::to_owned).collect(),
        };
        Some((cpu, governor))
    };
    let names = sysfs::names(cpus, CPUS_MAX);
    names.into_iter().filter_map(governor).collect()
}

fn devices(machine: &Machine, found: &BTreeMap<String, RawPci>) -> Vec<Device> {
    let device = |(address, raw): (&String, &RawPci)| {
        let kind = match pci::kind(raw)? {
            Kind::Gpu => "GPU",
            Kind::NetworkCard => "NIC",
            Kind::NvSwitch => return None,
        };
        let folder = machine.sys.join("bus/pci/devices").join(address);
        Some(Device {
            address: address.clone(),
            kind,
            numa_node: raw.numa_node.as_ref().and_then(|node| node.parse().ok()),
            irqs: irqs(&folder, &machine.proc),
            pcie: text::read_bounded(&folder.join("config"), CONFIG_BYTES_MAX)
                .ok()
                .and_then(|config| pcie::read(&config)),
        })
    };
    found.iter().take(DEVICES_MAX).filter_map(device).collect()
}

/// Message-signalled ones; the pin's is shared with other devices and left alone.
fn irqs(device: &Path, proc: &Path) -> BTreeMap<u32, Option<CpuList>> {
    let names = sysfs::names(&device.join("msi_irqs"), IRQS_MAX);
    let numbers = names.iter().filter_map(|name| name.parse::<u32>().ok());
    let affinity = |irq: u32| {
        let path = proc.join(format!("irq/{irq}/smp_affinity_list"));
        (irq, text::read(&path).and_then(|list| list.parse().ok()))
    };
    numbers.map(affinity).collect()
}

fn irqbalance_runs(proc: &Path) -> bool {
    let Ok(entries) = fs::read_dir(proc) else {
        return false;
    };
    let is_it = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        Some(text::read(&entry.path().join("comm"))? == "irqbalance")
    };
    entries
        .take(PROCESSES_MAX)
        .filter_map(is_it)
        .any(|is_it| is_it)
}
