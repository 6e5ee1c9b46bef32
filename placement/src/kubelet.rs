//! What the kubelet does with a pod before it asks a device plugin, foreseen.
//!
//! Under every topology-manager policy but `none` the device manager and the CPU manager each name
//! the NUMA nodes that would do ([`hints`]), the topology manager takes the narrowest on which they
//! agree, the lowest on ties, or rejects the pod ([`merge`]), and only then the plugin is asked, for
//! devices of those nodes ([`admission`]). A promise outside them is one that cannot be kept.
//!
//! Source: k8s.io/kubernetes v1.37.1, `pkg/kubelet/cm/{topologymanager,devicemanager,cpumanager}`.
//! A test feeds the same cases to those packages (`tests/it/tests/kubelet.rs`).

pub(crate) mod admission;
mod cpus;
mod exact;
mod facts;
mod hints;
mod mask;
mod merge;

pub use cpus::HeldCpus;
pub use exact::Inexact;
pub(crate) use facts::Kubelet;
