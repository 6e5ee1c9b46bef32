//! Every name that Berth writes into a cluster.

/// API group of our objects.
pub const GROUP: &str = "berth.dev";
/// Version of our objects.
pub const VERSION: &str = "v1alpha1";
/// `schema` of assignments and of JSON output.
pub const SCHEMA: &str = "berth.dev/v1alpha1";
/// Where Berth's own objects live.
pub const NAMESPACE: &str = "berth-system";
/// The scheduler that asks the extender.
pub const SCHEDULER: &str = "berth-scheduler";
/// The extended resource that is looked at unless configured otherwise.
pub const DEFAULT_RESOURCE: &str = "nvidia.com/gpu";

/// On a bound pod: the decision. See [`crate::assignment`].
pub const ASSIGNMENT: &str = "berth.dev/assignment";
/// On a node: the poke that makes kube-scheduler try refused pods again.
pub const FREED: &str = "berth.dev/freed";
/// Condition of a waiting pod: others were evicted for it, and their GPUs are kept for it.
pub const PREEMPTED: &str = "berth.dev/PreemptedForTopology";
/// On the scheduler's Lease: the last of its terms (`leaseTransitions`) of which every binding is over.
pub const ENDED_TERM: &str = "berth.dev/ended-term";
/// On a recorded machine: where its facts are from, and what was derived.
pub const SOURCE: &str = "berth.dev/source";

/// Ranks that work on one model: K.
pub const TENSOR_PARALLEL_SIZE: &str = "berth.dev/tensor-parallel-size";
/// Least memory of each GPU, a Kubernetes quantity.
pub const GPU_MEMORY: &str = "berth.dev/gpu-memory";
/// Model of each GPU.
pub const GPU_MODEL: &str = "berth.dev/gpu-model";
/// Least link between the GPUs of a group.
pub const LINK: &str = "berth.dev/link";
/// Whether `link` is a wish or a condition.
pub const LINK_POLICY: &str = "berth.dev/link-policy";
/// Whether the GPUs must be of one NUMA node.
pub const NUMA: &str = "berth.dev/numa";
/// Whether the GPUs should be near an RDMA NIC.
pub const NIC: &str = "berth.dev/nic";
/// Pods that work together.
pub const GROUP_ANNOTATION: &str = "berth.dev/group";

/// Prefix of the labels and annotations that belong to Berth.
pub const PREFIX: &str = "berth.dev/";
