//! The command line's part on the device plugin.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_topology::names;
use clap::{ArgAction, Args, ValueEnum};

use crate::plugin::Settings;
use crate::plugin::answer::{DeviceList, Wording};
use crate::plugin::pod_resources::PodResourcesSocket;
use crate::tally::Tally;

const HEADING: &str = "Device plugin";
/// What NVIDIA's driver needs beside the GPU's own file, where it is there.
const CONTROL_FILES: [&str; 4] = [
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-modeset",
];
/// `IsExtendedResourceName` allows a domain of 253 and a name of 63 characters.
const RESOURCE_BYTES_MAX: usize = 253 + 1 + 63;
/// The kubelet's pods wait for devices meanwhile. An API server that is there answers in milliseconds.
const RECALL_WAIT_MAX: Duration = Duration::from_secs(3);

/// How GPUs are given to containers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = HEADING)]
pub struct PluginArgs {
    /// Serve the GPUs to the kubelet, instead of NVIDIA's device plugin: a pod then gets exactly the
    /// GPUs that the extender promised it.
    ///
    /// Needs the kubelet's folder (--device-plugin-dir), as root, and to list and watch pods. While
    /// another plugin serves the resource, this one does not register, says so, and waits.
    #[arg(long)]
    pub device_plugin: bool,
    /// The resource of whole GPUs. MIG instances are resources beside it, by profile:
    /// nvidia.com/mig-1g.10gb.
    #[arg(long, value_name = "R", default_value = names::DEFAULT_RESOURCE, value_parser = parse_resource)]
    pub plugin_resource: String,
    /// Tell the kubelet which NUMA node a GPU is near.
    ///
    /// With `on` its topology manager aligns GPUs with CPUs, and may leave the promised set for that,
    /// which the extender foresees. With `off` the promised set is given whatever the policy is, and
    /// CPUs are not aligned.
    #[arg(long, value_enum, default_value = "on", value_name = "on|off")]
    pub numa_hints: NumaHints,
    /// How a container is told its GPUs; several, separated by commas.
    #[arg(long, value_enum, default_value = "envvar", value_delimiter = ',', action = ArgAction::Set)]
    pub device_list_strategy: Vec<DeviceList>,
    /// Hand over device files (/dev/nvidia0, /dev/nvidiactl, …) as well, which keeps them usable
    /// where the kubelet updates a container's devices. Whole GPUs only.
    #[arg(long)]
    pub pass_device_specs: bool,
    /// The kubelet's folder of device plugins, with its socket and its checkpoint.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/kubelet/device-plugins"
    )]
    pub device_plugin_dir: PathBuf,
    /// The kubelet's PodResources socket (/var/lib/kubelet/pod-resources/kubelet.sock): read what
    /// containers were given, exclusive CPUs included, and publish it in the NodeTopology.
    ///
    /// Also without --device-plugin, beside NVIDIA's: the extender then sees what was really given.
    #[arg(long, value_name = "PATH")]
    pub pod_resources_socket: Option<PathBuf>,
}

/// `--numa-hints`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NumaHints {
    /// NUMA nodes are told.
    On,
    /// They are not.
    Off,
}

// === impl PluginArgs ===

impl PluginArgs {
    /// `None` where neither serving nor looking was asked for. What is given is counted in `tally`.
    #[must_use]
    pub fn settings(&self, tally: &Arc<Tally>) -> Option<Settings> {
        if !self.device_plugin && self.pod_resources_socket.is_none() {
            return None;
        }
        let control_files = CONTROL_FILES.into_iter().map(str::to_owned);
        let present = control_files.filter(|path| PathBuf::from(path).exists());
        Some(Settings {
            serves: self.device_plugin,
            resource: self.plugin_resource.clone(),
            numa_hints: self.numa_hints == NumaHints::On,
            folder: self.device_plugin_dir.clone(),
            pod_resources: self.pod_resources_socket.clone().map(PodResourcesSocket),
            wording: Wording {
                lists: self.device_list_strategy.clone(),
                control_files: self.pass_device_specs.then(|| present.collect()),
            },
            tally: tally.clone(),
            recall_wait_max: RECALL_WAIT_MAX,
        })
    }
}

/// A domain that is not Kubernetes' own, and a name: what the kubelet registers.
fn parse_resource(text: &str) -> Result<String, String> {
    let allowed = |part: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !part.is_empty() && part.bytes().all(is_allowed)
    };
    match text.split_once('/') {
        Some((domain, name))
            if allowed(domain)
                && allowed(name)
                && text.len() <= RESOURCE_BYTES_MAX
                && !domain.ends_with("kubernetes.io") =>
        {
            Ok(text.to_owned())
        }
        _ => Err("an extended resource is DOMAIN/NAME, like nvidia.com/gpu".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::args::Args as AgentArgs;

    fn manifest(file: &str) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        std::fs::read_to_string(root.join(file)).expect("a shipped manifest")
    }

    #[test]
    fn the_shipped_manifests_start_the_agent_with_flags_that_it_has() {
        let settings = |file: &str| {
            let text = manifest(file);
            let flags = text
                .lines()
                .filter_map(|line| line.strip_prefix("            - --"));
            let flags = flags.map(|flag| format!("--{flag}"));
            let line = std::iter::once("berth-node-agent".to_owned()).chain(flags);
            AgentArgs::try_parse_from(line)
                .unwrap()
                .plugin
                .settings(&Arc::default())
        };
        assert!(settings("daemonset/daemonset.yaml").is_none());
        let settings = settings("daemonset/optional/device-plugin.yaml").unwrap();
        assert!(settings.serves && settings.numa_hints && settings.pod_resources.is_some());
    }

    #[test]
    fn the_manifest_with_the_plugin_is_the_plain_one_and_what_is_added_but_for_the_user() {
        let (plain, with_plugin) = (
            manifest("daemonset/daemonset.yaml"),
            manifest("daemonset/optional/device-plugin.yaml"),
        );
        let mut theirs = with_plugin.lines();
        let missing = plain.lines().skip(1).filter(|line| {
            let mut rest = theirs.clone();
            let found = rest.any(|other| other == *line);
            if found {
                theirs = rest;
            }
            !found
        });
        let missing: Vec<&str> = missing.map(str::trim).collect();
        assert_eq!(
            missing,
            [
                "runAsNonRoot: true",
                "runAsUser: 65532",
                "runAsGroup: 65532"
            ]
        );
    }

    #[test]
    fn a_resource_is_a_domain_and_a_name() {
        for right in ["nvidia.com/gpu", "example.com/gpu.shared"] {
            assert_eq!(parse_resource(right), Ok(right.to_owned()));
        }
        let wrong = [
            "",
            "gpu",
            "/gpu",
            "nvidia.com/",
            "a/b/c",
            "kubernetes.io/gpu",
            "a/b c",
        ];
        for wrong in wrong {
            assert!(parse_resource(wrong).is_err(), "{wrong:?}");
        }
    }
}
