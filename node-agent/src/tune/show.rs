//! A plan on standard output.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use berth_topology::names;
use serde::Serialize;

use super::args::Output;
use super::plan::{Change, Plan};

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    #[serde(flatten)]
    plan: &'a Plan,
}

/// Prints it.
///
/// # Errors
/// When standard output cannot be written.
pub fn print(plan: &Plan, output: Output) -> anyhow::Result<()> {
    let text = match output {
        Output::Text => table(plan),
        Output::Json => {
            let document = Document {
                schema: names::SCHEMA,
                plan,
            };
            serde_json::to_string_pretty(&document)? + "\n"
        }
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn table(plan: &Plan) -> String {
    let mut text = String::new();
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let _ = writeln!(text, "{title}:");
        }
        for line in lines {
            let _ = writeln!(text, "  {}", clean(&line));
        }
    };
    let change = |change: &Change| {
        let Change {
            target,
            from,
            to,
            why,
        } = change;
        format!("{target}: {from} -> {to} ({why})")
    };
    section("to change", plan.changes.iter().map(change).collect());
    section("cannot be changed", plan.impossible.clone());
    section("to look at", plan.findings.clone());
    if text.is_empty() {
        "nothing to change\n".to_owned()
    } else {
        text
    }
}

/// What the kernel's files hold is not ours.
fn clean(line: &str) -> String {
    let visible = |c: char| if c.is_control() { '?' } else { c };
    line.chars().take(1_000).map(visible).collect()
}
