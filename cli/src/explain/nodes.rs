//! The nodes of an explanation as a table: what each could give, what is second best there, and why.

use std::collections::BTreeMap;

use berth_extender_core::explain::{Container, Explanation, MeritStory, NodeStory};
use berth_topology::cpus::CpuList;

use crate::paint::Paint;
use crate::show::count;
use crate::table::{list, table};

/// Under each row what decided.
const INDENT: &str = "      ";

/// A container on a node: its row, and what is said below it.
struct Told {
    row: Vec<String>,
    notes: Vec<String>,
}

/// The best nodes, with the best set and the runner-up for each container.
pub(super) fn nodes(all: &Explanation, paint: Paint) -> String {
    let stories = all.nodes.iter();
    let told: Vec<Told> = stories.flat_map(|story| told(all, story)).collect();
    let rows: Vec<Vec<String>> = told.iter().map(|told| told.row.clone()).collect();
    let header = ["NODE", "SCORE", "FREE", "SETS", "SET", "RUNNER-UP"];
    let table = table(&header, &rows, paint);
    let mut lines = table.lines();
    let mut text = format!("{}\n", lines.next().unwrap_or_default());
    for (line, told) in lines.zip(&told) {
        text.push_str(&format!("{line}\n"));
        for note in &told.notes {
            text.push_str(&format!("{INDENT}{note}\n"));
        }
    }
    let more = all.feasible.len().saturating_sub(all.nodes.len());
    if more > 0 {
        text.push_str(&format!("and {}\n", count(more, "node")));
    }
    text
}

/// One row for each container; the node stands in the first.
fn told(all: &Explanation, story: &NodeStory) -> Vec<Told> {
    let score = all.feasible.get(&story.node).copied().unwrap_or_default();
    let none = [Container::default()];
    let containers = match story.containers.as_slice() {
        [] => &none,
        some => some,
    };
    let told = |(position, container): (usize, &Container)| {
        let (best, next) = (container.sets.first(), container.sets.get(1));
        let gpus = |set: Option<&berth_extender_core::explain::SetStory>| {
            set.map_or("-".to_owned(), |set| list(&set.gpus))
        };
        let [node, score, free] = match position {
            0 => [story.node.clone(), score.to_string(), ranges(&story.free)],
            _ => [String::new(), String::new(), String::new()],
        };
        let more = if container.are_all_compared { "" } else { "+" };
        let mut notes = notes(container);
        if containers.len() > 1 {
            notes.insert(0, format!("container {}", container.name));
        }
        if let Some(merit) = story.merit.filter(|_| position == 0) {
            notes.extend(points(&merit));
        }
        let sets = format!("{}{more}", container.set_count);
        Told {
            row: vec![node, score, free, sets, gpus(best), gpus(next)],
            notes,
        }
    };
    containers.iter().enumerate().map(told).collect()
}

/// What the best set has, what decided against the runner-up, and what the kubelet makes of it.
fn notes(container: &Container) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(best) = container.sets.first() else {
        return notes;
    };
    let loss = container.sets.get(1).and_then(|next| next.lost_by.as_ref());
    let is_told = loss.is_some_and(|loss| loss.criterion == "bandwidth");
    let bandwidth = best.criteria.iter().find(|(name, _)| name == "bandwidth");
    if let Some((name, value)) = bandwidth.filter(|_| !is_told) {
        notes.push(format!("{name}: {value}"));
    }
    notes.push(match loss {
        // The row says which.
        Some(loss) if loss.criterion == "lowest index" => "decided by lowest index".to_owned(),
        Some(loss) => format!(
            "decided by {}: {} against {}",
            loss.criterion, loss.better, loss.this
        ),
        None => "the only set".to_owned(),
    });
    if !container.given.is_empty() && container.given != best.gpus {
        let given = list(&container.given);
        notes.push(format!(
            "gets {given}: by the kubelet's rules, and beside the others"
        ));
    }
    notes
}

/// What the node's score is made of.
fn points(merit: &MeritStory) -> Vec<String> {
    let shares = merit.shares.named();
    let sum: u32 = shares.iter().map(|(_, points)| points).sum();
    let shares = shares.map(|(name, points)| format!("{name} {points}"));
    let mut notes = vec![format!("{sum} points: {}", shares.join(", "))];
    if merit.total != sum {
        notes.push(format!("the link wish makes {} of it", merit.total));
    }
    if merit.is_hinted {
        notes.push("other pods may be bound there first, which lowers it".to_owned());
    }
    notes
}

/// `0-3,6`, or a dash; of MIG instances how many each GPU has, `0x7,1x3`.
fn ranges(indices: &[u32]) -> String {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for index in indices {
        *counts.entry(*index).or_default() += 1;
    }
    if counts.len() < indices.len() {
        let each = counts.iter().map(|(gpu, count)| format!("{gpu}x{count}"));
        return each.collect::<Vec<_>>().join(",");
    }
    let list: CpuList = indices.iter().copied().collect();
    match list.to_string() {
        none if none.is_empty() => "-".to_owned(),
        some => some,
    }
}
