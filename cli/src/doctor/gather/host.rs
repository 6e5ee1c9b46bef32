//! What the running kernel says: `/proc`, `/sys`, `/dev`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use berth_topology::cpus::CpuList;
use berth_topology::raw::{RawMachine, RawPci};

use super::config_space::acs_control;
use crate::args::doctor::DoctorArgs;
use crate::doctor::facts::{Fact, Host, Interrupts};

const NVIDIA: &str = "0x10de";
/// A PCI device's class of displays and 3D controllers.
const DISPLAY: &str = "0x03";
/// `/proc/modules` of a large machine takes a tenth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// PCIe's configuration space.
const CONFIG_BYTES_MAX: u64 = 4096;
/// MSI-X allows a device no more.
const INTERRUPTS_MAX: usize = 2048;
const PLUGINS: &str = "/var/lib/kubelet/device-plugins";

/// `raw` names the devices that matter.
pub(super) fn read(args: &DoctorArgs, raw: Option<&RawMachine>) -> Host {
    let (sys, proc) = (args.sysfs_root.as_path(), args.proc_root.as_path());
    let devices = raw.map(devices).unwrap_or_default();
    let gpus = devices.iter().filter(|(_, pci)| is_gpu(pci));
    let bridges = devices.values().flat_map(bridges);
    Host {
        driver_module: optional(&proc.join("driver/nvidia/version"))
            .map(|text| text.and_then(|text| Some(text.lines().next()?.to_owned()))),
        modules: text(&proc.join("modules")).map(|text| {
            let names = text.lines().filter_map(|line| line.split(' ').next());
            names.map(str::to_owned).collect()
        }),
        device_files: names(Path::new("/dev")).map(|names| {
            let ours = names.into_iter().filter(|name| name.starts_with("nvidia"));
            ours.collect()
        }),
        command_line: text(&proc.join("cmdline")),
        iommu_types: gpus
            .map(|(bus_id, _)| (bus_id.clone(), iommu_type(sys, bus_id)))
            .collect(),
        acs: bridges
            .map(|bridge| (bridge.to_owned(), acs(sys, bridge)))
            .collect(),
        interrupts: devices
            .iter()
            .map(|(bus_id, pci)| interrupts(sys, proc, bus_id, pci))
            .collect(),
        shm_bytes: shm_bytes(),
        transparent_huge_pages: text(&sys.join("kernel/mm/transparent_hugepage/enabled")),
        plugin_sockets: sockets(),
    }
}

/// GPUs and RDMA cards, by PCI address.
fn devices(raw: &RawMachine) -> BTreeMap<String, RawPci> {
    let cards: Vec<&str> = raw
        .sysfs
        .infiniband
        .values()
        .map(|port| port.pci.as_str())
        .collect();
    let matters = |bus_id: &str, pci: &RawPci| is_gpu(pci) || cards.contains(&bus_id);
    let all = raw.sysfs.pci.iter();
    all.filter(|(bus_id, pci)| matters(bus_id, pci))
        .map(|(bus_id, pci)| (bus_id.clone(), pci.clone()))
        .collect()
}

fn is_gpu(pci: &RawPci) -> bool {
    let class = pci.class.as_deref().unwrap_or_default();
    pci.vendor.as_deref() == Some(NVIDIA) && class.starts_with(DISPLAY)
}

/// The PCI addresses on the way from the root to the device, itself left out.
fn bridges(pci: &RawPci) -> Vec<&str> {
    let path = pci.device_path.as_deref().unwrap_or_default();
    let mut addresses: Vec<&str> = path.split('/').filter(|part| is_address(part)).collect();
    addresses.pop();
    addresses
}

/// `0000:1a:00.0`: it becomes part of a path.
fn is_address(text: &str) -> bool {
    let is_hex = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = text.split([':', '.']).collect();
    parts.len() == 4 && parts.iter().all(|part| is_hex(part))
}

fn acs(sys: &Path, bridge: &str) -> Fact<Option<u16>> {
    let path = sys.join("bus/pci/devices").join(bridge).join("config");
    let mut config = Vec::new();
    let file = File::open(&path).map_err(|error| said(&path, &error))?;
    // Some kernels answer a read past the header with an error instead of an end.
    match file.take(CONFIG_BYTES_MAX).read_to_end(&mut config) {
        Ok(_) => acs_control(&config),
        Err(error) => Err(said(&path, &error)),
    }
}

fn iommu_type(sys: &Path, bus_id: &str) -> Fact<Option<String>> {
    let group = sys.join("bus/pci/devices").join(bus_id).join("iommu_group");
    match group.exists() {
        true => text(&group.join("type")).map(Some),
        false => Ok(None),
    }
}

fn interrupts(sys: &Path, proc: &Path, bus_id: &str, pci: &RawPci) -> Interrupts {
    let folder = sys.join("bus/pci/devices").join(bus_id).join("msi_irqs");
    let numbers = names(&folder).unwrap_or_default();
    let numbers = numbers
        .iter()
        .filter_map(|name| name.parse().ok())
        .take(INTERRUPTS_MAX);
    Interrupts {
        bus_id: bus_id.to_owned(),
        local: pci
            .local_cpulist
            .as_deref()
            .and_then(|list| list.parse().ok())
            .unwrap_or_default(),
        cpus: numbers
            .map(|number| (number, cpus_of(proc, number)))
            .collect(),
    }
}

fn cpus_of(proc: &Path, number: u32) -> Fact<CpuList> {
    let folder = proc.join("irq").join(number.to_string());
    let list = text(&folder.join("effective_affinity_list"))
        .or_else(|_| text(&folder.join("smp_affinity_list")))?;
    list.parse().map_err(|error| format!("{list:?}: {error}"))
}

fn shm_bytes() -> Fact<u64> {
    let path = Path::new("/dev/shm");
    let stat = rustix::fs::statvfs(path).map_err(|error| said(path, &error.into()))?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}

fn sockets() -> Fact<Option<Vec<String>>> {
    let folder = Path::new(PLUGINS);
    match folder.exists() {
        true => names(folder).map(Some),
        false => Ok(None),
    }
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Fact<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(|error| said(folder, &error))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// A file's text, or none where there is no such file.
fn optional(path: &Path) -> Fact<Option<String>> {
    match path.exists() {
        true => text(path).map(Some),
        false => Ok(None),
    }
}

fn text(path: &Path) -> Fact<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| said(path, &error))?;
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| said(path, &error))?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn said(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => format!("there is no {}", path.display()),
        _ => format!("{}: {error}", path.display()),
    }
}
