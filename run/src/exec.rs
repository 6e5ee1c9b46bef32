//! Becoming the command, or starting it: pins first, so that every page and thread is in place.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::plan::{Process, Variable};
use crate::{kernel, report};

/// Exit code for what is wrong with this program's own work, as `env` and `timeout` have it.
pub const OWN_ERROR: u8 = 125;
/// Exit code for a command that is there and cannot be run.
const CANNOT_RUN: u8 = 126;
/// Exit code for a command that is not there.
const NO_SUCH_COMMAND: u8 = 127;

/// Becomes the command; returns the exit code where that fails.
#[must_use]
pub fn exec(process: &Process, command: &[OsString]) -> u8 {
    pin(process);
    let error = prepared(process, command).exec();
    refused(command, &error)
}

/// The command with its variables.
pub(crate) fn prepared(process: &Process, command: &[OsString]) -> Command {
    let mut prepared = Command::new(&command[0]);
    let set = process.variables.iter();
    let set = set.filter(|variable| variable.is_set_by_us());
    prepared
        .args(&command[1..])
        .envs(set.map(|Variable { name, value, .. }| (name, value)));
    prepared
}

/// Affinity and memory policy of this thread. A kernel that refuses does not stop the command: the
/// engine is slower then, not wrong.
pub(crate) fn pin(process: &Process) {
    let rank = process
        .rank
        .map(|rank| format!("rank {rank}: "))
        .unwrap_or_default();
    let cpus = &process.cpus;
    if !cpus.is_empty()
        && let Err(error) = kernel::pin(cpus)
    {
        report::say(&format!("{rank}CPUs {cpus} are not set: {error}"));
    }
    let nodes = &process.memory_nodes;
    if !nodes.is_empty()
        && let Err(error) = kernel::prefer_memory_of(nodes)
    {
        report::say(&format!(
            "{rank}memory of NUMA nodes {nodes} is not preferred: {error}{}",
            memory_hint(&error)
        ));
    }
}

fn memory_hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        " (the container runtime's default seccomp profile forbids set_mempolicy without \
         CAP_SYS_NICE; pages still come from the node of the CPUs that touch them first)"
    } else {
        ""
    }
}

/// Says why a command does not run; the exit code is a shell's.
pub(crate) fn refused(command: &[OsString], error: &io::Error) -> u8 {
    let name = command[0].to_string_lossy();
    report::say(&format!("cannot run {name:?}: {error}"));
    if error.kind() == io::ErrorKind::NotFound {
        NO_SUCH_COMMAND
    } else {
        CANNOT_RUN
    }
}
