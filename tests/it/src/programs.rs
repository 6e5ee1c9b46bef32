//! Where the programs are that the stories run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail, ensure};

use crate::story::Absent;

/// `build.sh`'s exit code when Go is missing or too old.
const NO_GO: i32 = 3;

/// The repository's root.
#[must_use]
pub fn repository() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// One of our binaries, or a library: what `cargo build --workspace` put beside this test.
///
/// # Errors
/// When it has not been built.
pub fn ours(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("asking for the path of this test")?;
    let folder = test
        .ancestors()
        .nth(2)
        .context("finding the target folder of this test")?;
    let path = folder.join(name);
    ensure!(
        path.exists(),
        "{} is not there: run `cargo build --workspace`",
        path.display()
    );
    Ok(path)
}

/// The folder with etcd, kube-apiserver and kube-scheduler, built if it is not there yet.
///
/// # Errors
/// [`Absent`] where Go is missing; else when the build fails.
pub fn control_plane() -> Result<&'static Path> {
    static FOLDER: OnceLock<Result<PathBuf, Failure>> = OnceLock::new();
    built(FOLDER.get_or_init(|| build(&[])))
}

/// The program that admits pods with the kubelet's own packages, built if it is not there yet.
///
/// # Errors
/// As [`control_plane`].
pub fn topology_manager() -> Result<&'static Path> {
    static PROGRAM: OnceLock<Result<PathBuf, Failure>> = OnceLock::new();
    built(PROGRAM.get_or_init(|| build(&["topology-manager"])))
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

fn build(what: &[&str]) -> Result<PathBuf, Failure> {
    let script = repository().join("tests/control-plane/build.sh");
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
        Some(NO_GO) => Err(Failure::Absent(Absent::software(
            "install Go 1.26 or newer (https://go.dev/dl/, unpacked to /usr/local/go)",
        ))),
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
