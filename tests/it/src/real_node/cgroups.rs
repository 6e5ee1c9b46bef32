//! A cgroup of the story's own in each hierarchy, under which the kubelet puts its pods.
//!
//! Gone with its handle. A run that was killed leaves empty folders: the next one removes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::story::Absent;

const ROOT: &str = "/sys/fs/cgroup";
/// Followed by the process id of the run, and a number within it.
const PREFIX: &str = "berth-it-";
/// Version 1: what a new cpuset lacks, copied from the one above it.
const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
/// A killed container's cgroup is busy for a moment.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

static MADE: AtomicU32 = AtomicU32::new(0);

/// The story's cgroups.
#[derive(Debug)]
pub(super) struct Cgroups {
    name: String,
    folders: Vec<PathBuf>,
}

// === impl Cgroups ===

impl Cgroups {
    /// One in each hierarchy.
    ///
    /// # Errors
    /// [`Absent`] where this process may not make cgroups.
    pub(super) fn make() -> Result<Self> {
        let hierarchies = hierarchies();
        hierarchies.iter().for_each(|folder| sweep(folder));
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let mut made = Self {
            folders: Vec::new(),
            name,
        };
        for hierarchy in hierarchies {
            let folder = hierarchy.join(&made.name);
            if let Err(error) = fs::create_dir(&folder) {
                let how = format!("run as root where {ROOT} can be written ({error})");
                return Err(Absent::software(&how).into());
            }
            made.folders.push(folder.clone());
            fill_cpuset(&hierarchy, &folder)?;
        }
        Ok(made)
    }

    /// As the kubelet's `cgroupRoot` wants it.
    pub(super) fn root(&self) -> String {
        format!("/{}", self.name)
    }

    /// Removes them.
    ///
    /// # Errors
    /// When a process stays in one.
    pub(super) fn end(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        let began = Instant::now();
        for folder in std::mem::take(&mut self.folders) {
            let mut removed = remove(&folder);
            while removed.is_err() && began.elapsed() < EMPTY_WITHIN {
                std::thread::sleep(LOOK_EVERY);
                removed = remove(&folder);
            }
            removed.with_context(|| format!("removing the cgroup {}", folder.display()))?;
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            println!("{error:#}");
        }
    }
}

/// Version 2 has one, version 1 one for each controller.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    folders_in(root)
        .filter(|folder| folder.join("cgroup.procs").exists())
        .collect()
}

fn fill_cpuset(parent: &Path, folder: &Path) -> Result<()> {
    for file in CPUSET_FILES {
        let (from, to) = (parent.join(file), folder.join(file));
        // Version 2 inherits, and its root has no such file.
        if from.exists() && to.exists() {
            fs::copy(&from, &to).with_context(|| format!("filling {}", to.display()))?;
        }
    }
    Ok(())
}

/// What runs left whose process is gone; one that still runs keeps what it has.
fn sweep(hierarchy: &Path) {
    let is_left = |folder: &PathBuf| {
        let name = folder.file_name().and_then(|name| name.to_str());
        let rest = name.and_then(|name| name.strip_prefix(PREFIX));
        let pid = rest.and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    for folder in folders_in(hierarchy).filter(is_left) {
        // Another run may sweep at the same time; one that is busy is left to the next.
        drop(remove(&folder));
    }
}

/// The deepest first: a cgroup with children cannot be removed.
fn remove(folder: &Path) -> std::io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for child in folders_in(folder) {
        remove(&child)?;
    }
    fs::remove_dir(folder)
}

fn folders_in(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter(is_folder).map(|entry| entry.path())
}
