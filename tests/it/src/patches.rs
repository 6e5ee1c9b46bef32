//! The one list of what differs from the shipped manifests, because no kubelet runs them here.
//!
//! There are no images and no network of pods: programs run on this machine's loopback, side by side,
//! so each has ports, files and a kubeconfig of its own. Everything else is used as it is shipped. Each
//! patch must match exactly once and is printed when it is applied.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use berth_test_machine::{Materialized, NVML_MACHINE, nvml_library};

/// The shipped file with the agent's DaemonSet.
pub const DAEMONSET: &str = "daemonset/daemonset.yaml";
/// The shipped file with the agent's DaemonSet that serves the GPUs itself.
pub const DEVICE_PLUGIN: &str = "daemonset/optional/device-plugin.yaml";
/// The shipped patch of either for a driver that the host has.
pub const DRIVER_ROOT: &str = "daemonset/optional/driver-root.yaml";
/// The shipped patch of either for NVIDIA's container runtime by name.
pub const RUNTIME_CLASS: &str = "daemonset/optional/runtime-class.yaml";
/// The shipped file that lets agents write NodeResourceTopologies.
pub const ZONES: &str = "daemonset/optional/node-resource-topology.yaml";
/// The shipped file that lets agents ask their kubelets for their configuration.
pub const CONFIGZ: &str = "daemonset/optional/kubelet-configz.yaml";
/// The shipped file with kube-scheduler's configuration.
pub const SCHEDULER_CONFIG: &str = "scheduler-config/config.yaml";
/// The shipped file with kube-scheduler and extender.
pub const DEPLOYMENT: &str = "scheduler-config/deployment.yaml";
/// The shipped file with an extender apart from its scheduler.
pub const STANDALONE: &str = "scheduler-config/optional/standalone-extender.yaml";
/// The shipped example of an engine's pod.
pub const ENGINE_POD: &str = "scheduler-config/optional/engine-pod.yaml";

/// Where the stand-in for NVIDIA's library is in an agent's pod.
const LIBRARY_IN_POD: &str = "/usr/lib/nvml-standin.so";

/// One replacement in one shipped file.
#[derive(Clone, Debug)]
pub struct Patch {
    /// Below the repository's root.
    pub file: &'static str,
    /// Text that is in it exactly once.
    pub from: &'static str,
    /// What stands there instead.
    pub to: String,
    /// Why it cannot stay.
    pub why: &'static str,
}

/// What one scheduler-extender pair has of its own.
#[derive(Clone, Copy, Debug)]
pub struct PairPlace<'a> {
    /// Where the extender listens.
    pub extender_port: u16,
    /// Its kube-scheduler.
    pub scheduler: SchedulerPlace<'a>,
}

/// What one kube-scheduler has of its own.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerPlace<'a> {
    /// Where it finds the extender, or whoever stands between them.
    pub extender_url: &'a str,
    /// Where it listens.
    pub port: u16,
    /// Its own.
    pub kubeconfig: &'a Path,
    /// The configuration, written out as a kubelet would mount it.
    pub config: &'a Path,
}

// === impl Patch ===

impl fmt::Display for Patch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [from, to] = [self.from, &self.to].map(|text| text.trim().replace('\n', "⏎"));
        write!(out, "{}: `{from}` becomes `{to}` ({})", self.file, self.why)
    }
}

/// For one scheduler-extender pair.
#[must_use]
pub fn of_pair(place: &PairPlace<'_>) -> Vec<Patch> {
    let mut patches = of_scheduler(&place.scheduler);
    patches.push(Patch {
        file: DEPLOYMENT,
        from: "--listen=127.0.0.1:8888",
        to: format!("--listen=127.0.0.1:{}", place.extender_port),
        why: "two pairs share this machine's loopback",
    });
    patches
}

