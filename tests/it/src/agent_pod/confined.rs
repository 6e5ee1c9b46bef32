//! What an agent that is a pod may do, as the kernel says of its process.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::real_node::RealNode;

/// The program in its image.
const PROGRAM: &str = "/usr/bin/berth-node-agent";
/// What a runtime mounts of its own, for every container: not the host's files.
const RUNTIMES: [&str; 4] = ["/proc", "/dev", "/sys", "/etc/"];

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confined {
    /// Effective user.
    pub uid: u32,
    /// Effective capabilities, a bit each.
    pub capabilities: u64,
    /// Whether a program that it starts could have more rights than it.
    pub may_gain_privileges: bool,
    /// Whether system calls are filtered.
    pub is_filtered: bool,
    /// Where it may write, apart from what the runtime mounts for every container.
    pub writable: BTreeSet<String>,
}

// === impl Confined ===

impl Confined {
    /// The agent that runs as a pod of that node.
    ///
    /// # Errors
    /// When there is none.
    pub fn of_agent(node: &RealNode) -> Result<Self> {
        let folder = process(&node.cgroup())?;
        let status = fs::read_to_string(folder.join("status")).context("reading its status")?;
        let value = |name: &str, position: usize| -> Result<&str> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().nth(position));
            word.with_context(|| format!("reading {name}"))
        };
        let mounts = fs::read_to_string(folder.join("mountinfo")).context("reading its mounts")?;
        Ok(Self {
            uid: value("Uid:", 1)?.parse()?,
            capabilities: u64::from_str_radix(value("CapEff:", 0)?, 16)?,
            may_gain_privileges: value("NoNewPrivs:", 0)? == "0",
            is_filtered: value("Seccomp:", 0)? == "2",
            writable: mounts.lines().filter_map(writable).collect(),
        })
    }
}

fn process(cgroup: &str) -> Result<PathBuf> {
    let of_agent = |folder: &Path| {
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        read("cmdline").starts_with(PROGRAM) && read("cgroup").contains(cgroup)
    };
    let entries = fs::read_dir("/proc").context("listing processes")?;
    let mut folders = entries.flatten().map(|entry| entry.path());
    let found = folders.find(|folder| of_agent(folder));
    found.with_context(|| format!("finding {PROGRAM} in {cgroup}"))
}

/// The place of a mount that may be written: the fifth word of its line, the sixth its options.
fn writable(line: &str) -> Option<String> {
    let mut words = line.split(' ').skip(4);
    let (place, options) = (words.next()?, words.next()?);
    let is_runtimes = RUNTIMES.iter().any(|prefix| place.starts_with(prefix));
    let is_writable = options.split(',').any(|option| option == "rw");
    (is_writable && !is_runtimes).then(|| place.to_owned())
}
