//! Mounts and processes of the story's own, in which containerd and kubelet run.
//!
//! Both insist on paths of the host (`/var/lib/kubelet`, `/run/containerd`), mount much and start processes
//! that outlive them. In a mount and a pid namespace those paths are the story's folders, and all mounts and
//! processes end when the first process of the namespace does.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::process::{OnExit, Process, Program};
use crate::story::Absent;
use crate::wait::{PATIENCE, eventually};

/// The story's folder for each of the host's.
const FOLDERS: [(&str, &str); 3] = [
    ("var-lib", "/var/lib"),
    ("var-log", "/var/log"),
    ("run", "/run"),
];
/// What a kubelet sets on its host when it finds another value (`setupKernelTunables`): it finds these, and
/// the host keeps its own.
const TUNABLES: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];
/// What the first process does, with the folder and the pairs to be mounted. It reads its pid while `/proc` is
/// still the host's, and writes it when all is mounted. Then it waits, which takes away the processes that
/// others leave to it.
const FIRST: &str = r#"
set -e
read -r pid rest < /proc/self/stat
mount -t proc proc /proc
for pair in "$@"; do
    mount --bind "${pair%%:*}" "${pair#*:}"
done
mount --make-rshared /
echo "$pid" > "$0/pid.part"
mv "$0/pid.part" "$0/pid"
while :; do
    sleep 3600 &
    wait
done
"#;
/// What the kernel draws when it boots, and what it draws whenever it is read.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const RANDOM_ID: &str = "/proc/sys/kernel/random/uuid";
/// Holds the pid of the first process, once all is mounted.
const PID_FILE: &str = "pid";
/// The kernel kills what is in there; a loaded machine takes a moment.
const GONE_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The namespaces, for as long as this lives.
#[derive(Debug)]
pub(super) struct Namespaces {
    first: Option<Process>,
    pid: u32,
    folder: PathBuf,
}

// === impl Namespaces ===

impl Namespaces {
    /// Makes them, with the host's folders in `folder`, and `more` mounted: FILE:PLACE.
    ///
    /// # Errors
    /// [`Absent`] where this process may not; else when a mount fails.
    pub(super) async fn make(folder: &Path, logs: &Path, more: Vec<String>) -> Result<Self> {
        allowed()?;
        let mut pairs = vec![boot_id(folder)?];
        forget_the_last(folder)?;
        for (name, value) in TUNABLES {
            let file = folder.join("sysctl").join(name);
            let parent = file.parent().unwrap_or(folder);
            fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
            fs::write(&file, value).with_context(|| format!("writing {}", file.display()))?;
            pairs.push(format!("{}:/proc/sys/{name}", file.display()));
        }
        for (name, path) in FOLDERS {
            let own = folder.join(name);
            fs::create_dir_all(&own).with_context(|| format!("making {}", own.display()))?;
            pairs.push(format!("{}:{path}", own.display()));
        }
        pairs.extend(more);
        let unshare = Program::new("namespaces", Path::new("unshare"))
            .args(["--mount", "--propagation=private", "--pid", "--fork"])
            .args(["--kill-child=KILL", "--", "sh", "-c", FIRST])
            .args([folder.to_string_lossy()])
            .args(pairs);
        let mut made = Self {
            first: Some(Process::start(unshare, OnExit::Stay, logs)?),
            pid: 0,
            folder: folder.to_owned(),
        };
        made.pid = made.wait_until_mounted().await?;
        Ok(made)
    }

    /// The same program, started in here.
    pub(super) fn inside(&self, program: Program) -> Program {
        let words = self.enter();
        let mut entered = Program::new(&program.name, Path::new(&words[0])).args(&words[1..]);
        entered
            .args
            .push(program.path.to_string_lossy().into_owned());
        entered.args.extend(program.args);
        entered.env = program.env;
        entered
    }

    /// A program that ends soon, started in here: its output.
    ///
    /// # Errors
    /// What it said when it fails.
    pub(super) fn run(&self, program: &Path, args: &[&str]) -> Result<String> {
        let words = self.enter();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program).args(args);
        let output = command.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("running {}", program.display()))?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{} {args:?}: {}",
            program.display(),
            why.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Where a path of the namespaces is for this process.
    ///
    /// # Errors
    /// When it is none of the story's folders.
    pub(super) fn outside(&self, path: &Path) -> Result<PathBuf> {
        FOLDERS
            .iter()
            .find_map(|(name, root)| {
                Some(self.folder.join(name).join(path.strip_prefix(root).ok()?))
            })
            .with_context(|| format!("{} is not in a folder of the story", path.display()))
    }

    /// Ends what runs in there, and waits for it.
    ///
    /// # Errors
    /// When it does not end, or a mount of the story shows on the host.
    pub(super) fn end(mut self) -> Result<()> {
        self.kill();
        ensure!(!is_alive(self.pid), "process {} does not end", self.pid);
        let mounts = fs::read_to_string("/proc/self/mounts").context("reading the mounts")?;
        let folder = self.folder.to_string_lossy();
        let left = mounts.lines().find(|line| line.contains(&*folder));
        ensure!(left.is_none(), "a mount is left: {left:?}");
        Ok(())
    }

    /// Waits, so that nothing writes into the story's folder any more when that is removed.
    fn kill(&mut self) {
        self.first = None;
        let began = Instant::now();
        while is_alive(self.pid) && began.elapsed() < GONE_WITHIN {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn enter(&self) -> [String; 6] {
        let pid = self.pid.to_string();
        ["nsenter", "--target", &pid, "--mount", "--pid", "--"].map(str::to_owned)
    }

    async fn wait_until_mounted(&self) -> Result<u32> {
        let file = self.folder.join(PID_FILE);
        eventually("the namespaces of a node", PATIENCE, async || {
            let first = self.first.as_ref().context("it was not started")?;
            if let Some(exit) = first.last_exit() {
                anyhow::bail!("it ended: {exit}");
            }
            let text = fs::read_to_string(&file)?;
            text.trim().parse().context("reading a pid")
        })
        .await
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The first process of a pid namespace ends after all others. Until its parent takes note of that it is
/// there without a command line.
fn is_alive(pid: u32) -> bool {
    pid != 0 && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// Namespaces are a boot of their own: which file stands for the kernel's boot id.
fn boot_id(folder: &Path) -> Result<String> {
    let file = folder.join("boot-id");
    fs::copy(RANDOM_ID, &file).context("drawing a boot id")?;
    Ok(format!("{}:{BOOT_ID}", file.display()))
}

/// Namespaces may have been made in this folder before.
fn forget_the_last(folder: &Path) -> Result<()> {
    match fs::remove_file(folder.join(PID_FILE)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context("removing the last pid")
        }
        _ => Ok(()),
    }
}

fn allowed() -> Result<()> {
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation=private",
        "--pid",
        "--fork",
        "--",
        "sh",
        "-c",
    ]);
    command.arg("mount -t proc proc /proc && mount --make-rshared /");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let works = command.stderr(Stdio::null()).status();
    if works.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let how = "run as root where mounts are allowed: a kubelet needs a mount and a pid namespace";
    Err(Absent::software(how).into())
}
