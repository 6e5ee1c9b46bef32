//! The openai client for Python, pinned with its dependencies, where `./x test` puts it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};

use crate::programs::repository;
use crate::story::Absent;

const INSTALL: &str = "engine/tests/openai/install.sh";
/// The script's exit code where there is no Python that can run the client.
const LACKS_PYTHON: i32 = 3;

/// The folder to put on `PYTHONPATH`, installed if it is not there yet.
///
/// # Errors
/// [`Absent`] where there is no python3 of version 3.11 or later with pip; else when it cannot be installed.
pub fn client() -> Result<&'static Path> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = FOLDER.get() {
        return Ok(folder);
    }
    let output = Command::new(repository().join(INSTALL))
        .stderr(Stdio::inherit())
        .output()
        .context("running install.sh")?;
    if output.status.code() == Some(LACKS_PYTHON) {
        return Err(Absent::software("install python3, 3.11 or later, with pip").into());
    }
    ensure!(
        output.status.success(),
        "{INSTALL} ended with {}",
        output.status
    );
    let folder = String::from_utf8(output.stdout).context("reading what install.sh says")?;
    Ok(FOLDER.get_or_init(|| PathBuf::from(folder.trim_end())))
}
