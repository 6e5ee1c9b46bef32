//! One process for each rank: started pinned, signals passed on, ended together.
//!
//! ```text
//! all run ──▶ one fails ──▶ SIGTERM to the others ──▶ grace ──▶ SIGKILL to their groups
//!    └──────▶ all end with 0
//! ```
//!
//! Orphans that a container's first process inherits are reaped too.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait};

use crate::kernel::{self, Signals};
use crate::plan::Process;
use crate::{container, exec, report};
use berth_topology::cpus::CpuList;

/// What a shell adds to a signal's number.
const SIGNALLED: i32 = 128;
/// How long nothing is looked at when nothing happens.
const QUIET: Duration = Duration::from_secs(60);

/// All ranks.
struct Team {
    members: Vec<Member>,
    /// The first that failed: its exit code, and when the others are killed.
    failure: Option<(u8, Instant)>,
    grace: Duration,
}

/// One rank's process, which leads a group of its own.
struct Member {
    rank: usize,
    pid: Pid,
    is_running: bool,
}

/// Runs the command once for each process, and returns the exit code: 0, or that of the first that
/// failed.
///
/// # Errors
/// When signals cannot be held back.
pub fn run(processes: &[Process], command: &[OsString], grace: Duration) -> io::Result<u8> {
    let own = container::machine().allowed;
    let signals = Signals::hold()?;
    let mut team = Team {
        members: Vec::with_capacity(processes.len()),
        failure: None,
        grace,
    };
    for process in processes {
        if let Err(code) = team.start(process, command) {
            team.fail(code);
            break;
        }
    }
    // Whoever launches needs neither one rank's CPUs nor its memory.
    let _ = kernel::pin(&own);
    let _ = kernel::prefer_memory_of(&CpuList::default());
    team.watch(&signals);
    Ok(team.failure.map_or(0, |(code, _)| code))
}

// === impl Team ===

impl Team {
    /// Affinity and policy are this thread's until the next rank: a child inherits both.
    fn start(&mut self, process: &Process, command: &[OsString]) -> Result<(), u8> {
        exec::pin(process);
        let mut prepared = exec::prepared(process, command);
        // Ranks that read the terminal would race for it.
        prepared.stdin(Stdio::null());
        kernel::lead_and_die_with_us(&mut prepared);
        let child = prepared
            .spawn()
            .map_err(|error| exec::refused(command, &error))?;
        self.members.push(Member {
            rank: process.rank.unwrap_or_default(),
            pid: Pid::from_child(&child),
            is_running: true,
        });
        Ok(())
    }

    fn watch(&mut self, signals: &Signals) {
        loop {
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                let code = status.exit_status();
                let signal = status.terminating_signal();
                self.ended(pid, code, signal);
            }
            if !self.members.iter().any(|member| member.is_running) {
                break;
            }
            let now = Instant::now();
            if self.failure.is_some_and(|(_, deadline)| now >= deadline) {
                self.kill();
            }
            if let Some(signal) = signals.wait(self.patience(now)).and_then(signal_of) {
                self.tell(signal);
            }
        }
        // What a failed rank started and left behind.
        if self.failure.is_some() {
            self.kill();
        }
    }

    fn patience(&self, now: Instant) -> Duration {
        let until = |(_, deadline): (u8, Instant)| deadline.saturating_duration_since(now);
        // Past the deadline everything was killed: what is left to wait for is SIGCHLD.
        let left = self.failure.map(until).filter(|left| !left.is_zero());
        left.unwrap_or(QUIET)
    }

    fn ended(&mut self, pid: Pid, code: Option<i32>, signal: Option<i32>) {
        let Some(member) = self.members.iter_mut().find(|member| member.pid == pid) else {
            return;
        };
        member.is_running = false;
        let status = code
            .or(signal.map(|signal| SIGNALLED + signal))
            .unwrap_or(1);
        if status == 0 || self.failure.is_some() {
            return;
        }
        let how = signal.map_or(format!("exit code {status}"), |signal| {
            format!("signal {signal}")
        });
        let rank = member.rank;
        let others = self
            .members
            .iter()
            .filter(|member| member.is_running)
            .count();
        let grace_s = self.grace.as_secs();
        report::say(&format!(
            "rank {rank} ended with {how}; {others} others have {grace_s} s to end"
        ));
        self.fail(u8::try_from(status).unwrap_or(1));
    }

    fn fail(&mut self, code: u8) {
        self.failure = Some((code, Instant::now() + self.grace));
        self.tell(Signal::TERM);
    }

    /// To the ranks themselves, who know whom else to tell: an engine that drains must not find
    /// its workers gone.
    fn tell(&self, signal: Signal) {
        for member in self.members.iter().filter(|member| member.is_running) {
            let _ = kill_process(member.pid, signal);
        }
    }

    /// The ranks and all that they started.
    fn kill(&self) {
        for member in &self.members {
            let _ = kill_process_group(member.pid, Signal::KILL);
        }
    }
}

fn signal_of(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number)
}
