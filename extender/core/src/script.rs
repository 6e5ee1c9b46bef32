//! Scripts of machines, pods and failures (`berth simulate`), played through the extender's own
//! decisions: filter, prioritize, the highest score as kube-scheduler takes it, bind, the watch.
//!
//! One command a line; `#` starts a comment. The grammar is in `docs/simulate.md`.

use crate::decide::Preference;

mod event;
mod parse;
mod play;
mod world;

pub use event::{Event, Given, NodeRow, Refusals};
pub use parse::{Error as ParseError, parse};
pub use play::{Error as PlayError, Machines, Player};

/// One command and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Line in the script, from 1.
    pub line: usize,
    /// The line as it was written, without its comment.
    pub text: String,
    /// What it says.
    pub command: Command,
}

/// What a script can say.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// The extended resource that all pods ask by; said first, else whole GPUs.
    Resource(String),
    /// A machine, or several equal ones.
    Node {
        /// Its name; of several `NAME-0`, `NAME-1`, …
        name: String,
        /// The recorded machine.
        machine: String,
        /// How many, where more than one name is wanted.
        count: Option<usize>,
        /// `topologyManagerPolicy` of its kubelet, where it is not the recorded one.
        policy: Option<String>,
    },
    /// A pod, pending, or several equal ones.
    Pod {
        /// Its name; of several `NAME-0`, `NAME-1`, …
        name: String,
        /// What it asks.
        asks: Asks,
        /// How many, where more than one name is wanted.
        count: Option<usize>,
    },
    /// Schedules pods as kube-scheduler would, in the order in which they were made.
    Bind(Pods),
    /// Deletes pods: their GPUs are free again.
    Delete(Pods),
    /// A pod that another scheduler has bound: nobody knows which GPUs it has.
    Other {
        /// Its name.
        name: String,
        /// Its node.
        node: String,
        /// How many GPUs.
        gpu_count: usize,
    },
    /// GPUs break.
    Fail {
        /// On that node.
        node: String,
        /// By index.
        gpus: Vec<u32>,
    },
    /// A NVLink pair loses lanes.
    Degrade {
        /// On that node.
        node: String,
        /// One GPU, by index.
        a: u32,
        /// The other.
        b: u32,
        /// Lanes that are left.
        lanes: u32,
    },
    /// GPUs are partitioned: each gets so many MIG instances more.
    Mig {
        /// On that node.
        node: String,
        /// By index.
        gpus: Vec<u32>,
        /// `1g.10gb`, as `nvidia-smi` spells it.
        profile: String,
        /// Instances of it.
        count: u32,
    },
    /// The node is again as it was recorded.
    Recover(String),
    /// The node's agent falls silent.
    Stale(String),
    /// It reports again.
    Fresh(String),
    /// Which of equally wired nodes comes first from now on.
    Prefer(Preference),
    /// What must be true now.
    Expect {
        /// Of those pods, each.
        pods: Pods,
        /// That.
        state: Expected,
    },
    /// Why a pod is where it is, or nowhere.
    Explain {
        /// Its name.
        pod: String,
        /// A node, to say why it is not that one.
        why_not: Option<String>,
    },
    /// Shows every node.
    Show,
}

/// What a pod of a script asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// GPUs of its one container.
    pub gpu_count: usize,
    /// Its priority.
    pub priority: Option<i32>,
    /// Annotations, by full name.
    pub annotations: Vec<(&'static str, String)>,
}

/// Pods that a command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// Every pending one.
    All,
    /// That one; of several made at once `NAME` stands for all.
    Named(String),
}

/// What a pod's last try must have come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is bound.
    Bound {
        /// To that node, where it matters.
        node: Option<String>,
        /// To these GPUs, by index in rank order, where it matters.
        gpus: Option<Vec<u32>>,
    },
    /// It was refused everywhere.
    Refused {
        /// For that reason on every node, or on the one named.
        kind: String,
        /// Where it matters.
        node: Option<String>,
    },
}
