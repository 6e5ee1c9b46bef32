//! Why a claim does not fit a machine. A value that people read, not an error.

use berth_topology::claim;

/// Why not. The texts name nothing of one node, so that kube-scheduler can group them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too few of the GPUs that would do are free.
    NotEnoughFree,
    /// The free GPUs are not linked as required; others of the node are.
    LinkTooWeak,
    /// The free GPUs are not of one NUMA node as required; others of the node are.
    NumaSpan,
    /// The kubelet's topology manager would reject the pod, or give it GPUs that are not linked or
    /// placed as required; not so if others left.
    KubeletWouldRefuse,
    /// The node's agent has not renewed its lease for too long.
    Stale,
    /// The node has not published a topology.
    NoTopology,
    /// The node has fewer usable GPUs than asked for.
    TooFewGpus,
    /// Too few of its GPUs are of the model asked for.
    WrongModel,
    /// Too few of its GPUs have the memory asked for.
    TooLittleMemory,
    /// No set of its GPUs is linked as required, whatever is free.
    LinkImpossible,
    /// No set of its GPUs is of one NUMA node as required, whatever is free.
    NumaImpossible,
    /// One NUMA node is required, and the node does not say where its GPUs are.
    NumaUnknown,
    /// The kubelet's topology manager would do so whoever left.
    KubeletNeverAdmits,
    /// Its GPUs are shared (time-slicing, MPS) or partitioned (MIG).
    Shared,
    /// A DRA driver hands out this resource.
    DraManaged,
    /// The pod asks for something that cannot be read.
    BadClaim(claim::Error),
}

// === impl Refusal ===

impl Refusal {
    /// The reason's name, as in JSON and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotEnoughFree => "NotEnoughFree",
            Self::LinkTooWeak => "LinkTooWeak",
            Self::NumaSpan => "NumaSpan",
            Self::KubeletWouldRefuse => "KubeletWouldRefuse",
            Self::Stale => "Stale",
            Self::NoTopology => "NoTopology",
            Self::TooFewGpus => "TooFewGpus",
            Self::WrongModel => "WrongModel",
            Self::TooLittleMemory => "TooLittleMemory",
            Self::LinkImpossible => "LinkImpossible",
            Self::NumaImpossible => "NumaImpossible",
            Self::NumaUnknown => "NumaUnknown",
            Self::KubeletNeverAdmits => "KubeletNeverAdmits",
            Self::Shared => "Shared",
            Self::DraManaged => "DraManaged",
            Self::BadClaim(_) => "BadClaim",
        }
    }

    /// Whether pods that leave the node could make the claim fit.
    #[must_use]
    pub fn is_resolvable(&self) -> bool {
        matches!(
            self,
            Self::NotEnoughFree | Self::LinkTooWeak | Self::NumaSpan | Self::KubeletWouldRefuse
        )
    }

    /// The same reason where even an empty machine would not do.
    pub(crate) fn on_empty_machine(self) -> Self {
        match self {
            Self::NotEnoughFree => Self::TooFewGpus,
            Self::LinkTooWeak => Self::LinkImpossible,
            Self::NumaSpan => Self::NumaImpossible,
            Self::KubeletWouldRefuse => Self::KubeletNeverAdmits,
            other => other,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotEnoughFree => "not enough free GPUs",
            Self::LinkTooWeak => "the free GPUs are not linked as the pod requires",
            Self::NumaSpan => "the free GPUs are not on one NUMA node as the pod requires",
            Self::KubeletWouldRefuse => {
                "the kubelet's topology manager would reject the pod or give it other GPUs now"
            }
            Self::Stale => "the node agent has stopped reporting",
            Self::NoTopology => "the node has published no GPU topology",
            Self::TooFewGpus => "the node has fewer usable GPUs than the pod asks for",
            Self::WrongModel => "too few GPUs of the node are of the model that the pod asks for",
            Self::TooLittleMemory => {
                "too few GPUs of the node have the memory that the pod asks for"
            }
            Self::LinkImpossible => "no GPUs of the node are linked as the pod requires",
            Self::NumaImpossible => "no NUMA node has the GPUs that the pod requires on one",
            Self::NumaUnknown => "the node does not say which NUMA nodes its GPUs are on",
            Self::KubeletNeverAdmits => {
                "the kubelet's topology manager would reject the pod or give it other GPUs, whoever left"
            }
            Self::Shared => "the node's GPUs are shared or partitioned",
            Self::DraManaged => "a DRA driver manages the node's GPUs",
            Self::BadClaim(error) => return error.fmt(f),
        })
    }
}
