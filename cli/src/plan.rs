//! `berth plan repack`: which pods would have to move for a pending pod to fit.

use std::io::Write;

use anyhow::{Context, bail};
use berth_extender_core::decide::Ask;
use berth_extender_core::record::archive::Opened;
use berth_extender_core::repack::{Move, NoWay, Plan, repack};
use berth_topology::names;
use serde::Serialize;

use crate::args::cluster::RepackArgs;
use crate::explain::of_pod;
use crate::paint::Paint;
use crate::show::count;
use crate::table::{list, table};
use crate::{Outcome, extender, say};

/// As JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    schema: &'static str,
    pod: String,
    feasible: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a Plan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

pub(crate) fn plan_repack(args: &RepackArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let opened = extender::snapshot(&args.source)?;
    let ask = ask(args, &opened)?;
    let planned = repack(&opened.snapshot, &opened.claims, &ask);
    if args.json {
        let answer = Answer {
            schema: names::SCHEMA,
            pod: args.pod.to_string(),
            feasible: planned.is_ok(),
            plan: planned.as_ref().ok(),
            message: planned.as_ref().err().map(NoWay::to_string),
        };
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
    }
    match planned {
        Ok(plan) if !args.json => write!(out, "{}", text(args, &plan))?,
        Ok(_) => {}
        Err(no) => {
            say(&format!("no way for {}: {no}", args.pod));
            return Ok(Outcome::Refused);
        }
    }
    Ok(Outcome::Done)
}

/// What the pod asked when kube-scheduler last asked about it.
fn ask(args: &RepackArgs, opened: &Opened) -> anyhow::Result<Ask> {
    let records = of_pod(&opened.records, &args.pod);
    let Some(record) = records.last() else {
        bail!(
            "no decision about {} is remembered: kube-scheduler has not asked about it yet",
            args.pod
        );
    };
    let pod = record.asked.read();
    let pod = pod.with_context(|| format!("reading what {} asks", args.pod))?;
    Ok(Ask::of_pod(&pod, &opened.replica.resource))
}

fn text(args: &RepackArgs, plan: &Plan) -> String {
    let fits = format!("{} fits {}, GPUs {}", args.pod, plan.node, list(&plan.gpus));
    let waits = match plan.waits_for.join(", ") {
        none if none.is_empty() => none,
        ending => format!("{ending} {} ended", has(plan.waits_for.len())),
    };
    if plan.moves.is_empty() {
        return match waits.is_empty() {
            true => format!("{fits}, as it is: nobody has to move\n"),
            false => format!("{fits}, once {waits}: waiting is enough\n"),
        };
    }
    let row = |one: &Move| {
        vec![
            one.pod.clone(),
            one.from.clone(),
            list(&one.from_gpus),
            one.to.clone(),
            list(&one.to_gpus),
            one.score.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = plan.moves.iter().map(row).collect();
    let header = ["MOVE", "FROM", "GPUS", "TO", "GPUS", "SCORE"];
    let limited = if plan.is_limited {
        "the search was cut short: there may be a better plan\n"
    } else {
        ""
    };
    let waits = match waits.is_empty() {
        true => waits,
        false => format!(", and {waits}"),
    };
    format!(
        "{}{fits}, once {} with {} {} moved{waits}\n{limited}",
        table(&header, &rows, Paint::for_stdout()),
        count(plan.moves.len(), "pod"),
        count(plan.moved_gpu_count, "GPU"),
        has(plan.moves.len()),
    )
}

fn has(count: usize) -> &'static str {
    if count == 1 { "has" } else { "have" }
}
