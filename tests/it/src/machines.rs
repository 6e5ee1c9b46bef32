//! Recorded machines, laid out as files: what a node has under `/sys`, for an agent to read.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use berth_topology::raw::{RawMachine, RawPort, RawSysfs};

use crate::hwloc_xml;
use crate::programs::repository;

/// A machine's files, for the agent's flags.
#[derive(Clone, Debug)]
pub struct LaidOut {
    /// What the stand-in `libnvidia-ml` answers from.
    pub raw_file: PathBuf,
    /// In place of `/sys`.
    pub sysfs_root: PathBuf,
    /// In place of asking hwloc about this machine.
    pub hwloc_xml: PathBuf,
    /// GPUs that NVML counts.
    pub gpu_count: usize,
}

/// The raw record of a machine in `machines/`.
///
/// # Errors
/// When there is none of that name, or it is not one.
pub fn recorded(name: &str) -> Result<RawMachine> {
    let path = repository().join(format!("machines/{name}.raw.json"));
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))
}

/// Lays a machine out below `folder`, which must not be there yet.
///
/// # Errors
/// When a file cannot be written.
pub fn lay_out(machine: &RawMachine, folder: &Path) -> Result<LaidOut> {
    let sysfs_root = folder.join("sys");
    let laid_out = LaidOut {
        raw_file: folder.join("machine.raw.json"),
        hwloc_xml: folder.join("hwloc.xml"),
        gpu_count: machine.nvml.value().map_or(0, |nvml| nvml.gpus.len()),
        sysfs_root: sysfs_root.clone(),
    };
    write_sysfs(&machine.sysfs, &sysfs_root)?;
    write(&laid_out.raw_file, &serde_json::to_string(machine)?)?;
    let hwloc = machine
        .hwloc
        .value()
        .context("reading what hwloc said of the machine")?;
    write(&laid_out.hwloc_xml, &hwloc_xml::of_machine(hwloc))?;
    Ok(laid_out)
}

fn write_sysfs(sysfs: &RawSysfs, root: &Path) -> Result<()> {
    write_pci(sysfs, root)?;
    for (id, numa) in &sysfs.numa {
        let folder = root.join(format!("devices/system/node/node{id}"));
        write_known(&folder.join("cpulist"), numa.cpulist.as_deref())?;
        write_known(&folder.join("distance"), numa.distance.as_deref())?;
        let total = numa
            .mem_total_kb
            .map(|kb| format!("Node {id} MemTotal:       {kb} kB"));
        write_known(&folder.join("meminfo"), total.as_deref())?;
        for (page_kb, count) in &numa.huge_pages {
            let pages = folder.join(format!("hugepages/hugepages-{page_kb}kB/nr_hugepages"));
            write(&pages, &format!("{count}\n"))?;
        }
    }
    let online = sysfs
        .numa
        .keys()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(",");
    write(
        &root.join("devices/system/node/online"),
        &format!("{online}\n"),
    )?;
    write_known(
        &root.join("devices/system/cpu/online"),
        sysfs.cpus_online.as_deref(),
    )?;
    for (name, port) in &sysfs.infiniband {
        write_port(sysfs, root, &format!("class/infiniband/{name}"), port)?;
        let rate = root.join(format!("class/infiniband/{name}/ports/1/rate"));
        write_known(&rate, port.rate.as_deref())?;
    }
    for (name, port) in &sysfs.net {
        write_port(sysfs, root, &format!("class/net/{name}"), port)?;
        write_known(
            &root.join(format!("class/net/{name}/speed")),
            port.rate.as_deref(),
        )?;
    }
    Ok(())
}

/// `bus/pci/devices/ADDRESS` are links to folders that tell the bridges above a device by their path.
fn write_pci(sysfs: &RawSysfs, root: &Path) -> Result<()> {
    let bus = root.join("bus/pci/devices");
    fs::create_dir_all(&bus).context("making the folder of PCI devices")?;
    for (address, device) in &sysfs.pci {
        let path = device_path(sysfs, address);
        let folder = root.join(&path);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        write_known(&folder.join("vendor"), device.vendor.as_deref())?;
        write_known(&folder.join("class"), device.class.as_deref())?;
        write_known(&folder.join("numa_node"), device.numa_node.as_deref())?;
        write_known(
            &folder.join("local_cpulist"),
            device.local_cpulist.as_deref(),
        )?;
        link(&format!("../../../{path}"), &bus.join(address))?;
    }
    Ok(())
}

/// A network card's entry, whose `device` leads to the PCI device.
fn write_port(sysfs: &RawSysfs, root: &Path, entry: &str, port: &RawPort) -> Result<()> {
    let folder = root.join(entry);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    link(
        &format!("../../../{}", device_path(sysfs, &port.pci)),
        &folder.join("device"),
    )
}

fn device_path(sysfs: &RawSysfs, address: &str) -> String {
    let known = sysfs
        .pci
        .get(address)
        .and_then(|device| device.device_path.clone());
    known.unwrap_or_else(|| format!("devices/pci0000:00/{address}"))
}

/// A file that the machine does not have is absent here as well.
fn write_known(path: &Path, text: Option<&str>) -> Result<()> {
    text.map_or(Ok(()), |text| write(path, &format!("{text}\n")))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().context("finding the folder of a file")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn link(to: &str, at: &Path) -> Result<()> {
    symlink(to, at).with_context(|| format!("linking {} to {to}", at.display()))
}
