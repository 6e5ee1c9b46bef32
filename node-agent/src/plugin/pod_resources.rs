//! PodResources `v1`: what the kubelet says it has given to whom. Messages and client.
//!
//! Source: `k8s.io/kubelet/pkg/apis/podresources/v1/api.proto` of Kubernetes 1.37.1, as far as it is
//! read here. A call of `List` makes the kubelet forget pods that have just ended, and with them a
//! set that it is giving away at that moment: see `plugin/gate.rs`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::channel::{self, Error};

/// The service.
pub const SERVICE: &str = "v1.PodResourcesLister";
/// A kubelet with a thousand pods answers in a tenth of it. `GetPreferredAllocation` waits for a
/// call that is under way, and has one second in all.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);

/// Nothing: the requests of `List` and `GetAllocatableResources`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Nothing {}

/// Every pod that the kubelet runs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListPodResourcesResponse {
    /// The pods.
    #[prost(message, repeated, tag = "1")]
    pub pod_resources: Vec<PodResources>,
}

/// One pod.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PodResources {
    /// Its name. There is no uid.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Its containers, plain init containers left out.
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<ContainerResources>,
}

/// One container.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ContainerResources {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its devices; several entries may be of one resource.
    #[prost(message, repeated, tag = "2")]
    pub devices: Vec<ContainerDevices>,
    /// CPUs that it has for itself.
    #[prost(int64, repeated, tag = "3")]
    pub cpu_ids: Vec<i64>,
}

/// Devices of one resource.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ContainerDevices {
    /// The extended resource.
    #[prost(string, tag = "1")]
    pub resource_name: String,
    /// Identities, as the plugin listed them.
    #[prost(string, repeated, tag = "2")]
    pub device_ids: Vec<String>,
}

/// Healthy devices of every resource that is served now.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AllocatableResourcesResponse {
    /// The devices.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<ContainerDevices>,
}

/// The kubelet's socket. Each call connects anew: the kubelet may have been started again.
#[derive(Clone, Debug)]
pub struct PodResourcesSocket(pub PathBuf);

// === impl PodResourcesSocket ===

impl PodResourcesSocket {
    /// What the containers have.
    ///
    /// # Errors
    /// When the kubelet does not answer in time.
    pub async fn list(&self) -> Result<ListPodResourcesResponse, Error> {
        channel::call(self.path(), SERVICE, "List", Nothing {}, ANSWER_WITHIN).await
    }

    /// What could be given, were nobody there.
    ///
    /// # Errors
    /// When the kubelet does not answer in time.
    pub async fn allocatable(&self) -> Result<AllocatableResourcesResponse, Error> {
        let method = "GetAllocatableResources";
        channel::call(self.path(), SERVICE, method, Nothing {}, ANSWER_WITHIN).await
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

// === impl AllocatableResourcesResponse ===

impl AllocatableResourcesResponse {
    /// Healthy devices of that resource.
    pub fn devices_of<'a>(&'a self, resource: &'a str) -> impl Iterator<Item = &'a str> {
        let of_resource = self.devices.iter();
        of_resource
            .filter(move |devices| devices.resource_name == resource)
            .flat_map(|devices| devices.device_ids.iter().map(String::as_str))
    }
}
