//! Container images of our programs, packed by the script that ships them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::programs::{ours, repository};

/// Packs `berth-NAME` into a tar in `folder`, under the name that the manifests give it.
///
/// # Errors
/// When the program is not built, or a library of it is from no Debian package.
pub fn pack(name: &str, folder: &Path) -> Result<PathBuf> {
    let tar = folder.join(format!("{name}.tar"));
    let version = env!("CARGO_PKG_VERSION");
    let mut script = Command::new(repository().join("images/image.sh"));
    script
        .arg(format!("docker.io/berth/{name}:{version}"))
        .arg(ours(&format!("berth-{name}"))?)
        .arg(&tar);
    let output = script.output().context("running image.sh")?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "packing {name}: {why}");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    Ok(tar)
}