/// For one kube-scheduler.
#[must_use]
pub fn of_scheduler(place: &SchedulerPlace<'_>) -> Vec<Patch> {
    vec![
        Patch {
            file: SCHEDULER_CONFIG,
            from: "http://127.0.0.1:8888",
            to: place.extender_url.to_owned(),
            why: "two pairs share this machine's loopback",
        },
        Patch {
            file: SCHEDULER_CONFIG,
            from: "    percentageOfNodesToScore: 100\n",
            to: format!(
                "    percentageOfNodesToScore: 100\n    clientConnection: {{kubeconfig: '{}'}}\n",
                place.kubeconfig.display()
            ),
            why: "no kubelet mounts the account's token",
        },
        Patch {
            file: DEPLOYMENT,
            from: "--config=/etc/berth/scheduler.yaml",
            to: format!("--config={}", place.config.display()),
            why: "no kubelet mounts the ConfigMap",
        },
        Patch {
            file: DEPLOYMENT,
            from: "--secure-port=10259",
            to: lines(&[
                format!("--secure-port={}", place.port),
                "--bind-address=127.0.0.1".to_owned(),
            ]),
            why: "two pairs share this machine's loopback",
        },
    ]
}

/// For a kube-scheduler whose extender stands alone, as the comment in [`STANDALONE`] says; `tls` is what
/// it shows and trusts.
#[must_use]
pub fn over_tls(tls: &str) -> Patch {
    Patch {
        file: SCHEDULER_CONFIG,
        from: "filterVerb: filter",
        to: format!("enableHTTPS: true\n        tlsConfig: {tls}\n        filterVerb: filter"),
        why: "as shipped the extender is beside it",
    }
}

/// For an extender that stands alone, with the files of a mounted Secret.
#[must_use]
pub fn of_standalone(port: u16, tls: &Path) -> Vec<Patch> {
    let folder = tls.display();
    let file = |from, to| Patch {
        file: STANDALONE,
        from,
        to,
        why: "no kubelet mounts the Secret",
    };
    vec![
        Patch {
            file: STANDALONE,
            from: "--listen=0.0.0.0:8443",
            to: format!("--listen=127.0.0.1:{port}"),
            why: "the extender runs on this machine",
        },
        file(
            "--tls-cert=/etc/berth/tls/tls.crt",
            format!("--tls-cert={folder}/tls.crt"),
        ),
        file(
            "--tls-key=/etc/berth/tls/tls.key",
            format!("--tls-key={folder}/tls.key"),
        ),
        file(
            "--client-ca=/etc/berth/tls/ca.crt",
            format!("--client-ca={folder}/ca.crt"),
        ),
    ]
}

/// For a story in which silence is told apart from life, and which cannot wait for a minute.
#[must_use]
pub fn stale_after(seconds: u32) -> Patch {
    Patch {
        file: DEPLOYMENT,
        from: "--stale-after=60s",
        to: format!("--stale-after={seconds}s"),
        why: "the story waits for it",
    }
}

/// For a story that waits until a lease has passed.
#[must_use]
pub fn short_lease() -> Patch {
    let times = "leaseDuration: 6s\n      renewDeadline: 4s\n      retryPeriod: 1s";
    Patch {
        file: SCHEDULER_CONFIG,
        from: "leaderElect: true",
        to: format!("leaderElect: true\n      {times}"),
        why: "the story waits for it",
    }
}

/// For a story in which the extender may evict.
#[must_use]
pub fn preempt_for_topology() -> Patch {
    switched_on(DEPLOYMENT, "--stale-after=60s", "--preempt-for-topology")
}

/// For a story that waits for what an agent finds.
#[must_use]
pub fn poll_every_second() -> Patch {
    Patch {
        file: DEVICE_PLUGIN,
        from: "--numa-hints=on",
        to: lines(&["--numa-hints=on", "--poll=1"].map(str::to_owned)),
        why: "the story waits for it",
    }
}

/// For a story of the kubelet's policies, and whether its topology manager is told where GPUs are.
#[must_use]
pub fn foresee_kubelet(config: &Path, numa_hints: bool) -> Patch {
    let hints = if numa_hints { "on" } else { "off" };
    Patch {
        file: DEVICE_PLUGIN,
        from: "--numa-hints=on",
        to: lines(&[
            format!("--numa-hints={hints}"),
            format!("--kubelet-config={}", config.display()),
        ]),
        why: "where the file is differs from cluster to cluster, so that none is named as shipped",
    }
}

