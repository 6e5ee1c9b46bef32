//! A sysfs tree: devices in `devices/`, found through links in `bus/` and `class/`.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path};

use berth_topology::raw::{RawNuma, RawPci, RawPort, RawSysfs};

/// Class of the bridges on the way to a device, which the record does not list.
const BRIDGE_CLASS: &str = "0x060400";

/// Writes the tree. What the record says is absent is no file.
pub(crate) fn write(sysfs: &RawSysfs, root: &Path) -> io::Result<()> {
    fs::create_dir_all(root)?;
    for (address, pci) in &sysfs.pci {
        write_pci(root, address, pci)?;
    }
    for (name, port) in &sysfs.infiniband {
        write_port(root, sysfs, ("infiniband", name, "ports/1/rate"), port)?;
    }
    for (name, port) in &sysfs.net {
        write_port(root, sysfs, ("net", name, "speed"), port)?;
    }
    for (id, numa) in &sysfs.numa {
        write_numa(root, *id, numa)?;
    }
    put(
        root,
        "devices/system/cpu/online",
        sysfs.cpus_online.as_deref(),
    )
}

fn write_pci(root: &Path, address: &str, pci: &RawPci) -> io::Result<()> {
    let path = device_path(address, Some(pci));
    put(root, &format!("{path}/vendor"), pci.vendor.as_deref())?;
    put(root, &format!("{path}/class"), pci.class.as_deref())?;
    put(root, &format!("{path}/numa_node"), pci.numa_node.as_deref())?;
    put(
        root,
        &format!("{path}/local_cpulist"),
        pci.local_cpulist.as_deref(),
    )?;
    link(root, &format!("bus/pci/devices/{address}"), &path)?;
    write_bridges(root, &path)
}

/// Every folder between `pciDDDD:BB` and the device is a bridge, a PCI device of its own.
fn write_bridges(root: &Path, device: &str) -> io::Result<()> {
    let mut path = String::new();
    let Some((parents, _)) = device.rsplit_once('/') else {
        return Ok(());
    };
    for part in parents.split('/') {
        path = if path.is_empty() {
            part.to_owned()
        } else {
            format!("{path}/{part}")
        };
        let is_bridge = part.matches(':').count() == 2;
        if is_bridge && !root.join(&path).join("class").exists() {
            put(root, &format!("{path}/class"), Some(BRIDGE_CLASS))?;
            link(root, &format!("bus/pci/devices/{part}"), &path)?;
        }
    }
    Ok(())
}

/// An entry of a device class: `class/CLASS/NAME` leads into its device's folder, `device` back.
fn write_port(
    root: &Path,
    sysfs: &RawSysfs,
    (class, name, rate): (&str, &str, &str),
    port: &RawPort,
) -> io::Result<()> {
    let device = device_path(&port.pci, sysfs.pci.get(&port.pci));
    let entry = format!("{device}/{class}/{name}");
    fs::create_dir_all(inside(root, &entry)?)?;
    put(root, &format!("{entry}/{rate}"), port.rate.as_deref())?;
    link(root, &format!("{entry}/device"), &device)?;
    link(root, &format!("class/{class}/{name}"), &entry)
}

fn write_numa(root: &Path, id: u32, numa: &RawNuma) -> io::Result<()> {
    let node = format!("devices/system/node/node{id}");
    fs::create_dir_all(root.join(&node))?;
    put(root, &format!("{node}/cpulist"), numa.cpulist.as_deref())?;
    put(root, &format!("{node}/distance"), numa.distance.as_deref())?;
    let meminfo = numa
        .mem_total_kb
        .map(|kb| format!("Node {id} MemTotal:       {kb} kB"));
    put(root, &format!("{node}/meminfo"), meminfo.as_deref())?;
    for (kb, count) in &numa.huge_pages {
        let pages = format!("{node}/hugepages/hugepages-{kb}kB/nr_hugepages");
        put(root, &pages, Some(&count.to_string()))?;
    }
    Ok(())
}

/// Where a device is; one whose path was not recorded is alone on its bus.
fn device_path(address: &str, pci: Option<&RawPci>) -> String {
    let recorded = pci.and_then(|pci| pci.device_path.clone());
    recorded.unwrap_or_else(|| format!("devices/{address}"))
}

fn put(root: &Path, path: &str, text: Option<&str>) -> io::Result<()> {
    let Some(text) = text else { return Ok(()) };
    let path = inside(root, path)?;
    fs::create_dir_all(path.parent().unwrap_or(root))?;
    fs::write(path, format!("{text}\n"))
}

/// A relative link, as sysfs has: one `..` for each folder above it.
fn link(root: &Path, from: &str, to: &str) -> io::Result<()> {
    let place = inside(root, from)?;
    inside(root, to)?;
    fs::create_dir_all(place.parent().unwrap_or(root))?;
    fs::create_dir_all(root.join(to))?;
    symlink(
        format!("{}{to}", "../".repeat(from.matches('/').count())),
        place,
    )
}

/// A recorded path may only lead below the root.
fn inside(root: &Path, path: &str) -> io::Result<std::path::PathBuf> {
    if Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Ok(root.join(path));
    }
    let why = format!("the recorded path {path:?} leads out of the machine's folder");
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_path_that_leads_out_of_the_folder_is_refused() {
        let pci = RawPci {
            device_path: Some("devices/../../../etc".into()),
            vendor: Some("0x10de".into()),
            ..RawPci::default()
        };
        let sysfs = RawSysfs {
            pci: BTreeMap::from([("0000:01:00.0".to_owned(), pci)]),
            ..RawSysfs::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let error = write(&sysfs, &dir.path().join("sys")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_bridges_above_a_device_are_devices_too() {
        let dir = tempfile::tempdir().unwrap();
        write(&crate::raw("dgx1-v100").sysfs, dir.path()).unwrap();
        let class = dir.path().join("bus/pci/devices/0000:00:01.0/class");
        assert_eq!(fs::read_to_string(class).unwrap(), "0x060400\n");
        let gpu = fs::canonicalize(dir.path().join("bus/pci/devices/0000:06:00.0")).unwrap();
        assert!(
            gpu.ends_with("0000:00:01.0/0000:03:00.0/0000:04:01.0/0000:06:00.0"),
            "{gpu:?}"
        );
    }
}
