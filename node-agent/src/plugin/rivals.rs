//! Whether somebody else serves a resource already.
//!
//! The kubelet takes any number of plugins for one resource and asks whichever came last, so it
//! would let two of them give the same GPUs. Two signs are certain:
//!
//! * The kubelet has healthy devices of the resource while it watches none of ours.
//! * The socket that NVIDIA's plugin uses for it answers. It is no longer in the way when its file
//!   is left behind by a plugin that is gone.
//!
//! A plugin's socket does not tell which resource it serves, so other sockets are left alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::api::{DEVICE_PLUGIN, DevicePluginOptions, Empty};
use super::channel;
use super::gate::Gate;
use super::pod_resources::PodResourcesSocket;

/// A plugin answers this from memory.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);

/// Who serves the resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rival {
    /// The kubelet has devices that are not from us.
    #[error(
        "the kubelet has {count} healthy devices of {resource} from another device plugin: remove \
         that one, or give --plugin-resource another name"
    )]
    Devices {
        /// The resource.
        resource: String,
        /// How many.
        count: usize,
    },
    /// NVIDIA's socket answers.
    #[error(
        "NVIDIA's device plugin serves {resource} at {path}: remove it, or give --plugin-resource \
         another name"
    )]
    Socket {
        /// The resource.
        resource: String,
        /// The socket.
        path: PathBuf,
    },
}

/// Looks for both signs. Only to be asked while the kubelet watches none of our devices. The first
/// is skipped where PodResources is not configured, and told when it cannot be asked.
///
/// # Errors
/// Who it is.
pub(crate) async fn check(
    resource: &str,
    folder: &Path,
    pod_resources: Option<&PodResourcesSocket>,
    gate: &Gate,
) -> Result<(), Rival> {
    check_socket(resource, folder).await?;
    let Some(socket) = pod_resources else {
        return Ok(());
    };
    let _asking = gate.ask().await;
    match socket.allocatable().await {
        Ok(allocatable) => match allocatable.devices_of(resource).count() {
            0 => Ok(()),
            count => Err(Rival::Devices {
                resource: resource.to_owned(),
                count,
            }),
        },
        Err(error) => {
            let error = anyhow::Error::from(error);
            tracing::debug!(
                error = format!("{error:#}"),
                "the kubelet cannot be asked who serves"
            );
            Ok(())
        }
    }
}

/// The second sign alone, which can be looked for at any time.
///
/// # Errors
/// Who it is.
pub(crate) async fn check_socket(resource: &str, folder: &Path) -> Result<(), Rival> {
    for name in socket_names(resource) {
        let path = folder.join(name);
        if answers(&path).await {
            return Err(Rival::Socket {
                resource: resource.to_owned(),
                path,
            });
        }
    }
    Ok(())
}

/// `internal/plugin/server.go` of NVIDIA's plugin: `nvidia-` and the resource without its domain;
/// before version 0.13 `nvidia.sock`.
fn socket_names(resource: &str) -> Vec<String> {
    let Some(base) = resource.strip_prefix("nvidia.com/") else {
        return Vec::new();
    };
    let mut names = vec![format!("nvidia-{base}.sock")];
    if base == "gpu" {
        names.push("nvidia.sock".to_owned());
    }
    names
}

async fn answers(path: &Path) -> bool {
    if !path.exists() {
        return false;
    }
    let method = "GetDevicePluginOptions";
    let asked: Result<DevicePluginOptions, _> =
        channel::call(path, DEVICE_PLUGIN, method, Empty {}, ANSWER_WITHIN).await;
    // one that is slow or says no is there, too
    !matches!(asked, Err(channel::Error::Connect { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvidias_sockets_are_named_after_the_resource() {
        assert_eq!(
            socket_names("nvidia.com/gpu"),
            ["nvidia-gpu.sock", "nvidia.sock"]
        );
        assert_eq!(
            socket_names("nvidia.com/mig-1g.10gb"),
            ["nvidia-mig-1g.10gb.sock"]
        );
        assert!(socket_names("example.com/gpu").is_empty());
    }

    #[tokio::test]
    async fn a_socket_file_that_nobody_listens_on_is_no_rival() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nvidia-gpu.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        assert_eq!(check_socket("nvidia.com/gpu", folder.path()).await, Ok(()));
    }
}
