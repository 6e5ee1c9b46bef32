//! The command line.

mod kubelet;
mod plugin;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use berth_topology::ids::NodeName;
use clap::{Parser, Subcommand, ValueEnum};

use crate::configz::Kubelet;
use crate::probe::{Paths, Source};
use crate::tune::args::TuneArgs;
pub use kubelet::KubeletArgs;
pub use plugin::{NumaHints, PluginArgs};

/// The client logs each failure that we log too, with what was tried.
const DEFAULT_LOG: &str = "info,kube_client=off";

/// Reads this machine and publishes its NodeTopology.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "berth-node-agent",
    version,
    args_conflicts_with_subcommands = true
)]
pub struct Args {
    /// Something else than publishing.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What is asked: this machine (`auto`), or a recorded one (`recorded:FILE.raw.json`).
    #[arg(long, value_name = "auto|recorded:FILE", default_value = "auto", value_parser = parse_probe)]
    pub probe: ProbeArg,
    /// Probe once and end.
    #[arg(long)]
    pub once: bool,
    /// Print to standard output instead of publishing.
    #[arg(long, value_enum)]
    pub print: Option<Print>,
    /// The NVML library; without it the dynamic linker finds libnvidia-ml.so.1.
    #[arg(long, value_name = "PATH")]
    pub nvml_library: Option<PathBuf>,
    /// Where the driver has its `/`, such as a mount of /run/nvidia/driver or of the host's: the NVML
    /// library is looked for in the usual folders below it, and nowhere else.
    #[arg(
        long,
        env = "BERTH_DRIVER_ROOT",
        value_name = "DIR",
        conflicts_with = "nvml_library"
    )]
    pub driver_root: Option<PathBuf>,
    /// Where sysfs is mounted.
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    pub sysfs_root: PathBuf,
    /// hwloc's XML (`lstopo --of xml`) instead of this machine's CPUs.
    #[arg(long, value_name = "FILE")]
    pub hwloc_xml: Option<PathBuf>,
    /// The Node's name; without it the host name.
    #[arg(long, env = "NODE_NAME", value_name = "N")]
    pub node_name: Option<String>,
    /// The cluster; without it that of the pod that this runs in.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Seconds between two probes.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub poll: u64,
    /// Where /metrics, /healthz and /readyz are answered, while it publishes; `off` for nowhere.
    #[arg(long, value_name = "ADDRESS|off", default_value = "127.0.0.1:8889", value_parser = parse_listen)]
    pub listen: Listen,
    /// A feature file for Node Feature Discovery, such as
    /// /etc/kubernetes/node-feature-discovery/features.d/berth: what the Node's labels say.
    #[arg(long, value_name = "FILE")]
    pub feature_file: Option<PathBuf>,
    /// Write the NUMA nodes as a NodeResourceTopology (topology.node.k8s.io/v1alpha2), too.
    #[arg(long)]
    pub node_resource_topology: bool,
    /// Where the kubelet's policies are read.
    #[command(flatten)]
    pub kubelet: KubeletArgs,
    /// How GPUs are given to containers.
    #[command(flatten)]
    pub plugin: PluginArgs,
    /// What is logged to standard error: `warn`, `info`, `debug`, or tracing's filters.
    #[arg(long, env = "RUST_LOG", default_value = DEFAULT_LOG, value_name = "FILTER")]
    pub log: String,
}

/// What is done instead of publishing.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Tells what of this machine costs an engine time, and changes what is asked for.
    Tune(TuneArgs),
}

/// `--probe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeArg {
    /// This machine.
    Auto,
    /// A `NAME.raw.json`.
    Recorded(PathBuf),
}

/// `--listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// An address and a port.
    At(SocketAddr),
}

/// `--print`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Print {
    /// The NodeTopology object.
    Json,
    /// What the machine answered, before anything was derived from it.
    Raw,
    /// The matrix of `nvidia-smi topo -m`.
    Matrix,
}

// === impl Args ===

impl Args {
    /// What is asked.
    #[must_use]
    pub fn source(&self) -> Source {
        match &self.probe {
            ProbeArg::Recorded(path) => Source::Recorded(path.clone()),
            ProbeArg::Auto => Source::Machine(Paths {
                nvml_library: self.nvml_library.clone(),
                driver_root: self.driver_root.clone(),
                sysfs_root: self.sysfs_root.clone(),
                hwloc_xml: self.hwloc_xml.clone(),
                kubelet_config: self.kubelet.kubelet_config.clone(),
            }),
        }
    }

    /// The Node's name: as given, else the host name, which a kubelet writes in lower case.
    #[must_use]
    pub fn node_name(&self) -> NodeName {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = self.node_name.clone().filter(|name| !name.is_empty());
        NodeName(name.unwrap_or_else(|| host().trim().to_lowercase()))
    }

    /// The kubelet that is to be asked for its configuration.
    #[must_use]
    pub fn kubelet(&self) -> Option<Kubelet> {
        Some(Kubelet {
            address: self.kubelet.kubelet_configz?,
            node: self.node_name(),
            ca: self.kubelet.kubelet_ca.clone(),
            kubeconfig: self.kubeconfig.clone(),
        })
    }

    /// Between two probes.
    #[must_use]
    pub fn poll_every(&self) -> Duration {
        Duration::from_secs(self.poll)
    }
}

fn parse_probe(text: &str) -> Result<ProbeArg, String> {
    match text.split_once(':') {
        None if text == "auto" => Ok(ProbeArg::Auto),
        Some(("recorded", path)) if !path.is_empty() => Ok(ProbeArg::Recorded(path.into())),
        _ => Err("allowed are auto and recorded:FILE.raw.json".to_owned()),
    }
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    match text {
        "off" => Ok(Listen::Off),
        _ => text
            .parse()
            .map(Listen::At)
            .map_err(|_| "allowed are off, 127.0.0.1:8889, 0.0.0.0:8889, [::]:8889".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_listens_at_an_address_or_nowhere() {
        assert_eq!(parse_listen("off"), Ok(Listen::Off));
        let all = SocketAddr::from(([0, 0, 0, 0], 8889));
        assert_eq!(parse_listen("0.0.0.0:8889"), Ok(Listen::At(all)));
        assert!(parse_listen("[::]:8889").is_ok());
        for wrong in ["", "8889", ":8889", "localhost:8889", "0.0.0.0:99999"] {
            assert!(parse_listen(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_probe_is_this_machine_or_a_record() {
        assert_eq!(parse_probe("auto"), Ok(ProbeArg::Auto));
        assert_eq!(
            parse_probe("recorded:a:b"),
            Ok(ProbeArg::Recorded("a:b".into()))
        );
        for wrong in ["", "recorded", "recorded:", "banana"] {
            assert!(parse_probe(wrong).is_err(), "{wrong:?}");
        }
    }
}
