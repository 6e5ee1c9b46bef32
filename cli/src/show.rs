//! `berth machine show`, and how a machine is shown before it is used.

use std::io::Write;

use berth_topology::matrix;
use berth_topology::node::Status;

use crate::args::ShowArgs;
use crate::source::find;
use crate::{Outcome, say};

const GIB: u64 = 1 << 30;

pub(crate) fn show(args: &ShowArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let seen = find(&args.machine, &args.agent)?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&seen.topology)?)?;
        return Ok(Outcome::Done);
    }
    if seen.status.gpus.is_empty() {
        writeln!(out, "{}", summary(&seen.status))?;
    } else {
        write!(out, "{}", matrix::draw(&seen.status))?;
    }
    say_unknowns(&seen.status);
    Ok(Outcome::Done)
}

/// How many of what, and the NUMA nodes one by one.
pub(crate) fn summary(status: &Status) -> String {
    let cpu_count: usize = status.numa.iter().map(|node| node.cpus.len()).sum();
    let with_cpus = status
        .numa
        .iter()
        .filter(|node| !node.cpus.is_empty())
        .count();
    let mut text = format!(
        "{}, {}, {}",
        count(status.gpus.len(), "GPU"),
        count(with_cpus, "NUMA node"),
        count(cpu_count, "CPU")
    );
    for node in status.numa.iter().filter(|node| !node.cpus.is_empty()) {
        let memory = node
            .memory_bytes
            .map_or(String::new(), |bytes| format!(", {} GiB", bytes / GIB));
        text.push_str(&format!(
            "\n  NUMA node {}: CPUs {}{memory}",
            node.id, node.cpus
        ));
    }
    text
}

/// What could not be read, and why.
pub(crate) fn say_unknowns(status: &Status) {
    for unknown in &status.unknowns {
        say(&format!("unknown: {}: {}", unknown.what, unknown.why));
    }
}

pub(crate) fn count(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}
