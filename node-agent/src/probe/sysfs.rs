//! The kernel's view: PCI devices, NUMA nodes and network cards, below a root that tests replace.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use berth_topology::raw::{RawNuma, RawPci, RawPort, RawSysfs};

use super::text;
use crate::assemble::pci;

/// A full PCI segment; a server with virtual functions has a few thousand.
const PCI_DEVICES_MAX: usize = 65_536;
/// The kernel's own limit (`MAX_NUMNODES` with `NODES_SHIFT` 10).
const NUMA_NODES_MAX: usize = 1024;
/// Interfaces that are looked at; containers add virtual ones.
const INTERFACES_MAX: usize = 16_384;

/// Reads what is there; what is not stays absent.
pub(crate) fn read(root: &Path) -> RawSysfs {
    let pci = pci_devices(root);
    let ports = |class: &str, rate: fn(&Path) -> Option<String>| ports(root, class, &pci, rate);
    RawSysfs {
        infiniband: ports("class/infiniband", |port| {
            text::read(&port.join("ports/1/rate"))
        }),
        net: ports("class/net", |port| text::read(&port.join("speed"))),
        numa: numa_nodes(root),
        cpus_online: text::read(&root.join("devices/system/cpu/online")),
        pci,
    }
}

/// GPUs, NVSwitches and network cards. Virtual functions come and go with pods and are left out.
fn pci_devices(root: &Path) -> BTreeMap<String, RawPci> {
    let folder = root.join("bus/pci/devices");
    names(&folder, PCI_DEVICES_MAX)
        .into_iter()
        .filter(|name| pci::is_address(name))
        .filter_map(|name| Some((name.clone(), pci_device(root, &folder.join(name))?)))
        .collect()
}

fn pci_device(root: &Path, folder: &Path) -> Option<RawPci> {
    let device = RawPci {
        vendor: text::read(&folder.join("vendor")),
        class: text::read(&folder.join("class")),
        ..RawPci::default()
    };
    if !pci::is_of_interest(&device) || folder.join("physfn").exists() {
        return None;
    }
    Some(RawPci {
        device_path: device_path(root, folder),
        numa_node: text::read(&folder.join("numa_node")),
        local_cpulist: text::read(&folder.join("local_cpulist")),
        ..device
    })
}

/// Where a link leads, below the root.
fn device_path(root: &Path, link: &Path) -> Option<String> {
    let target = fs::canonicalize(link).ok()?;
    let below = target.strip_prefix(fs::canonicalize(root).ok()?).ok()?;
    Some(below.to_str()?.to_owned())
}

/// Entries of a device class whose device is one of `pci`, by name.
fn ports(
    root: &Path,
    class: &str,
    pci: &BTreeMap<String, RawPci>,
    rate: fn(&Path) -> Option<String>,
) -> BTreeMap<String, RawPort> {
    let folder = root.join(class);
    let port = |name: String| {
        let entry = folder.join(&name);
        // `device` may lead to a bus on top of PCI, such as virtio: the last address is the card
        let path = device_path(root, &entry.join("device"))?;
        let address = path
            .split('/')
            .rfind(|part| pci::is_address(part))?
            .to_owned();
        pci.contains_key(&address).then(|| {
            (
                name,
                RawPort {
                    pci: address,
                    rate: rate(&entry),
                },
            )
        })
    };
    names(&folder, INTERFACES_MAX)
        .into_iter()
        .filter_map(port)
        .collect()
}

fn numa_nodes(root: &Path) -> BTreeMap<u32, RawNuma> {
    let folder = root.join("devices/system/node");
    let numbered = |name: &String| name.strip_prefix("node")?.parse().ok();
    names(&folder, NUMA_NODES_MAX + 64)
        .into_iter()
        .filter_map(|name| Some((numbered(&name)?, numa_node(&folder.join(&name)))))
        .take(NUMA_NODES_MAX)
        .collect()
}

fn numa_node(folder: &Path) -> RawNuma {
    RawNuma {
        cpulist: text::read(&folder.join("cpulist")),
        distance: text::read(&folder.join("distance")),
        mem_total_kb: text::read(&folder.join("meminfo"))
            .as_deref()
            .and_then(mem_total_kb),
        huge_pages: huge_pages(&folder.join("hugepages")),
    }
}

