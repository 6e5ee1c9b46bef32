//! Why a promise may not be kept to the letter.

/// Why the set that is promised may not be the set that the pod gets. The pod still runs on the node
/// with that many GPUs, and the agent reports what it was really given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Inexact {
    /// The node's device plugin is not Berth's: it prefers what it likes.
    PluginNotOurs,
    /// Berth's device plugin is not registered with the kubelet now.
    PluginNotRegistered,
    /// Pods hold GPUs of the node, nobody knows which.
    UnknownHolders,
    /// The topology manager's policy is not known.
    PolicyUnknown,
    /// The topology manager's scope is not known, and the pod has several containers.
    ScopeUnknown,
    /// The topology manager's options, or distances that they need, are not known, and decide.
    OptionsUnknown,
    /// More NUMA nodes than the kubelet's topology manager allows, or than are foreseen.
    TooManyNumaNodes,
    /// Some GPUs are shared or partitioned: they are other devices to the kubelet.
    SharedGpus,
    /// The pod wants CPUs for itself, and what the CPU manager does is not known: its policy, its
    /// options, the reserved CPUs, or which CPUs others hold.
    CpusUnknown,
    /// The pod is guaranteed, and the memory manager gives memory by NUMA node, or may: it is not known
    /// how much is reserved and held on each. It may reject the pod as well.
    MemoryManager,
    /// The pod wants devices of other plugins, whose NUMA nodes are not foreseen.
    OtherDevices,
    /// The pod asks for CPUs and memory as a pod, which a gate of the kubelet gives another meaning.
    PodResources,
    /// A container gets fewer GPUs than the init containers before it: the kubelet takes any of them.
    ReusedAtRandom,
}

// === impl Inexact ===

impl Inexact {
    /// The reason's name, as in JSON.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::PluginNotOurs => "PluginNotOurs",
            Self::PluginNotRegistered => "PluginNotRegistered",
            Self::UnknownHolders => "UnknownHolders",
            Self::PolicyUnknown => "PolicyUnknown",
            Self::ScopeUnknown => "ScopeUnknown",
            Self::OptionsUnknown => "OptionsUnknown",
            Self::TooManyNumaNodes => "TooManyNumaNodes",
            Self::SharedGpus => "SharedGpus",
            Self::CpusUnknown => "CpusUnknown",
            Self::MemoryManager => "MemoryManager",
            Self::OtherDevices => "OtherDevices",
            Self::PodResources => "PodResources",
            Self::ReusedAtRandom => "ReusedAtRandom",
        }
    }
}

impl std::fmt::Display for Inexact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PluginNotOurs => "the node's device plugin is not Berth's",
            Self::PluginNotRegistered => "Berth's device plugin is not registered",
            Self::UnknownHolders => "it is not known which GPUs some pods of the node hold",
            Self::PolicyUnknown => "the topology manager's policy is not known",
            Self::ScopeUnknown => "the topology manager's scope is not known",
            Self::OptionsUnknown => "the topology manager's options are not known",
            Self::TooManyNumaNodes => "the node has more NUMA nodes than the kubelet allows",
            Self::SharedGpus => "some GPUs of the node are shared or partitioned",
            Self::CpusUnknown => "it is not known what the CPU manager does",
            Self::MemoryManager => "what the memory manager does is not foreseen",
            Self::OtherDevices => "the pod wants devices of other plugins",
            Self::PodResources => "the pod asks for CPUs and memory as a pod",
            Self::ReusedAtRandom => "the kubelet takes any of the GPUs of an init container",
        })
    }
}
