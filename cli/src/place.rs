//! `berth place`: what the extender would decide for one container, on any machine.

use std::io::Write;

use anyhow::bail;
use berth_placement::{
    Free, GpuSet, Inexact, Machine, Placement, Refusal, place_alone, place_cpus,
};
use berth_topology::assignment::Rank;
use berth_topology::ids::{GpuUuid, NumaId};
use berth_topology::link::LinkClass;
use berth_topology::names;
use berth_topology::node::Status;
use serde::Serialize;

use crate::args::PlaceArgs;
use crate::paint::Paint;
use crate::show::count;
use crate::source::{Seen, find};
use crate::{Outcome, Usage, say};

/// Yes, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fit<'a> {
    schema: &'static str,
    feasible: bool,
    machine: &'a str,
    ranks: &'a [Rank],
    #[serde(skip_serializing_if = "Option::is_none")]
    weakest_link: Option<LinkClass>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gb_per_second: Option<f64>,
    numa_nodes: &'a [NumaId],
    score: u8,
    exact: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    inexact: Option<&'static str>,
}

/// No, as JSON.
#[derive(Serialize)]
struct NoFit {
    schema: &'static str,
    feasible: bool,
    reason: Reason,
}

#[derive(Serialize)]
struct Reason {
    #[serde(rename = "type")]
    kind: &'static str,
    resolvable: bool,
    message: String,
}

pub(crate) fn place(args: &PlaceArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let seen = find(&args.machine, &args.agent)?;
    let machine = Machine::new(&seen.status);
    let free = machine
        .usable()
        .difference(taken(&seen, &machine, &args.taken)?);
    let answer = match (args.gpus, args.tensor_parallel_size) {
        (0, Some(ranks)) => place_cpus(&machine, ranks).map(|placement| (placement, None)),
        (0, None) => bail!(Usage(
            "--gpus 0 needs --tensor-parallel-size: how many CPU ranks?".to_owned()
        )),
        _ => {
            let free = Free {
                gpus: free,
                cpus: None,
                doubt: machine.plugin_doubt(names::DEFAULT_RESOURCE),
            };
            place_alone(&machine, free, &args.claim())
        }
    };
    match (answer, args.json) {
        (Ok((placement, inexact)), true) => write_json(&seen, &placement, inexact, out)?,
        (Ok((placement, _)), false) => {
            writeln!(
                out,
                "{}",
                Paint::for_stdout().green(&title(&seen, &placement))
            )?;
            write!(out, "{}", explain(&placement, Paint::for_stdout()))?;
        }
        (Err(refusal), is_json) => return refuse(&refusal, is_json, out),
    }
    Ok(Outcome::Done)
}

/// Rank by rank, then why.
pub(crate) fn explain(placement: &Placement, paint: Paint) -> String {
    let header = format!(
        "{:>4}  {:>3}  {:>4}  {:<20}  {}",
        "RANK", "GPU", "NUMA", "CPUS", "UUID"
    );
    let mut text = paint.bold(header.trim_end()) + "\n";
    for rank in &placement.ranks {
        text.push_str(&row(rank));
    }
    for reason in reasons(placement) {
        text.push_str(&format!("{reason}\n"));
    }
    text
}

/// Says no, as asked.
pub(crate) fn refuse(
    refusal: &Refusal,
    is_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    if is_json {
        let reason = Reason {
            kind: refusal.kind(),
            resolvable: refusal.is_resolvable(),
            message: refusal.to_string(),
        };
        let answer = NoFit {
            schema: names::SCHEMA,
            feasible: false,
            reason,
        };
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
    }
    let hint = if refusal.is_resolvable() {
        " (others leaving could help)"
    } else {
        ""
    };
    say(&format!("refused: {}: {refusal}{hint}", refusal.kind()));
    Ok(Outcome::Refused)
}

fn write_json(
    seen: &Seen,
    placement: &Placement,
    inexact: Option<Inexact>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let fit = Fit {
        schema: names::SCHEMA,
        feasible: true,
        machine: &seen.name,
        ranks: &placement.ranks,
        weakest_link: placement.weakest_link,
        gb_per_second: placement.gb_per_second,
        numa_nodes: &placement.numa_nodes,
        score: placement.score,
        exact: inexact.is_none() && !placement.gpus.is_empty(),
        inexact: inexact.map(Inexact::kind),
    };
    writeln!(out, "{}", serde_json::to_string(&fit)?)?;
    Ok(())
}

/// Indices and UUIDs; one that the machine does not have is a mistake.
fn taken(seen: &Seen, machine: &Machine, wanted: &[String]) -> anyhow::Result<GpuSet> {
    let mut taken = GpuSet::EMPTY;
    for text in wanted
        .iter()
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
    {
        let Some(position) = uuid(&seen.status, text).and_then(|uuid| machine.position(&uuid))
        else {
            bail!(Usage(format!("--taken: {} has no GPU {text:?}", seen.name)));
        };
        taken = taken.with(position);
    }
    Ok(taken)
}

fn uuid(status: &Status, text: &str) -> Option<GpuUuid> {
    let index: Option<u32> = text.parse().ok();
    let mut gpus = status.gpus.iter();
    gpus.find(|gpu| gpu.uuid.as_str() == text || Some(gpu.index.0) == index)
        .map(|gpu| gpu.uuid.clone())
}

fn title(seen: &Seen, placement: &Placement) -> String {
    let ranks = placement.ranks.len();
    match placement.gpus.is_empty() {
        true => format!("{}: {}", seen.name, count(ranks, "CPU rank")),
        false => format!(
            "{}: {} of {}",
            seen.name,
            count(ranks, "GPU"),
            seen.status.gpus.len()
        ),
    }
}

fn row(rank: &Rank) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let gpu = or_dash(rank.index.map(|index| index.to_string()));
    let numa = or_dash(rank.numa_node.map(|node| node.to_string()));
    let cpus = or_dash(rank.cpus.as_ref().map(ToString::to_string));
    let uuid = rank.gpu.as_ref().map_or("", |uuid| uuid.as_str());
    let line = format!("{:>4}  {gpu:>3}  {numa:>4}  {cpus:<20}  {uuid}", rank.rank);
    line.trim_end().to_owned() + "\n"
}

fn reasons(placement: &Placement) -> Vec<String> {
    let link = placement
        .weakest_link
        .map(|weakest| match placement.gb_per_second {
            Some(gb) => format!("NVLink joins them at {gb:.1} GB/s; weakest pair: {weakest}"),
            None => format!("NVLink does not join them; weakest pair: {weakest}"),
        });
    let nodes: Vec<String> = placement
        .numa_nodes
        .iter()
        .map(ToString::to_string)
        .collect();
    let numa = match nodes.len() {
        0 => "NUMA nodes unknown".to_owned(),
        1 => format!("NUMA node {}", nodes[0]),
        _ => format!("NUMA nodes {}", nodes.join(", ")),
    };
    let best = if placement.score == 10 {
        ": as good as this machine has"
    } else {
        ""
    };
    let score =
        (!placement.gpus.is_empty()).then(|| format!("score {} of 10{best}", placement.score));
    link.into_iter().chain([numa]).chain(score).collect()
}
