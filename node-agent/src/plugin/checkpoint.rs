//! The kubelet's own book of what it gave: `kubelet_internal_checkpoint`.
//!
//! Written by the kubelet at the end of each container's allocation and whenever a plugin's devices
//! change, before anything else is admitted. It has what PodResources lacks: the pod's uid, and
//! plain init containers. It still lists pods that have ended until it is next written.
//! Source: `pkg/kubelet/cm/devicemanager/checkpoint/checkpoint.go` of Kubernetes 1.37.1. Its checksum
//! is over Go's own rendering of the data and is not verified.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use berth_topology::ids::GpuUuid;
use serde::Deserialize;

/// Its name in the kubelet's folder.
pub const FILE: &str = "kubelet_internal_checkpoint";
/// A thousand containers of sixteen devices each, with their answers.
const BYTES_MAX: u64 = 16 << 20;

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which version that is; absent where there is none yet.
    pub stamp: Option<Stamp>,
    /// What it gave.
    pub entries: Vec<Entry>,
}

/// One version of the file: the kubelet writes a new one and renames it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    modified_s: i64,
    modified_ns: i64,
    bytes: u64,
}

/// Devices of one resource that one container was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The pod, as the kubelet knows it.
    pub pod_uid: String,
    /// The container.
    pub container: String,
    /// The resource.
    pub resource: String,
    /// The devices, by identity.
    pub devices: Vec<GpuUuid>,
}

/// Why it could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("cannot read the kubelet's checkpoint {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in it.
    #[error("{path} is not a checkpoint of the kubelet's device manager")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "Data")]
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "PodDeviceEntries", default)]
    entries: Option<Vec<Row>>,
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "ContainerName")]
    container: String,
    #[serde(rename = "ResourceName")]
    resource: String,
    /// By NUMA node, -1 for unknown. A device near two nodes is listed twice.
    #[serde(rename = "DeviceIDs", default)]
    devices: Option<BTreeMap<i64, Vec<String>>>,
}

// === impl Checkpoint ===

impl Checkpoint {
    /// Reads the file in the kubelet's folder, if it is another than before. A folder without one is
    /// a kubelet that gave nothing.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read_again(&mut self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(FILE);
        match read(&path, self.stamp) {
            Ok(None) => Ok(()),
            Ok(Some((stamp, bytes))) => {
                self.entries = decode(&bytes).map_err(|source| Error::Parse { path, source })?;
                self.stamp = Some(stamp);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                *self = Self::default();
                Ok(())
            }
            Err(source) => Err(Error::Read { path, source }),
        }
    }
}

fn read(path: &Path, known: Option<Stamp>) -> std::io::Result<Option<(Stamp, Vec<u8>)>> {
    let file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    let stamp = Stamp {
        inode: metadata.ino(),
        modified_s: metadata.mtime(),
        modified_ns: metadata.mtime_nsec(),
        bytes: metadata.len(),
    };
    if known == Some(stamp) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some((stamp, bytes)))
}

fn decode(bytes: &[u8]) -> Result<Vec<Entry>, serde_json::Error> {
    let file: File = serde_json::from_slice(bytes)?;
    let rows = file.data.entries.unwrap_or_default().into_iter();
    Ok(rows.map(Entry::from).collect())
}

impl From<Row> for Entry {
    fn from(row: Row) -> Self {
        let by_node = row.devices.unwrap_or_default();
        let ids = by_node.into_values().flatten();
        let mut devices: Vec<GpuUuid> = ids.map(|id| device(&id)).collect();
        devices.sort();
        devices.dedup();
        Self {
            pod_uid: row.pod_uid,
            container: row.container,
            resource: row.resource,
            devices,
        }
    }
}

/// The GPU of a device: NVIDIA's plugin numbers the shares of a GPU that several pods may hold,
/// `GPU-…::3`.
pub(crate) fn device(id: &str) -> GpuUuid {
    let uuid = id.split_once("::").map_or(id, |(uuid, _)| uuid);
    GpuUuid::from(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a kubelet 1.37.1 writes it.
    const WRITTEN: &str = r#"{"Data":{"PodDeviceEntries":[{"PodUID":"u1","ContainerName":"main",
        "ResourceName":"nvidia.com/gpu","DeviceIDs":{"-1":["GPU-c"],"0":["GPU-b","GPU-a"],"1":["GPU-b"]},
        "AllocResp":"CgA="}],"RegisteredDevices":{"nvidia.com/gpu":["GPU-a","GPU-b","GPU-c"]}},"Checksum":42}"#;

    #[test]
    fn devices_of_all_numa_nodes_are_those_of_the_container() {
        let entries = decode(WRITTEN.as_bytes()).unwrap();
        assert_eq!(
            entries,
            [Entry {
                pod_uid: "u1".to_owned(),
                container: "main".to_owned(),
                resource: "nvidia.com/gpu".to_owned(),
                devices: ["GPU-a", "GPU-b", "GPU-c"].map(GpuUuid::from).to_vec(),
            }]
        );
    }

    #[test]
    fn a_kubelet_that_gave_nothing_yet_has_no_entries() {
        let empty = r#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":1}"#;
        assert_eq!(decode(empty.as_bytes()).unwrap(), []);
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = Checkpoint::default();
        checkpoint.read_again(folder.path()).unwrap();
        assert_eq!(checkpoint, Checkpoint::default());
    }

    #[test]
    fn a_file_that_is_no_checkpoint_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        let error = Checkpoint::default().read_again(folder.path()).unwrap_err();
        assert!(error.to_string().contains(FILE), "{error}");
    }

    #[test]
    fn what_was_read_stays_until_the_kubelet_has_written_another() {
        let folder = tempfile::tempdir().unwrap();
        let (path, next) = (folder.path().join(FILE), folder.path().join("next"));
        std::fs::write(&path, WRITTEN).unwrap();
        let mut checkpoint = Checkpoint::default();
        checkpoint.read_again(folder.path()).unwrap();
        let before = checkpoint.clone();
        checkpoint.read_again(folder.path()).unwrap();
        assert_eq!(checkpoint, before);
        std::fs::write(&next, WRITTEN.replace("main", "side")).unwrap();
        std::fs::rename(&next, &path).unwrap();
        checkpoint.read_again(folder.path()).unwrap();
        assert_ne!(checkpoint.stamp, before.stamp);
        assert_eq!(checkpoint.entries[0].container, "side");
    }

    #[test]
    fn a_share_of_a_gpu_is_that_gpu() {
        assert_eq!(device("GPU-a::3"), GpuUuid::from("GPU-a"));
        assert_eq!(device("GPU-a"), GpuUuid::from("GPU-a"));
    }
}
