//! A real node: containerd and kubelet on this machine, in namespaces and cgroups of their own.
//!
//! Pods run on the host's network, so that no plugin for it is needed. When the handle is dropped, by the end of
//! a story or by a panic, every process, mount and cgroup is gone; logs stay in the story's folder.

mod cgroups;
mod configs;
mod image;
mod namespaces;
mod pod;
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use berth_topology::raw::RawMachine;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt as _};
use serde::Deserialize;
use serde_json::Value;

use cgroups::Cgroups;
use namespaces::Namespaces;
pub use pod::{holding_here, plain_pod, running_here};
use shown::Shown;

use crate::control_plane::{ControlPlane, KUBELET_TOKEN, REAL_NODE};
use crate::kubelet;
use crate::ports::free_port;
use crate::process::{OnExit, Process, Program};
use crate::programs;
use crate::wait::{PATIENCE, eventually};

/// The socket at which a kubelet tells what it gave.
const POD_RESOURCES: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";
/// CPUs and devices that a kubelet has given to whom. Of pods that are gone they are there until it looks.
const GIVEN: [&str; 2] = [
    "/var/lib/kubelet/cpu_manager_state",
    "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint",
];
/// Of the node, in the story's.
const FOLDER: &str = "node";
/// From its start until the node is Ready, on a loaded machine.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Drops in this order: nobody starts containers any more before the namespaces end, and their cgroups are
/// empty after that.
#[derive(Debug)]
pub struct RealNode {
    /// The kubelet; started again when it is killed, as systemd would.
    pub kubelet: Process,
    /// containerd; started again when it is killed. Its shims and the containers stay meanwhile.
    pub containerd: Process,
    namespaces: Namespaces,
    cgroups: Cgroups,
    likeness: Likeness,
    folder: PathBuf,
}

/// How a node is other than this machine with a kubelet's defaults.
#[derive(Clone, Debug, Default)]
pub struct Likeness {
    /// Its CPUs and NUMA nodes are those of this recorded machine, as far as its kubelet knows.
    pub machine: Option<RawMachine>,
    /// Its kubelet's configuration says this, too: an object, or null.
    pub kubelet: Value,
}

/// As the program pod-resources prints it.
#[derive(Debug, Deserialize)]
struct Held {
    pod: String,
    resource: String,
    devices: BTreeSet<String>,
}

// === impl RealNode ===

impl RealNode {
    /// Starts both and waits until the node [`REAL_NODE`] is Ready and pods may go there.
    ///
    /// # Errors
    /// [`crate::story::Absent`] where this machine does not allow it; else when something does not start.
    pub async fn start(plane: &ControlPlane, logs: &Path) -> Result<Self> {
        Self::start_like(plane, logs, Likeness::default()).await
    }

    /// As [`RealNode::start`], but it is like that.
    ///
    /// # Errors
    /// As there.
    pub async fn start_like(plane: &ControlPlane, logs: &Path, likeness: Likeness) -> Result<Self> {
        let programs = programs::container_runtime()?;
        let folder = logs.join(FOLDER);
        fs::create_dir_all(&folder).context("making the folder of a node")?;
        let node = Self::boot(plane, logs, likeness).await?;
        let tar = image::pack(&programs.join("busybox"), &folder)?;
        node.import(&tar).await?;
        node.wait_until_ready(&plane.admin).await?;
        kubelet::open_to_pods(&plane.admin, REAL_NODE).await?;
        Ok(node)
    }

    /// The power goes and comes back: every process is gone, `/run` is empty, the boot id is another. `/var`
    /// stays as it was. What was started [`Self::inside`] is gone as well and is to be started again in the node
    /// that this returns, which may not be Ready yet.
    ///
    /// # Errors
    /// When something does not end or does not start.
    pub async fn reboot(self, plane: &ControlPlane, logs: &Path) -> Result<Self> {
        let likeness = self.likeness.clone();
        self.power_off()?;
        let run = logs.join(FOLDER).join("run");
        fs::remove_dir_all(&run).context("emptying /run")?;
        Self::boot(plane, logs, likeness).await
    }

