//! Everything that the checks look at. What could not be read says why.

use std::collections::{BTreeMap, BTreeSet};

use berth_topology::assignment::Assignment;
use berth_topology::cpus::CpuList;
use berth_topology::kubelet::Kubelet;
use berth_topology::node::Status;
use berth_topology::raw::RawMachine;

/// A value, or why there is none, in a sentence.
pub(crate) type Fact<T> = Result<T, String>;

/// One machine or node.
#[derive(Debug)]
pub(crate) struct Facts {
    /// `this machine`, `node gpu-7`, `dgx-h100`.
    pub(crate) subject: String,
    /// What its agent says.
    pub(crate) status: Fact<Status>,
    /// Where that was read: `NodeTopology gpu-7`.
    pub(crate) status_from: String,
    /// What NVML, sysfs and hwloc answered.
    pub(crate) raw: Fact<RawMachine>,
    /// What the running kernel says.
    pub(crate) host: Fact<Host>,
    /// The kubelet's own configuration.
    pub(crate) configz: Fact<Kubelet>,
    /// What the API server has about the node.
    pub(crate) cluster: Fact<InCluster>,
    /// Whether an extender answers.
    pub(crate) extender: Fact<Extender>,
}

/// What `/proc`, `/sys` and `/dev` of the running machine say.
#[derive(Debug)]
pub(crate) struct Host {
    /// First line of `/proc/driver/nvidia/version`; none where the module is not loaded.
    pub(crate) driver_module: Fact<Option<String>>,
    /// Names in `/proc/modules`.
    pub(crate) modules: Fact<BTreeSet<String>>,
    /// Files in `/dev` whose names begin with `nvidia`.
    pub(crate) device_files: Fact<Vec<String>>,
    /// `/proc/cmdline`.
    pub(crate) command_line: Fact<String>,
    /// The type of each GPU's IOMMU group, by PCI address; none where it has no group.
    pub(crate) iommu_types: BTreeMap<String, Fact<Option<String>>>,
    /// The ACS control register of the bridges above GPUs and RDMA cards, by PCI address; none where a
    /// bridge has no ACS.
    pub(crate) acs: BTreeMap<String, Fact<Option<u16>>>,
    /// Interrupts of GPUs and RDMA cards.
    pub(crate) interrupts: Vec<Interrupts>,
    /// Size of `/dev/shm` in bytes.
    pub(crate) shm_bytes: Fact<u64>,
    /// `/sys/kernel/mm/transparent_hugepage/enabled`.
    pub(crate) transparent_huge_pages: Fact<String>,
    /// Names in the kubelet's folder of device plugins; none where there is no such folder.
    pub(crate) plugin_sockets: Fact<Option<Vec<String>>>,
}

/// The interrupts of one device.
#[derive(Debug)]
pub(crate) struct Interrupts {
    /// Its PCI address.
    pub(crate) bus_id: String,
    /// Its NUMA node's CPUs, by sysfs.
    pub(crate) local: CpuList,
    /// CPUs that each goes to (`/proc/irq/N/effective_affinity_list`), by number.
    pub(crate) cpus: BTreeMap<u32, Fact<CpuList>>,
}

/// What an extender answered to `/readyz`.
#[derive(Debug)]
pub(crate) struct Extender {
    pub(crate) url: String,
    /// Somebody asked for this one by name.
    pub(crate) is_given: bool,
    /// Its answer, or why there was none.
    pub(crate) answer: Result<(u16, String), String>,
}

/// What the API server has about a node.
#[derive(Debug)]
pub(crate) struct InCluster {
    /// The Node.
    pub(crate) node: SeenNode,
    /// Its Lease in `berth-system`; none where there is none.
    pub(crate) lease: Fact<Option<SeenLease>>,
    /// The CRD; none where there is none.
    pub(crate) crd: Fact<Option<SeenCrd>>,
    /// The agents' pods on the node.
    pub(crate) agents: Fact<Vec<SeenAgent>>,
    /// Pods of the node that asked for GPUs and have not ended.
    pub(crate) pods: Fact<Vec<SeenPod>>,
    /// The Deployment of scheduler and extender; none where there is none.
    pub(crate) scheduler: Fact<Option<SeenScheduler>>,
}

/// A Node.
#[derive(Debug, Default)]
pub(crate) struct SeenNode {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) is_ready: Option<bool>,
    pub(crate) is_cordoned: bool,
    /// `status.allocatable` of extended resources.
    pub(crate) allocatable: BTreeMap<String, String>,
    pub(crate) kubelet_version: String,
}

/// A Lease, watched for a while.
#[derive(Debug)]
pub(crate) struct SeenLease {
    /// `spec.renewTime` as it was first read.
    pub(crate) renew_time: String,
    /// Whether it changed meanwhile; none where nobody waited.
    pub(crate) was_renewed: Option<bool>,
    /// How long it was watched, in seconds.
    pub(crate) watched_seconds: u64,
}

/// The CRD of NodeTopology.
#[derive(Debug)]
pub(crate) struct SeenCrd {
    /// Versions that are served.
    pub(crate) served: Vec<String>,
    /// Paths of fields of `status` that the cluster's schema has.
    pub(crate) fields: BTreeSet<String>,
    /// The same of this build's.
    pub(crate) expected_fields: BTreeSet<String>,
}

/// An agent's pod.
#[derive(Debug)]
pub(crate) struct SeenAgent {
    pub(crate) name: String,
    pub(crate) phase: String,
    pub(crate) is_ready: bool,
    pub(crate) restart_count: i32,
    /// Why its container waits or ended, where it does not run.
    pub(crate) reason: Option<String>,
}

/// The Deployment of scheduler and extender.
#[derive(Debug)]
pub(crate) struct SeenScheduler {
    pub(crate) wanted: i32,
    pub(crate) ready: i32,
}

/// A pod that asked for GPUs.
#[derive(Debug)]
pub(crate) struct SeenPod {
    /// `NAMESPACE/NAME`.
    pub(crate) name: String,
    pub(crate) uid: String,
    /// GPUs of the container that has the most.
    pub(crate) gpus_max: u64,
    /// The annotation, or why it cannot be read; none where there is none.
    pub(crate) assignment: Option<Result<Assignment, String>>,
    /// Whether something is mounted at `/dev/shm`.
    pub(crate) has_own_shm: bool,
}
