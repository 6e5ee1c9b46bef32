//! What is said: notes on stderr, a plan on stdout.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde::Serialize;

use crate::plan::{Outcome, Plan, Process};
use berth_topology::names;

/// Longer lines are cut: names and values come from outside.
const LINE_CHARS_MAX: usize = 1_000;

/// A plan as JSON.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    #[serde(flatten)]
    plan: &'a Plan,
}

/// One line on stderr. Stdout is the command's.
pub fn say(line: &str) {
    // Who closed stderr does not want to know.
    let _ = writeln!(io::stderr(), "berth-run: {}", clean(line));
}

/// What a run does, in a few lines on stderr.
pub fn tell(plan: &Plan) {
    for note in &plan.notes {
        say(note);
    }
    if let Some(origin) = &plan.origin {
        say(&format!("{} from {origin}", summary(plan)));
    }
}

/// The whole plan on stdout.
///
/// # Errors
/// When stdout cannot be written.
pub fn show(plan: &Plan, as_json: bool) -> anyhow::Result<()> {
    let text = if as_json {
        let document = Document {
            schema: names::SCHEMA,
            plan,
        };
        serde_json::to_string_pretty(&document)? + "\n"
    } else {
        table(plan)
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn summary(plan: &Plan) -> String {
    let rank = |rank: &crate::plan::RankPlan| {
        let gpu = match (&rank.gpu, rank.gpu_index) {
            (_, Some(index)) => format!(" GPU {index}"),
            (Some(uuid), None) => format!(" {uuid}"),
            (None, None) => String::new(),
        };
        let node = rank.numa_node.map(|node| format!(" NUMA {node}"));
        format!(
            "{}:{gpu} CPUs {}{}",
            rank.rank,
            rank.cpus,
            node.unwrap_or_default()
        )
    };
    let ranks: Vec<String> = plan.ranks.iter().map(rank).collect();
    format!("ranks {}", ranks.join("; "))
}

fn table(plan: &Plan) -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        let _ = writeln!(text, "{}", clean(line));
    };
    match &plan.origin {
        Some(origin) => line(&format!("{} from {origin}", summary(plan))),
        None => line("nothing is changed"),
    }
    for process in &plan.processes {
        process_lines(process, plan.origin.is_some(), &mut line);
    }
    for note in &plan.notes {
        line(&format!("note: {note}"));
    }
    text
}

fn process_lines(process: &Process, is_assigned: bool, line: &mut impl FnMut(&str)) {
    if !is_assigned {
        return;
    }
    match process.rank {
        Some(rank) => line(&format!("process of rank {rank}")),
        None => line("one process"),
    }
    line(&format!("  CPUs {}", process.cpus));
    if process.memory_nodes.is_empty() {
        line("  memory as the kernel does by default");
    } else {
        line(&format!(
            "  memory of NUMA nodes {} first",
            process.memory_nodes
        ));
    }
    for variable in &process.variables {
        let outcome = match &variable.outcome {
            Outcome::Set => "",
            Outcome::Same => " (is so)",
            Outcome::Kept(_) => " (no: the environment's own is kept)",
            Outcome::Replaced(_) => " (replaces the environment's own)",
        };
        line(&format!("  {}={}{outcome}", variable.name, variable.value));
    }
}

/// Without control characters, and bounded.
fn clean(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '?' } else { c };
    text.chars().take(LINE_CHARS_MAX).map(visible).collect()
}
