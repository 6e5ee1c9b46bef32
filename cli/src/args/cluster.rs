//! Commands about a cluster's decisions: explain, snapshot, simulate, plan.

use std::path::PathBuf;

use clap::Subcommand;

/// Where the extender listens when it is reached through a port-forward.
pub(crate) const EXTENDER: &str = "http://127.0.0.1:8888";

/// `berth explain`.
#[derive(Debug, Subcommand)]
pub enum ExplainCommand {
    /// Why a pod is where it is, or nowhere.
    Pod(ExplainPodArgs),
    /// Decide every record of a snapshot again, offline, and compare bit for bit.
    Replay(ReplayArgs),
}

/// `berth explain pod`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The extender listens on its pod's own loopback; reach it with
  kubectl -n berth-system port-forward deploy/berth-scheduler 8888
and ask the replica whose scheduler leads: the other remembers nothing.

Examples:
  berth explain pod default/llama-0
  berth explain pod default/llama-0 --why-not node-7
  berth snapshot -o now.json && berth explain pod default/llama-0 --from now.json")]
pub struct ExplainPodArgs {
    /// The pod.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = pod)]
    pub pod: PodName,
    /// Why this node is not the pod's, in sentences.
    #[arg(long, value_name = "NODE")]
    pub why_not: Option<String>,
    /// Where decisions are read.
    #[command(flatten)]
    pub source: SourceArgs,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `berth explain replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code 1: some record is decided otherwise by this build than it was recorded.")]
pub struct ReplayArgs {
    /// What `berth snapshot` wrote; - for stdin.
    #[arg(value_name = "SNAPSHOT|-")]
    pub snapshot: PathBuf,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `berth snapshot`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It holds the nodes' topologies, who holds which GPUs, and the last decisions with what they were made
from. Of pods it holds names, uids and what they ask; no environment and no arguments.

Reach the extender with
  kubectl -n berth-system port-forward deploy/berth-scheduler 8888")]
pub struct SnapshotArgs {
    /// The extender.
    #[arg(long, value_name = "URL", default_value = EXTENDER, env = "BERTH_EXTENDER")]
    pub extender: String,
    /// Where to write it [default: stdout].
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `berth simulate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A script, one command a line, # starts a comment:
  node NAME MACHINE [count=N] [policy=TOPOLOGY-MANAGER-POLICY]
  pod NAME gpus=N [count=N] [tp=K] [link=L] [link-policy=P] [numa=N] [nic=N] [memory=M] [model=M] [group=G] [priority=P]
  bind NAME|all                 as kube-scheduler would: filter, highest score, of equals by name
  delete NAME|all
  other NAME on NODE gpus=N     a pod that another scheduler has bound
  fail NODE 0,3                 GPUs break            degrade NODE 0,3 lanes=1   an NVLink loses lanes
  recover NODE                  as it was recorded    stale NODE / fresh NODE    its agent falls silent, reports
  prefer pack|spread            which of equal nodes comes first
  expect NAME bound [on NODE] [gpus 0,1]
  expect NAME refused REASON [on NODE]
  show                          who has which GPU

Of `count=N` the names are NAME-0, NAME-1, …; NAME then stands for all of them. Exit code 3: an
expectation did not hold. More in docs/simulate.md.")]
pub struct SimulateArgs {
    /// The script; - for stdin.
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,
    /// As JSON, one event a line.
    #[arg(long)]
    pub json: bool,
}

/// `berth plan`.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Which pods would have to move for a pending pod to fit, and whereto. Moves nothing.
    Repack(RepackArgs),
}

/// `berth plan repack`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The plan that moves the fewest GPUs is printed, of equals the one that moves the fewest pods. Up to
four pods of one node move. Only pods whose GPUs and claims are known are considered. The pod must
have been asked about: kube-scheduler does so while it is pending.

Exit code 3: there is no way, and why.")]
pub struct RepackArgs {
    /// The pending pod.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = pod)]
    pub pod: PodName,
    /// Where the cluster is read.
    #[command(flatten)]
    pub source: SourceArgs,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// A running extender, or what one wrote.
#[derive(Debug, clap::Args)]
pub struct SourceArgs {
    /// The extender.
    #[arg(long, value_name = "URL", default_value = EXTENDER, env = "BERTH_EXTENDER")]
    pub extender: String,
    /// What `berth snapshot` wrote, instead of a running extender; - for stdin.
    #[arg(long, value_name = "SNAPSHOT|-")]
    pub from: Option<PathBuf>,
}

/// A pod by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

fn pod(text: &str) -> Result<PodName, String> {
    let is_label = |text: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        !text.is_empty() && text.len() <= 253 && text.bytes().all(is_plain)
    };
    match text.split_once('/') {
        Some((namespace, name)) if is_label(namespace) && is_label(name) => Ok(PodName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }),
        _ => Err("allowed: NAMESPACE/NAME, such as default/llama-0".to_owned()),
    }
}
