//! This program's own file, copied to where another container finds it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::report;

/// Copies `program` to `folder/berth-run`: whole, or not at all.
///
/// # Errors
/// When the folder cannot be written.
pub fn install(program: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    if !cfg!(target_feature = "crt-static") {
        report::say(
            "this build is not static: it runs only in images with a C library like its own",
        );
    }
    let path = folder.join("berth-run");
    let whole = folder.join(format!(".berth-run.{}", std::process::id()));
    let done = copy(program, &whole).and_then(|()| fs::rename(&whole, &path));
    if done.is_err() {
        let _ = fs::remove_file(&whole);
    }
    done.with_context(|| format!("installing {}", path.display()))?;
    Ok(path)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut file = File::create(to)?;
    io::copy(&mut File::open(from)?, &mut file)?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_arrives_whole_and_executable_and_replaces_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "new").unwrap();
        let target = tempfile::tempdir().unwrap();
        fs::write(target.path().join("berth-run"), "old").unwrap();
        let path = install(&program, target.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = install(Path::new("/proc/self/exe"), Path::new("/nonexistent")).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/berth-run"),
            "{error}"
        );
    }
}
