//! Why nobody is evicted from a node that kube-scheduler offered.

use crate::decide::No;

/// Why a node is left out of preempt's answer. No sentence names a node or a number, so that nodes group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Spared {
    /// Nobody is evicted for a bind that may still come true.
    #[error("an earlier binding of this pod is not confirmed yet")]
    Unconfirmed,
    /// `preemptionPolicy: Never`.
    #[error("the pod's preemptionPolicy is Never")]
    NeverPreempts,
    /// There is no such Node here.
    #[error("no such node is known")]
    NoNode,
    /// What is known of an offered pod is older or newer than what kube-scheduler knows.
    #[error("a pod that was offered is not of lower priority as far as is known here")]
    NotBelow,
    /// It would not fit if every pod of lower priority were gone.
    #[error("would not fit without any pod of lower priority: {0}")]
    NoHelp(No),
    /// Filter would accept it, kube-scheduler's own count of the node's GPUs would not.
    #[error("without any pod of lower priority kube-scheduler would still count too few GPUs")]
    NotEnoughByCount,
    /// It fits with everybody there, and not without those that were offered.
    #[error("fits with nobody evicted, and would not fit without the pods that were offered")]
    FitsAsItIs,
}

// === impl Spared ===

impl Spared {
    /// The reason's name: filter's, where filter would refuse the emptied node.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unconfirmed => "Unconfirmed",
            Self::NeverPreempts => "NeverPreempts",
            Self::NoNode => "NoNode",
            Self::NotBelow => "NotBelow",
            Self::NoHelp(no) => no.kind(),
            Self::NotEnoughByCount => "NotEnoughByCount",
            Self::FitsAsItIs => "FitsAsItIs",
        }
    }

    /// Whether pods that leave, whoever they are, or time could change it.
    #[must_use]
    pub fn is_resolvable(&self) -> bool {
        match self {
            Self::NoHelp(no) => no.is_resolvable(),
            Self::NeverPreempts | Self::NoNode => false,
            Self::Unconfirmed | Self::NotBelow | Self::NotEnoughByCount | Self::FitsAsItIs => true,
        }
    }
}
