//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Runs a command on the CPUs, memory and GPUs that its container was given, in rank order.
#[derive(Debug, Parser)]
#[command(
    name = "berth-run",
    version,
    after_help = "\
What was given is read from BERTH_ALLOCATION (set by Berth's device plugin, the truth), else from
the pod's annotation berth.dev/assignment as a file (the intent). Where a file names several
containers, BERTH_CONTAINER says which this is; BERTH_POD_UID and BERTH_NODE keep a stale file away.

What is set (what the environment has already is kept, and a line on stderr says so):
  affinity               the CPUs of the ranks, within those that the container may use
  memory policy          prefers the ranks' NUMA nodes; never a strict binding, which would end in
                         an out-of-memory kill while another node has room
  CUDA_DEVICE_ORDER      PCI_BUS_ID
  CUDA_VISIBLE_DEVICES   the GPUs' indices in this container, in rank order; UUIDs for MIG instances
  VLLM_CPU_OMP_THREADS_BIND
                         CPU ranks, without --per-rank: the CPUs of each rank
  OMP_NUM_THREADS        where a process is one rank: its cores
  OMP_PLACES, OMP_PROC_BIND
                         CPU ranks with --per-rank: a thread on each core
  RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT
                         with --per-rank, as torchrun does; all GPUs stay visible, and LOCAL_RANK is
                         the rank's own (MIG: each process sees its own instance only)
No NCCL variable is set: NCCL reads the wiring itself and keeps to the affinity set here; what
would be left to say (interfaces, levels) is not known for certain from an assignment.

Examples:
  berth-run -- vllm serve /models/llama --tensor-parallel-size 4
  berth-run --per-rank -- python3 train.py
  berth-run --dry-run -o json -- true
  berth-run --install /berth        # in an init container: copies itself to /berth/berth-run

Exit codes: the command's own; with --per-rank that of the first rank that failed (128 + N for
signal N); 125 berth-run's own error, 126 the command cannot be run, 127 there is no such command,
2 wrong usage."
)]
pub struct Args {
    /// One process for each rank, with torchrun's variables; signals reach all of them, and the
    /// first that fails ends the others.
    #[arg(long)]
    pub per_rank: bool,
    /// The assignment as a file [default: /etc/berth/assignment, if it is there].
    #[arg(long, value_name = "FILE")]
    pub assignment: Option<PathBuf>,
    /// Fail where nothing was assigned, or not what is here, instead of running the command
    /// unchanged.
    #[arg(long)]
    pub require: bool,
    /// Replace variables that are set already.
    #[arg(long = "override")]
    pub replace: bool,
    /// Print what would be done, and run nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// How --dry-run prints.
    #[arg(short, long, value_name = "FORMAT", requires = "dry_run")]
    pub output: Option<Output>,
    /// With --per-rank: seconds that the others have after the first failure, before they are
    /// killed.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub grace_seconds: u64,
    /// With --per-rank: MASTER_PORT, on 127.0.0.1.
    #[arg(long, value_name = "PORT", default_value_t = 29_500)]
    pub master_port: u16,
    /// Copy this program into a folder, and run nothing.
    #[arg(long, value_name = "DIR", exclusive = true)]
    pub install: Option<PathBuf>,
    /// Where /proc/driver/nvidia and /dev are looked up. For tests.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub device_root: PathBuf,
    /// The command and its arguments.
    #[arg(
        last = true,
        required_unless_present = "install",
        value_name = "COMMAND"
    )]
    pub command: Vec<OsString>,
}

/// How a plan is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

// === impl Args ===

impl Args {
    /// [`Args::grace_seconds`].
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_command_comes_after_two_dashes_and_keeps_its_own_flags() {
        let args = Args::try_parse_from(["berth-run", "--per-rank", "--", "x", "--per-rank"]);
        assert_eq!(args.unwrap().command, ["x", "--per-rank"]);
        assert!(Args::try_parse_from(["berth-run", "x"]).is_err());
        assert!(Args::try_parse_from(["berth-run"]).is_err());
        assert!(Args::try_parse_from(["berth-run", "--install", "/b"]).is_ok());
    }
}
