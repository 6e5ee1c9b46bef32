//! What a figure means nothing without: the machine, its load, the commit, the profile.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

/// Machine and build.
pub(crate) fn facts() -> Value {
    json!({
        "command": std::env::args().skip(1).filter(|arg| arg != "--bench").collect::<Vec<_>>().join(" "),
        "cpu": cpu(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "commit": git(&["rev-parse", "--short=12", "HEAD"]),
        "is_changed": git(&["status", "--porcelain"]).is_none_or(|changes| !changes.is_empty()),
        "profile": if cfg!(debug_assertions) { "dev (ours at opt-level 2 with checks, dependencies at 3)" } else { "release" },
    })
}

/// The three load averages.
pub(crate) fn load() -> Value {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let numbers: Vec<f64> = text
        .split_whitespace()
        .take(3)
        .filter_map(|number| number.parse().ok())
        .collect();
    json!(numbers)
}

/// Clock ticks that the hypervisor has taken from this machine.
pub(crate) fn stolen_ticks() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let steal = text
        .lines()
        .next()
        .and_then(|cpu| cpu.split_whitespace().nth(8));
    steal.and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(": ")?.1.to_owned())
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