/// From `Node 0 MemTotal:       65797920 kB`.
fn mem_total_kb(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.contains("MemTotal:"))?;
    line.split_whitespace().rev().nth(1)?.parse().ok()
}

/// Folders `hugepages-NkB`, by N.
fn huge_pages(folder: &Path) -> BTreeMap<u64, u64> {
    let pages = |name: String| {
        let kb = name
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        let total = text::read(&folder.join(&name).join("nr_hugepages"))?
            .parse()
            .ok()?;
        Some((kb, total))
    };
    names(folder, 64).into_iter().filter_map(pages).collect()
}

/// Names in a folder, sorted; none where there is no folder.
pub(crate) fn names(folder: &Path, count_max: usize) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    let mut names: Vec<String> = entries.take(count_max).filter_map(name).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn device(root: &Path, path: &str, class: &str) {
        write(root, &format!("{path}/class"), &format!("{class}\n"));
        write(root, &format!("{path}/vendor"), "0x10de\n");
        write(root, &format!("{path}/numa_node"), "-1\n");
        let links = root.join("bus/pci/devices");
        fs::create_dir_all(&links).unwrap();
        let name = path.rsplit('/').next().unwrap();
        symlink(format!("../../../{path}"), links.join(name)).unwrap();
    }

    #[test]
    fn a_machine_without_sysfs_reads_as_empty() {
        assert_eq!(read(Path::new("/nonexistent")), RawSysfs::default());
    }

    #[test]
    fn devices_are_found_where_their_links_lead_and_only_of_the_kinds_that_matter() {
        let root = tempfile::tempdir().unwrap();
        let gpu = "devices/pci0000:16/0000:16:01.0/0000:1a:00.0";
        device(root.path(), gpu, "0x030200");
        device(root.path(), "devices/pci0000:00/0000:00:1f.0", "0x060100");
        let sysfs = read(root.path());
        assert_eq!(sysfs.pci.keys().collect::<Vec<_>>(), ["0000:1a:00.0"]);
        assert_eq!(sysfs.pci["0000:1a:00.0"].device_path.as_deref(), Some(gpu));
        assert_eq!(sysfs.pci["0000:1a:00.0"].numa_node.as_deref(), Some("-1"));
    }

    #[test]
    fn a_virtio_card_is_the_pci_device_below_it_and_virtual_functions_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        let card = "devices/pci0000:00/0000:00:03.0";
        device(root.path(), card, "0x020000");
        device(root.path(), "devices/pci0000:00/0000:00:04.0", "0x020000");
        fs::create_dir(root.path().join("devices/pci0000:00/0000:00:04.0/physfn")).unwrap();
        write(
            root.path(),
            &format!("{card}/virtio1/net/eth0/speed"),
            "25000\n",
        );
        fs::create_dir_all(root.path().join("class/net")).unwrap();
        let interface = root.path().join(format!("{card}/virtio1/net/eth0"));
        symlink(
            root.path().join(format!("{card}/virtio1")),
            interface.join("device"),
        )
        .unwrap();
        symlink(&interface, root.path().join("class/net/eth0")).unwrap();
        let sysfs = read(root.path());
        assert_eq!(sysfs.pci.len(), 1);
        let port = RawPort {
            pci: "0000:00:03.0".into(),
            rate: Some("25000".into()),
        };
        assert_eq!(sysfs.net, BTreeMap::from([("eth0".to_owned(), port)]));
    }

    #[test]
    fn numa_nodes_give_memory_distances_and_huge_pages() {
        let root = tempfile::tempdir().unwrap();
        let node = "devices/system/node/node1";
        write(root.path(), &format!("{node}/cpulist"), "\n");
        write(root.path(), &format!("{node}/distance"), "21 10\n");
        let meminfo = "Node 1 MemTotal:       65797920 kB\nNode 1 MemFree: 5 kB\n";
        write(root.path(), &format!("{node}/meminfo"), meminfo);
        write(
            root.path(),
            &format!("{node}/hugepages/hugepages-2048kB/nr_hugepages"),
            "8\n",
        );
        let expected = RawNuma {
            cpulist: Some(String::new()),
            distance: Some("21 10".into()),
            mem_total_kb: Some(65_797_920),
            huge_pages: BTreeMap::from([(2048, 8)]),
        };
        assert_eq!(read(root.path()).numa, BTreeMap::from([(1, expected)]));
    }
}
