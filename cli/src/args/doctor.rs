//! `berth doctor`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::AgentArgs;

/// `berth doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each finding has a severity, what was read and where, and what to do. What cannot be read is unknown,
never ok; run it as root for all of it. With --node it reads the cluster with your kubeconfig: the
node, its NodeTopology and Lease, the kubelet's configuration (get nodes/proxy), the node's pods.

Examples:
  berth doctor                               this machine
  berth doctor --node gpu-7                  a node, through the API server
  berth doctor --machine dgx-h100            a recorded machine
  berth-node-agent --once --print raw > it.raw.json; berth doctor --machine it.raw.json
  berth doctor --json | jq '.findings[] | select(.severity == \"error\")'

Exit codes: 0 nothing above a note, 3 warnings or errors (with --fail-on error: errors only),
1 nothing could be looked at, 2 wrong usage. Unknowns do not count.")]
pub struct DoctorArgs {
    /// A node of the cluster.
    #[arg(long, value_name = "NODE", conflicts_with = "machine", value_parser = node)]
    pub node: Option<String>,
    /// A recorded machine (see `berth machine list`), a file with a NodeTopology, or one with what a
    /// machine answered (`berth-node-agent --once --print raw`); - for this machine.
    #[arg(long, value_name = "NAME|FILE|-", default_value = "-")]
    pub machine: String,
    /// The cluster, for --node [default: as kubectl finds it].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// How long the node's Lease is watched for a renewal at most, in seconds; its agent renews it
    /// every 15 s. 0 does not look.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=300))]
    pub lease_wait: u64,
    /// The extender; where it is not given, http://127.0.0.1:8888 is tried.
    #[arg(long, value_name = "URL", env = "BERTH_EXTENDER")]
    pub extender: Option<String>,
    /// Where this machine's sysfs is.
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    pub sysfs_root: PathBuf,
    /// Where this machine's procfs is.
    #[arg(long, value_name = "DIR", default_value = "/proc")]
    pub proc_root: PathBuf,
    /// The least severity that ends with exit code 3.
    #[arg(long, value_enum, default_value = "warning")]
    pub fail_on: FailOn,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// The agent that reads this machine.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// `--fail-on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A warning is enough.
    Warning,
    /// Only an error.
    Error,
}

/// It becomes part of a path at the API server.
fn node(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: u8| is_plain(byte) || b"-.".contains(&byte);
    let ends = [text.bytes().next(), text.bytes().last()];
    let is_name = ends.into_iter().all(|end| end.is_some_and(is_plain))
        && text.bytes().all(inner)
        && text.len() <= 253
        && !text.contains("..");
    match is_name {
        true => Ok(text.to_owned()),
        false => Err("allowed: a node's name, such as gpu-7".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_as_kubernetes_names_objects() {
        for right in ["gpu-7", "10.0.0.1", "a"] {
            assert_eq!(node(right), Ok(right.to_owned()));
        }
        for wrong in ["", "-a", "a/../b", "a..b", "A", "a b", "a?x"] {
            assert!(node(wrong).is_err(), "{wrong:?}");
        }
    }
}
