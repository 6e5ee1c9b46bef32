//! The one image: busybox, which runs as sandbox and as container.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::programs::repository;

/// As pods name it.
pub(super) const NAME: &str = "berth.dev/tests/busybox:1";
/// Names under which busybox is found in it.
const APPLETS: [&str; 5] = ["sh", "env", "sleep", "mkdir", "rmdir"];
/// What a sandbox does until it is killed, in seconds: 68 years.
const SANDBOX: [&str; 2] = ["sleep", "2147483647"];

/// Packs the image into a tar in `folder`.
///
/// # Errors
/// When a file cannot be written or the script fails.
pub(super) fn pack(busybox: &Path, folder: &Path) -> Result<PathBuf> {
    let root = folder.join("image");
    let bin = root.join("bin");
    fs::create_dir_all(&bin).context("making the folder of an image")?;
    fs::copy(busybox, bin.join("busybox")).context("copying busybox")?;
    for applet in APPLETS {
        symlink("busybox", bin.join(applet)).with_context(|| format!("linking {applet}"))?;
    }
    let tar = folder.join("image.tar");
    let mut script = Command::new(repository().join("images/pack.sh"));
    script
        .arg(NAME)
        .arg(&root)
        .arg(&tar)
        .arg("0:0")
        .args(SANDBOX);
    let output = script.output().context("running pack.sh")?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "packing an image: {why}");
    Ok(tar)
}
