//! `berth simulate`: a script of machines, pods and failures, played through the extender's decisions.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use berth_extender_core::script::{self, Event, Given, NodeRow, Player};
use berth_topology::names;
use berth_topology::node::NodeTopology;

use crate::args::cluster::SimulateArgs;
use crate::explain::text as told;
use crate::paint::Paint;
use crate::source::recorded;
use crate::table::{list, table};
use crate::{Outcome, Usage, extender, say};

/// Ten thousand long lines.
const SCRIPT_BYTES_MAX: u64 = 1 << 20;

pub(crate) fn simulate(args: &SimulateArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let text = extender::text(&args.file, SCRIPT_BYTES_MAX)?;
    let mistake =
        |error: &dyn std::fmt::Display| Usage(format!("{}: {error}", args.file.display()));
    let statements = script::parse(&text).map_err(|error| mistake(&error))?;
    let machines = machines()?;
    let find = |name: &str| find(&machines, name);
    let mut player = Player::new(names::DEFAULT_RESOURCE, &find, Instant::now());
    let mut unexpected = 0;
    for statement in &statements {
        let events = player.play(statement).map_err(|error| mistake(&error))?;
        if !args.json && !events.is_empty() {
            writeln!(
                out,
                "{}",
                Paint::for_stdout().bold(&format!("> {}", statement.text))
            )?;
        }
        for event in &events {
            if let Event::Unexpected { line, sentence } = event {
                unexpected += 1;
                say(&format!("{}: line {line}: {sentence}", args.file.display()));
            }
            if args.json {
                writeln!(out, "{}", serde_json::to_string(event)?)?;
            }
        }
        if !args.json {
            write!(out, "{}", shown(&events))?;
        }
    }
    Ok(if unexpected == 0 {
        Outcome::Done
    } else {
        Outcome::Refused
    })
}

fn machines() -> anyhow::Result<BTreeMap<String, NodeTopology>> {
    let seen = recorded()?.into_iter();
    Ok(seen.map(|seen| (seen.name, seen.topology)).collect())
}

fn find(machines: &BTreeMap<String, NodeTopology>, name: &str) -> Result<NodeTopology, String> {
    machines.get(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = machines.keys().map(String::as_str).collect();
        format!(
            "{name:?} is no recorded machine; recorded: {}",
            known.join(", ")
        )
    })
}

fn shown(events: &[Event]) -> String {
    let paint = Paint::for_stdout();
    let tried: Vec<Vec<String>> = events.iter().flat_map(tries).collect();
    let mut text = String::new();
    if !tried.is_empty() {
        let header = ["POD", "NODE", "SCORE", "GPUS", "NUMA", "LINK", "WHY NOT"];
        text.push_str(&table(&header, &tried, paint));
    }
    for event in events {
        match event {
            Event::Nodes { nodes } => text.push_str(&nodes_table(nodes, paint)),
            Event::Explained(explanation) => text.push_str(&told(explanation, paint)),
            Event::Bound(_) | Event::Refused { .. } | Event::Unexpected { .. } => {}
        }
    }
    text
}

/// A pod's try as rows: one where it was bound, else one for each reason.
fn tries(event: &Event) -> Vec<Vec<String>> {
    match event {
        Event::Bound(given) => vec![bound_row(given)],
        Event::Refused { pod, reasons } => {
            let row = |(kind, refusals): (&String, &script::Refusals)| {
                let mut row = vec![pod.clone()];
                row.extend(["-"; 5].map(str::to_owned));
                row.push(format!("{kind} on {}", refusals.nodes.join(", ")));
                row
            };
            reasons.iter().map(row).collect()
        }
        Event::Nodes { .. } | Event::Explained(_) | Event::Unexpected { .. } => Vec::new(),
    }
}

fn bound_row(given: &Given) -> Vec<String> {
    let link = match (&given.weakest_link, given.gb_per_second) {
        (Some(link), Some(gb)) => format!("{link} {gb:.1} GB/s"),
        (Some(link), None) => link.clone(),
        (None, _) => "-".to_owned(),
    };
    vec![
        given.pod.clone(),
        given.node.clone(),
        given
            .score
            .map_or("-".to_owned(), |score| score.to_string()),
        list(&given.gpus),
        list(&given.numa),
        link,
    ]
}

fn nodes_table(nodes: &[NodeRow], paint: Paint) -> String {
    let row = |node: &NodeRow| {
        let note = match (node.is_stale, node.unknown_count) {
            (true, _) => "silent".to_owned(),
            (false, 0) => String::new(),
            (false, count) => format!("{count} held, nobody knows which"),
        };
        vec![node.node.clone(), node.gpus.join(" "), note]
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    table(&["NODE", "GPUS BY INDEX", ""], &rows, paint)
}
