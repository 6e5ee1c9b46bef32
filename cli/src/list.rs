//! `berth machine list`.

use std::collections::BTreeSet;
use std::io::Write;

use berth_topology::link::LinkClass;
use berth_topology::names;
use serde::Serialize;

use crate::Outcome;
use crate::args::ListArgs;
use crate::paint::Paint;
use crate::source::{Seen, recorded};

/// The whole answer as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    schema: &'static str,
    machines: Vec<Line>,
}

/// One machine in short.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    name: String,
    gpu_count: usize,
    gpu_model: String,
    /// Every class of link that two of its GPUs have, best first.
    links: Vec<LinkClass>,
    numa_node_count: usize,
    source: String,
}

pub(crate) fn list(args: &ListArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let machines: Vec<Line> = recorded()?.iter().map(Line::of).collect();
    if args.json {
        let list = List {
            schema: names::SCHEMA,
            machines,
        };
        writeln!(out, "{}", serde_json::to_string(&list)?)?;
        return Ok(Outcome::Done);
    }
    let header = format!(
        "{:<14} {:>4} {:>5}  {:<22} {}",
        "NAME", "GPUS", "NUMA", "LINKS", "MODEL"
    );
    writeln!(out, "{}", Paint::for_stdout().bold(&header))?;
    for line in machines {
        let links: Vec<&str> = line.links.iter().map(|link| link.as_str()).collect();
        let (name, count, numa) = (line.name, line.gpu_count, line.numa_node_count);
        writeln!(
            out,
            "{name:<14} {count:>4} {numa:>5}  {:<22} {}",
            links.join(","),
            line.gpu_model
        )?;
    }
    Ok(Outcome::Done)
}

// === impl Line ===

impl Line {
    fn of(seen: &Seen) -> Self {
        let status = &seen.status;
        let classes: BTreeSet<LinkClass> = status.links.iter().map(|link| link.class()).collect();
        let annotations = seen.topology.metadata.annotations.as_ref();
        let source = annotations.and_then(|annotations| annotations.get(names::SOURCE));
        Self {
            name: seen.name.clone(),
            gpu_count: status.gpus.len(),
            gpu_model: status
                .gpus
                .first()
                .map(|gpu| gpu.model.clone())
                .unwrap_or_default(),
            links: classes.into_iter().rev().collect(),
            numa_node_count: status
                .numa
                .iter()
                .filter(|node| !node.cpus.is_empty())
                .count(),
            source: source.cloned().unwrap_or_default(),
        }
    }
}