    async fn boot(plane: &ControlPlane, logs: &Path, likeness: Likeness) -> Result<Self> {
        let programs = programs::container_runtime()?;
        let folder = logs.join(FOLDER);
        let cgroups = Cgroups::make()?;
        let runc = programs.join("runc");
        let machine = likeness.machine.as_ref();
        let shown = machine.map(|machine| Shown::write(machine, &runc, &folder));
        let (mounts, runc) = match shown.transpose()? {
            Some(shown) => (shown.mounts, shown.runc),
            None => (Vec::new(), runc),
        };
        let namespaces = Namespaces::make(&folder, logs, mounts).await?;
        write_configs(&folder, &runc)?;
        write_kubelet_config(&folder, &cgroups, &likeness.kubelet)?;
        let containerd = Program::new("containerd", &programs.join("containerd")).args([format!(
            "--config={}",
            folder.join(CONTAINERD_FILE).display()
        )]);
        let containerd = namespaces.inside(containerd);
        let containerd = Process::start(containerd, OnExit::StartAgain, logs)?;
        let kubelet = namespaces.inside(kubelet(plane, &folder)?);
        Ok(Self {
            kubelet: Process::start(kubelet, OnExit::StartAgain, logs)?,
            containerd,
            namespaces,
            cgroups,
            likeness,
            folder,
        })
    }

    /// Part of the path of every cgroup of its pods, and of no others.
    #[must_use]
    pub fn cgroup(&self) -> String {
        self.cgroups.root()
    }

    /// The kubelet's configuration file.
    #[must_use]
    pub fn kubelet_config(&self) -> PathBuf {
        self.folder.join(KUBELET_FILE)
    }

    /// Starts the kubelet anew with that in its configuration, instead of what it was started with, and without
    /// what it remembers of pods that are gone: as on a node that was drained.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn configure(&mut self, kubelet: Value) -> Result<()> {
        write_kubelet_config(&self.folder, &self.cgroups, &kubelet)?;
        self.likeness.kubelet = kubelet;
        // Before, because it is started again soon; after, because it may have written meanwhile.
        self.forget_given()?;
        self.kubelet.kill();
        self.forget_given()
    }

    fn forget_given(&self) -> Result<()> {
        GIVEN
            .iter()
            .try_for_each(|file| forget(&self.outside(file)?))
    }

    /// Gives containerd an image, packed as a tar.
    ///
    /// # Errors
    /// When it does not take it.
    pub async fn import(&self, image: &Path) -> Result<()> {
        let ctr = programs::container_runtime()?.join("ctr");
        import(&self.namespaces, &ctr, image).await
    }

    /// The same program, started where kubelet and containerd are: it sees their sockets at the usual paths.
    #[must_use]
    pub fn inside(&self, program: Program) -> Program {
        self.namespaces.inside(program)
    }

    /// Where a path of `/var/lib`, `/var/log` or `/run` in there is for this process.
    ///
    /// # Errors
    /// When it is in none of them.
    pub fn outside(&self, path: &str) -> Result<PathBuf> {
        self.namespaces.outside(Path::new(path))
    }

    /// What a pod of [`plain_pod`] or [`running_here`] found in its environment, as it printed it.
    ///
    /// # Errors
    /// When it does not say so in time, or found a GPU of its own in use by another.
    pub async fn environment(&self, pod: &Pod) -> Result<BTreeMap<String, String>> {
        let logs = self.outside(&pod::log_folder(pod)?)?;
        let what = format!("the environment of pod {}", pod.name_any());
        eventually(&what, PATIENCE, async || {
            pod::printed_environment(&pod::last_log(&logs)?)
        })
        .await
        .and_then(|environment| {
            let twice = environment.get(pod::HELD_BY_ANOTHER);
            ensure!(
                twice.is_none(),
                "{what}: {twice:?} is in use by another pod"
            );
            Ok(environment)
        })
    }

    /// Which devices of a resource the kubelet says that each pod has.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn devices(&self, resource: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let program = programs::control_plane()?.join("pod-resources");
        let answer = self.namespaces.run(&program, &[POD_RESOURCES])?;
        let mut devices = BTreeMap::new();
        for line in answer.lines() {
            let held: Held =
                serde_json::from_str(line).with_context(|| format!("parsing {line}"))?;
            if held.resource == resource {
                let of_pod: &mut BTreeSet<String> = devices.entry(held.pod).or_default();
                of_pod.extend(held.devices);
            }
        }
        Ok(devices)
    }

    /// Somebody else who asks the kubelet so often which devices it gave, until this is dropped.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn ask_for_devices(&self, per_second: u32, logs: &Path) -> Result<Process> {
        let program = programs::control_plane()?.join("pod-resources");
        let program = Program::new("pod-resources", &program);
        let program = program.args([POD_RESOURCES.to_owned(), per_second.to_string()]);
        Process::start(self.inside(program), OnExit::StartAgain, logs)
    }

    /// Waits until the node has so many of a resource to give.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_until_allocatable(
        &self,
        admin: &Client,
        resource: &str,
        count: usize,
    ) -> Result<()> {
        let nodes: Api<Node> = Api::all(admin.clone());
        let what = format!("{count} {resource} on the kubelet's node");
        eventually(&what, PATIENCE, async || {
            let status = nodes.get(REAL_NODE).await?.status.unwrap_or_default();
            let amount = status.allocatable.unwrap_or_default().remove(resource);
            let amount = amount.map_or_else(|| "nothing".to_owned(), |amount| amount.0);
            ensure!(amount == count.to_string(), "it has {amount}");
            Ok(())
        })
        .await
    }

    /// Ends all of it and takes the node out of the cluster.
    ///
    /// # Errors
    /// When something of it is left on this machine, or the API server refuses.
    pub async fn end(self, admin: &Client) -> Result<()> {
        self.power_off()?;
        let nodes: Api<Node> = Api::all(admin.clone());
        let deleted = nodes.delete(REAL_NODE, &DeleteParams::default()).await;
        deleted.context("deleting the node").map(drop)
    }

    fn power_off(self) -> Result<()> {
        let Self {
            kubelet,
            containerd,
            namespaces,
            cgroups,
            ..
        } = self;
        drop((kubelet, containerd));
        namespaces.end()?;
        cgroups.end()
    }

    async fn wait_until_ready(&self, admin: &Client) -> Result<()> {
        let nodes: Api<Node> = Api::all(admin.clone());
        eventually("the kubelet's node to be Ready", READY_WITHIN, async || {
            for (name, process) in [("kubelet", &self.kubelet), ("containerd", &self.containerd)] {
                if process.starts() > 3 {
                    bail!("{name} keeps ending: {:?}", process.last_exit());
                }
            }
            let status = nodes.get(REAL_NODE).await?.status.unwrap_or_default();
            let ready = status.conditions.into_iter().flatten();
            let ready = ready
                .into_iter()
                .find(|condition| condition.type_ == "Ready");
            let ready = ready.context("it says nothing yet")?;
            ensure!(ready.status == "True", "{:?}", ready.message);
            Ok(())
        })
        .await
    }
}

