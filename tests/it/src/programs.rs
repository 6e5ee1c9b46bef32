//! Where the programs are that the stories run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};

use crate::story::Absent;

/// The scripts' exit code when what they need is missing: Go, or apt-get.
const LACKS_ITS_TOOL: i32 = 3;
/// Names a folder with programs of another profile, whose figures a person wants to know.
const PROGRAMS: &str = "BERTH_PROGRAMS";
const GET_GO: &str = "install Go 1.26 or newer (https://go.dev/dl/, unpacked to /usr/local/go)";
const GET_RUNTIME: &str = "run on Debian, or see tests/control-plane/container-runtime.sh";

/// The repository's root.
#[must_use]
pub fn repository() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// One of our binaries, or a library: what `cargo build --workspace` put beside this program, or above it where
/// that is a test; what is in the folder `BERTH_PROGRAMS` comes before.
///
/// # Errors
/// When it has not been built.
pub fn ours(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("asking for the path of this program")?;
    let given = std::env::var_os(PROGRAMS).map(PathBuf::from);
    let folders = given.iter().map(PathBuf::as_path);
    let folders = folders.chain(this.ancestors().skip(1).take(2));
    let mut paths = folders.map(|folder| folder.join(name));
    paths.find(|path| path.exists()).with_context(|| {
        let this = this.display();
        format!("{name} is not beside {this}: run `cargo build --workspace`")
    })
}

/// The folder with etcd, kube-apiserver, kube-scheduler and kubelet, built if it is not there yet.
///
/// # Errors
/// [`Absent`] where Go is missing; else when the build fails.
pub fn control_plane() -> Result<&'static Path> {
    static FOLDER: OnceLock<Result<PathBuf, Failure>> = OnceLock::new();
    built(FOLDER.get_or_init(|| build("build.sh", &[], GET_GO)))
}

/// The program that admits pods with the kubelet's own packages, built if it is not there yet.
///
/// # Errors
/// As [`control_plane`].
pub fn topology_manager() -> Result<&'static Path> {
    static PROGRAM: OnceLock<Result<PathBuf, Failure>> = OnceLock::new();
    built(PROGRAM.get_or_init(|| build("build.sh", &["topology-manager"], GET_GO)))
}

/// The folder with containerd, runc and busybox, fetched if it is not there yet.
///
/// # Errors
/// [`Absent`] where there is no apt-get; else when it cannot be fetched.
pub fn container_runtime() -> Result<&'static Path> {
    static FOLDER: OnceLock<Result<PathBuf, Failure>> = OnceLock::new();
    built(FOLDER.get_or_init(|| build("container-runtime.sh", &[], GET_RUNTIME)))
}

fn built(path: &Result<PathBuf, Failure>) -> Result<&Path> {
    match path {
        Ok(path) => Ok(path),
        Err(Failure::Absent(absent)) => Err(absent.clone().into()),
        Err(Failure::Broken(why)) => bail!("{why}"),
    }
}

/// Kept for every story that asks.
#[derive(Debug)]
enum Failure {
    Absent(Absent),
    Broken(String),
}

/// Runs a script of `tests/control-plane`, which prints where the result is.
fn build(script: &str, what: &[&str], how: &str) -> Result<PathBuf, Failure> {
    let script = repository().join("tests/control-plane").join(script);
    // Its progress is shown as it goes: a cold build takes minutes.
    let output = Command::new(&script)
        .args(what)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::Broken(format!("running {}: {error}", script.display())))?;
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(
            String::from_utf8_lossy(&output.stdout).trim(),
        )),
        Some(LACKS_ITS_TOOL) => Err(Failure::Absent(Absent::software(how))),
        code => Err(Failure::Broken(format!(
            "{} ended with {code:?}",
            script.display()
        ))),
    }
}

/// What starting a program needs of this machine besides the programs themselves.
///
/// # Errors
/// [`Absent`] with the package or the right that is missing.
pub fn machine_allows() -> Result<()> {
    require("openssl", &["version"], "install the package openssl")?;
    require("setpriv", &["--version"], "install the package util-linux")?;
    require(
        "unshare",
        &["--uts", "true"],
        "run as root: each scheduler needs a host name of its own (unshare --uts)",
    )
}

fn require(program: &str, args: &[&str], how: &str) -> Result<()> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let works = command.status().is_ok_and(|status| status.success());
    if works {
        Ok(())
    } else {
        Err(Absent::software(how).into())
    }
}