/// For an agent that asks a kubelet for its configuration, as the comment in [`CONFIGZ`] says.
#[must_use]
pub fn ask_kubelet(port: u16, ca: &Path) -> Patch {
    Patch {
        file: DEVICE_PLUGIN,
        from: "--numa-hints=on",
        to: lines(&[
            "--numa-hints=on".to_owned(),
            format!("--kubelet-configz=127.0.0.1:{port}"),
            format!("--kubelet-ca={}", ca.display()),
        ]),
        why: "the flags are off as shipped",
    }
}

/// For a story in which something stands between kubelet and plugin.
#[must_use]
pub fn plugin_folder(folder: &Path) -> Patch {
    Patch {
        file: DEVICE_PLUGIN,
        from: "--device-plugin-dir=/var/lib/kubelet/device-plugins",
        to: format!("--device-plugin-dir={}", folder.display()),
        why: "the kubelet is reached through a relay",
    }
}

/// For an agent of a machine that was written out as files, in the form that is in `file`.
#[must_use]
pub fn of_agent(file: &'static str, machine: &Materialized, kubeconfig: &Path) -> [Patch; 2] {
    let mut args: Vec<String> = Vec::new();
    for pair in machine.agent_args().chunks(2) {
        let words: Vec<_> = pair.iter().map(|word| word.to_string_lossy()).collect();
        args.push(words.join("="));
    }
    args.push(format!("--kubeconfig={}", kubeconfig.display()));
    let machine = Patch {
        file,
        from: "--sysfs-root=/host/sys",
        to: lines(&args),
        why: "the recorded machine's files stand for the host's; no driver, no kubelet",
    };
    let port = Patch {
        file,
        from: "--listen=0.0.0.0:8889",
        to: "--listen=127.0.0.1:0".to_owned(),
        why: "several agents share this machine's loopback",
    };
    [machine, port]
}

/// For the example engine: where its files are, and a port of its own.
#[must_use]
pub fn of_engine(model: &Path, assignment: &Path, port: u16) -> Vec<Patch> {
    vec![
        Patch {
            file: ENGINE_POD,
            from: "--model=/models/SmolLM2-135M-Instruct.Q4_1.gguf",
            to: format!("--model={}", model.display()),
            why: "no kubelet mounts the claim",
        },
        Patch {
            file: ENGINE_POD,
            from: "persistentVolumeClaim: {claimName: models, readOnly: true}",
            to: "emptyDir: {}".to_owned(),
            why: "nobody provisions volumes here",
        },
        Patch {
            file: ENGINE_POD,
            from: "--tensor-parallel-size=2",
            to: format!(
                "--tensor-parallel-size=2\n        - --assignment={}\n        - --device=cpu",
                assignment.display()
            ),
            why: "no kubelet mounts the annotation, and the GPUs are stand-ins",
        },
        Patch {
            file: ENGINE_POD,
            from: "--host=0.0.0.0",
            to: "--host=127.0.0.1".to_owned(),
            why: "the engine runs on this machine",
        },
        Patch {
            file: ENGINE_POD,
            from: "--port=8000",
            to: format!("--port={port}"),
            why: "the engine runs on this machine",
        },
    ]
}

/// For the example engine on a real kubelet: the model from a folder, and the host's network.
///
/// # Errors
/// When the model is in no folder.
pub fn of_engine_pod(model: &Path, port: u16) -> Result<Vec<Patch>> {
    let folder = model.parent().context("finding the model's folder")?;
    let name = model.file_name().context("reading the model's name")?;
    let patch = |from, to, why| Patch {
        file: ENGINE_POD,
        from,
        to,
        why,
    };
    let network = "pods have no network of their own here";
    Ok(vec![
        patch(
            "--model=/models/SmolLM2-135M-Instruct.Q4_1.gguf",
            format!("--model=/models/{}", name.display()),
            "the model that the tests have",
        ),
        patch(
            "persistentVolumeClaim: {claimName: models, readOnly: true}",
            format!(
                "hostPath: {{path: '{}', type: Directory}}",
                folder.display()
            ),
            "nobody provisions volumes here",
        ),
        patch(
            "--tensor-parallel-size=2",
            "--tensor-parallel-size=2\n        - --device=cpu".to_owned(),
            "the GPUs are stand-ins",
        ),
        patch(
            "schedulerName: berth-scheduler",
            "schedulerName: berth-scheduler\n  hostNetwork: true".to_owned(),
            network,
        ),
        patch("--port=8000", format!("--port={port}"), network),
        patch(
            "containerPort: 8000",
            format!("containerPort: {port}"),
            network,
        ),
        patch(
            "cpu: \"2\"",
            "cpu: \"1\"".to_owned(),
            "the machine may have two CPUs, and the agent asks for a part of one",
        ),
    ])
}