fn forget(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}

const CONTAINERD_FILE: &str = "containerd.toml";
const KUBELET_FILE: &str = "kubelet.json";

fn write_configs(folder: &Path, runc: &Path) -> Result<()> {
    let networks = folder.join("run/cni/net.d");
    fs::create_dir_all(&networks).context("making the folder of networks")?;
    write(
        &folder.join(CONTAINERD_FILE),
        &configs::containerd(runc, image::NAME),
    )?;
    let network = configs::network().to_string();
    write(&networks.join("none.conflist"), &network)
}

/// At once, because somebody may be reading it.
fn write_kubelet_config(folder: &Path, cgroups: &Cgroups, more: &Value) -> Result<()> {
    let mut config = configs::kubelet(free_port()?, &cgroups.root());
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let (part, whole) = (folder.join("kubelet.part"), folder.join(KUBELET_FILE));
    write(&part, &config.to_string())?;
    fs::rename(&part, &whole).context("replacing the kubelet's configuration")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn kubelet(plane: &ControlPlane, folder: &Path) -> Result<Program> {
    let kubeconfig = plane.kubeconfig("kubelet", KUBELET_TOKEN)?;
    let binary = programs::control_plane()?.join("kubelet");
    Ok(Program::new("kubelet", &binary).args([
        format!("--config={}", folder.join(KUBELET_FILE).display()),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--hostname-override={REAL_NODE}"),
    ]))
}

/// Tried until containerd answers.
async fn import(namespaces: &Namespaces, ctr: &Path, tar: &Path) -> Result<()> {
    let tar = tar.to_string_lossy();
    let import = [
        "--connect-timeout=2s",
        "--namespace=k8s.io",
        "images",
        "import",
    ];
    let args = [&import[..], &["--snapshotter=native", &tar]].concat();
    eventually("containerd to take an image", PATIENCE, async || {
        namespaces.run(ctr, &args).map(drop)
    })
    .await
}

/// Deletes a pod and waits until the kubelet has ended its containers and let it go.
///
/// # Errors
/// When it does not in time.
pub async fn delete_pod(admin: &Client, name: &str) -> Result<()> {
    let pods = crate::pods::api(admin);
    pods.delete(name, &DeleteParams::default())
        .await
        .with_context(|| format!("deleting pod {name}"))?;
    eventually("the kubelet to let a pod go", PATIENCE, async || {
        ensure!(pods.get_opt(name).await?.is_none(), "it is still there");
        Ok(())
    })
    .await
}
