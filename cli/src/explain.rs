//! `berth explain pod`: what the extender decided about a pod, and why.

use std::io::Write;

use anyhow::{Context, bail};
use berth_extender_core::explain::{
    self as core, Evicted, Explanation, ForWiring, Preemption, Victim,
};
use berth_extender_core::record::Record;

use crate::args::cluster::{ExplainPodArgs, PodName};
use crate::explain::nodes::nodes;
use crate::paint::Paint;
use crate::show::count;
use crate::table::{list, table};
use crate::{Outcome, extender};

mod nodes;

pub(crate) fn explain(args: &ExplainPodArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let explanation = match &args.source.from {
        Some(path) => {
            let opened = extender::open(path)?;
            let records = of_pod(&opened.records, &args.pod);
            let node = args.why_not.as_deref();
            match core::explain(&records, &opened.replica.resource, node) {
                Some(explanation) => explanation,
                None => bail!("{} holds no decision about {}", path.display(), args.pod),
            }
        }
        None => ask(args)?,
    };
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&explanation)?)?;
    } else {
        write!(out, "{}", text(&explanation, Paint::for_stdout()))?;
    }
    Ok(Outcome::Done)
}

fn ask(args: &ExplainPodArgs) -> anyhow::Result<Explanation> {
    let PodName { namespace, name } = &args.pod;
    let query = match &args.why_not {
        Some(node) => format!("?why_not={}", encoded(node)),
        None => String::new(),
    };
    let path = format!("/explain/{namespace}/{name}{query}");
    let body = extender::get(&args.source.extender, &path)?;
    serde_json::from_str(&body).context("reading the extender's answer")
}

/// As a query carries it.
fn encoded(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// The records of the pod that bears the name now, or did last.
pub(crate) fn of_pod(records: &[Record], pod: &PodName) -> Vec<Record> {
    let is_of =
        |record: &&Record| record.asked.namespace == pod.namespace && record.asked.name == pod.name;
    let Some(last) = records.iter().rev().find(is_of) else {
        return Vec::new();
    };
    let uid = &last.asked.uid;
    let same = records.iter().filter(|record| record.asked.uid == *uid);
    same.cloned().collect()
}

pub(crate) fn text(all: &Explanation, paint: Paint) -> String {
    let refused: usize = all.refused.values().map(|one| one.count).sum();
    let mut text = format!(
        "{}/{}: {} fit, {refused} refused (asked {})\n",
        all.namespace,
        all.name,
        count(all.feasible.len(), "node"),
        all.filtered_at
    );
    if let Some(why_not) = &all.why_not {
        for sentence in &why_not.sentences {
            text.push_str(&format!("{sentence}\n"));
        }
        return text;
    }
    if !all.are_inputs_kept {
        let hash = &all.inputs_hash;
        text.push_str(&format!(
            "what it was decided from is no longer kept (hash {hash})\n"
        ));
    } else if !all.nodes.is_empty() {
        text.push_str(&nodes(all, paint));
    }
    for (kind, refused) in &all.refused {
        let hint = if refused.resolvable {
            "; others leaving could help"
        } else {
            ""
        };
        text.push_str(&format!(
            "refused on {}: {kind}: {}{hint}\n",
            count(refused.count, "node"),
            refused.message
        ));
        if !refused.nodes.is_empty() {
            text.push_str(&format!("  {}\n", named(&refused.nodes, refused.count)));
        }
    }
    if let Some(preemption) = &all.preemption {
        text.push_str(&preempted(preemption, paint));
    }
    if let Some(eviction) = &all.eviction {
        text.push_str(&evicted(eviction, paint));
    }
    text.push_str(&bound(all));
    text
}

/// Whom the extender evicted itself.
fn evicted(eviction: &ForWiring, paint: Paint) -> String {
    let (on, at) = (&eviction.on, &eviction.at);
    let victims = count(on.victims.len(), "pod");
    let mut text = match &eviction.error {
        None => format!("evicted {victims} because only the wiring was in the way (at {at})\n"),
        Some(error) => format!("evicting {victims} for its wiring ended at {at}: {error}\n"),
    };
    text.push_str(&victims_table(&victim_rows(on), paint));
    text
}

fn victims_table(rows: &[Vec<String>], paint: Paint) -> String {
    match rows.is_empty() {
        true => String::new(),
        false => table(&["NODE", "EVICTS", "PRIORITY", "GPUS"], rows, paint),
    }
}

/// Node, name, priority and GPUs of each victim.
fn victim_rows(on: &Evicted) -> Vec<Vec<String>> {
    let row = |victim: &Victim| {
        let priority = victim.priority.map(|priority| priority.to_string());
        vec![
            on.node.clone(),
            victim.name().to_owned(),
            priority.unwrap_or_else(|| "-".to_owned()),
            list(&victim.gpus),
        ]
    };
    on.victims.iter().map(row).collect()
}

/// Whom preempt would evict from each node, and which nodes it left out.
fn preempted(all: &Preemption, paint: Paint) -> String {
    let mut text = format!(
        "preempt: {} would fit without these pods (asked {})\n",
        count(all.nodes.len(), "node"),
        all.at
    );
    let rows: Vec<Vec<String>> = all.nodes.iter().flat_map(victim_rows).collect();
    text.push_str(&victims_table(&rows, paint));
    for on in all.nodes.iter().filter(|on| on.violation_count > 0) {
        let budgets = count(on.violation_count, "disruption budget");
        text.push_str(&format!("on {} that violates {budgets}\n", on.node));
    }
    for (kind, left_out) in &all.left_out {
        text.push_str(&format!(
            "left out {}: {kind}: {}\n  {}\n",
            count(left_out.count, "node"),
            left_out.message,
            named(&left_out.nodes, left_out.count)
        ));
    }
    text
}

fn named(nodes: &[String], count: usize) -> String {
    let more = count.saturating_sub(nodes.len());
    match more {
        0 => nodes.join(", "),
        more => format!("{} and {more} more", nodes.join(", ")),
    }
}

fn bound(all: &Explanation) -> String {
    match &all.bind {
        None => "not bound\n".to_owned(),
        Some(bind) => match &bind.error {
            None => {
                let doubt = bind.inexact.as_ref();
                let doubt =
                    doubt.map(|doubt| format!("; the kubelet may give other GPUs: {doubt}"));
                let doubt = doubt.unwrap_or_default();
                format!("bound to {} at {}{doubt}\n", bind.node, bind.at)
            }
            Some(error) => format!("not bound to {} at {}: {error}\n", bind.node, bind.at),
        },
    }
}
