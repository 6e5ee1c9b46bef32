//! Where a machine comes from: recorded in this program, a file, or this very machine.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use berth_topology::node::{NodeTopology, Status};

use crate::args::AgentArgs;
use crate::{Usage, program};

/// Name and NodeTopology of every machine in `machines/`, by name.
static RECORDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/recorded.rs"));

/// A NodeTopology of 16 GPUs with as many NICs takes a tenth of it.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// One machine, as an agent saw it.
#[derive(Debug)]
pub(crate) struct Seen {
    /// What the user called it; the node's name for this machine.
    pub(crate) name: String,
    pub(crate) topology: NodeTopology,
    pub(crate) status: Status,
}

/// Every recorded machine.
pub(crate) fn recorded() -> anyhow::Result<Vec<Seen>> {
    let parse = |(name, text): &(&str, &str)| parse(name, text);
    RECORDED.iter().map(parse).collect()
}

/// Whether this program has a machine of that name.
pub(crate) fn is_recorded(wanted: &str) -> bool {
    RECORDED.iter().any(|(name, _)| *name == wanted)
}

/// Finds what `NAME|FILE|-` names.
pub(crate) fn find(wanted: &str, agent: &AgentArgs) -> anyhow::Result<Seen> {
    if wanted == "-" {
        return probe(agent);
    }
    if let Some((name, text)) = RECORDED.iter().find(|(name, _)| *name == wanted) {
        return parse(name, text);
    }
    if Path::new(wanted).exists() {
        return parse(wanted, &read(Path::new(wanted))?);
    }
    let names: Vec<&str> = RECORDED.iter().map(|(name, _)| *name).collect();
    let known = names.join(", ");
    bail!(Usage(format!(
        "{wanted:?} is neither a recorded machine nor a file; recorded: {known}"
    )))
}

fn probe(agent: &AgentArgs) -> anyhow::Result<Seen> {
    let program = program::find("berth-node-agent", agent.path.as_deref())?;
    let mut flags = ["--once", "--print", "json"].map(OsStr::new).to_vec();
    flags.extend(agent.flags());
    let text = program::output(&program, &flags)?;
    let mut seen = parse("this machine", &text).context("reading what the agent printed")?;
    if !seen.topology.name().is_empty() {
        seen.name = seen.topology.name().to_owned();
    }
    Ok(seen)
}

/// What a file or an agent says, as a NodeTopology.
pub(crate) fn parse(name: &str, text: &str) -> anyhow::Result<Seen> {
    let topology: NodeTopology = serde_json::from_str(text)
        .with_context(|| format!("reading the NodeTopology of {name}"))?;
    let Some(status) = topology.status.clone() else {
        bail!("{name} has no status: it is no NodeTopology, or its agent has not published yet");
    };
    Ok(Seen {
        name: name.to_owned(),
        topology,
        status,
    })
}

fn read(path: &Path) -> anyhow::Result<String> {
    let context = || format!("reading {}", path.display());
    let file = File::open(path).with_context(context)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .with_context(context)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        bail!(
            "{} is longer than {FILE_BYTES_MAX} bytes: no NodeTopology is",
            path.display()
        );
    }
    Ok(text)
}
