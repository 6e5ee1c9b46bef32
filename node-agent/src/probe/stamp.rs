//! What is cheap to look at, twice a second, and differs when the machine does.
//!
//! Names of the PCI devices (hot-plug, a GPU that was removed and found again), CPUs and NUMA nodes that
//! are online, which load of NVIDIA's driver this is, and the kubelet's configuration file. Some hundred
//! microseconds of reading sysfs, which needs no capability, where the kernel's own announcements need a
//! socket of the host's network.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use berth_topology::raw::{Answer, RawKubelet};

use super::text;

/// A full PCI segment.
const DEVICES_MAX: usize = 65_536;

/// Two equal ones: no reason to ask everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Sum of hashes: a folder has no order.
    pci_devices: u64,
    cpus_online: Option<String>,
    numa_nodes_online: Option<String>,
    driver_load: Option<u64>,
    kubelet_config: Option<FileStamp>,
    kubelet: Option<Answer<RawKubelet>>,
}

/// Inode, size, and when it was written: seconds and nanoseconds.
type FileStamp = (u64, u64, i64, i64);

// === impl Stamp ===

impl Stamp {
    /// Looks below the root of a sysfs, and at the kubelet's configuration.
    #[must_use]
    pub fn read(sysfs_root: &Path, kubelet_config: Option<&Path>) -> Self {
        Self {
            pci_devices: names_hash(&sysfs_root.join("bus/pci/devices")),
            cpus_online: text::read(&sysfs_root.join("devices/system/cpu/online")),
            numa_nodes_online: text::read(&sysfs_root.join("devices/system/node/online")),
            driver_load: driver_load(sysfs_root),
            kubelet_config: kubelet_config.and_then(file_stamp),
            kubelet: None,
        }
    }

    /// The same with what the kubelet told, which costs nothing to look at.
    pub(super) fn with_kubelet(self, kubelet: Option<Answer<RawKubelet>>) -> Self {
        Self { kubelet, ..self }
    }
}

/// The inode of the driver's module: the kernel numbers each folder of sysfs anew. Absent without it.
pub(super) fn driver_load(sysfs_root: &Path) -> Option<u64> {
    let module = fs::metadata(sysfs_root.join("module/nvidia")).ok()?;
    Some(module.ino())
}

fn file_stamp(path: &Path) -> Option<FileStamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

fn names_hash(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let hash = |entry: fs::DirEntry| {
        let mut hasher = DefaultHasher::new();
        entry.file_name().hash(&mut hasher);
        hasher.finish()
    };
    entries
        .take(DEVICES_MAX)
        .map(hash)
        .fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&Path)) {
        let root = tempfile::tempdir().unwrap();
        let devices = root.path().join("bus/pci/devices");
        fs::create_dir_all(devices.join("0000:1a:00.0")).unwrap();
        fs::create_dir_all(devices.join("0000:1b:00.0")).unwrap();
        let config = root.path().join("config.yaml");
        let read = || Stamp::read(root.path(), Some(&config));
        let before = read();
        assert_eq!(read(), before);
        change(root.path());
        assert_ne!(read(), before);
    }

    #[test]
    fn a_device_that_goes_and_one_that_comes_are_noticed() {
        check(|root| fs::remove_dir(root.join("bus/pci/devices/0000:1a:00.0")).unwrap());
        check(|root| fs::create_dir(root.join("bus/pci/devices/0000:1c:00.0")).unwrap());
    }

    #[test]
    fn a_driver_that_is_loaded_and_cpus_that_come_online_are_noticed() {
        check(|root| fs::create_dir_all(root.join("module/nvidia")).unwrap());
        check(|root| {
            fs::create_dir_all(root.join("devices/system/cpu")).unwrap();
            fs::write(root.join("devices/system/cpu/online"), "0-3\n").unwrap();
        });
    }

    #[test]
    fn a_kubelet_that_is_configured_is_noticed() {
        check(|root| fs::write(root.join("config.yaml"), "kind: KubeletConfiguration").unwrap());
    }

    #[test]
    fn a_machine_without_sysfs_has_a_stamp_too() {
        assert_eq!(
            Stamp::read(Path::new("/nonexistent"), None),
            Stamp::default()
        );
    }
}