/// For agents that write their zones, as the comment in [`ZONES`] says.
#[must_use]
pub fn write_zones() -> Patch {
    switched_on(
        DAEMONSET,
        "--sysfs-root=/host/sys",
        "--node-resource-topology",
    )
}

/// For a driver whose root was made for the story.
#[must_use]
pub fn driver_root(folder: &Path) -> Patch {
    Patch {
        file: DRIVER_ROOT,
        from: "path: /run/nvidia/driver",
        to: format!("path: '{}'", folder.display()),
        why: "no driver",
    }
}

/// For an agent that is a pod on a real kubelet, in the form that is in `file`, with a machine that was written
/// out as files. The library is laid into its image unless it is elsewhere.
#[must_use]
pub fn of_agent_pod(
    file: &'static str,
    machine: &Materialized,
    api_server: (&str, &str),
    has_library: bool,
) -> Vec<Patch> {
    let patch = |from, to, why| Patch {
        file,
        from,
        to,
        why,
    };
    let stands_for = "the recorded machine's files stand for the host's; no driver";
    let network = "pods have no network of their own here, and nobody routes to services";
    let (host, port) = api_server;
    let mut args = vec!["--sysfs-root=/host/sys".to_owned()];
    args.extend(has_library.then(|| format!("--nvml-library={LIBRARY_IN_POD}")));
    let hwloc = machine.hwloc_xml.iter();
    args.extend(hwloc.map(|xml| format!("--hwloc-xml={}", xml.display())));
    let variables = [
        (NVML_MACHINE, machine.raw_file.to_string_lossy()),
        ("KUBERNETES_SERVICE_HOST", host.into()),
        ("KUBERNETES_SERVICE_PORT", port.into()),
    ];
    let variables = variables.map(|(name, value)| format!("- {{name: {name}, value: '{value}'}}"));
    let folder = machine.sysfs_root.parent().unwrap_or(Path::new("/"));
    let folder = folder.display();
    let library = nvml_library();
    let library = library.display();
    vec![
        patch("--sysfs-root=/host/sys", lines(&args), stands_for),
        patch(
            "hostPath: {path: /sys, type: Directory}",
            format!(
                "hostPath: {{path: '{}', type: Directory}}\n        \
                 - {{name: machine, hostPath: {{path: '{folder}', type: Directory}}}}\n        \
                 - {{name: nvml, hostPath: {{path: '{library}', type: File}}}}",
                machine.sysfs_root.display(),
            ),
            stands_for,
        ),
        patch(
            "volumeMounts:",
            format!(
                "volumeMounts:\n            \
                 - {{name: machine, mountPath: '{folder}', readOnly: true}}\n            \
                 - {{name: nvml, mountPath: {LIBRARY_IN_POD}, readOnly: true}}"
            ),
            stands_for,
        ),
        patch(
            "env:",
            format!("env:\n            {}", variables.join("\n            ")),
            network,
        ),
        patch(
            "serviceAccountName: berth-node-agent",
            "serviceAccountName: berth-node-agent\n      hostNetwork: true".to_owned(),
            network,
        ),
    ]
}

/// A flag that nobody has to give, before one that the file has.
fn switched_on(file: &'static str, from: &'static str, flag: &str) -> Patch {
    Patch {
        file,
        from,
        to: lines(&[flag, from].map(str::to_owned)),
        why: "the flag is off as shipped",
    }
}

/// Several arguments in place of one, indented as they are in the manifests.
fn lines(args: &[String]) -> String {
    args.join("\n            - ")
}
