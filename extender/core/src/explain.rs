//! Why a pod was placed as it was, or nowhere: worked out from its records when somebody asks, so that
//! deciding costs nothing more.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use self::merit::Merits;
use crate::decide::Ask;
use crate::decide::Outcome;
use crate::record::{Decided, Inputs, Reason, Record};

mod merit;
mod node;
mod preemption;
mod sets;
mod why_not;

pub use merit::MeritStory;
pub use node::{Container, NodeStory};
pub use preemption::{Evicted, ForWiring, Preemption, Victim};
pub use sets::{Loss, SetStory};

/// Nodes told one by one; the others are counted.
const NODES_MAX: usize = 8;
/// Names of refused nodes listed for each reason; the others are counted.
const REFUSED_NAMES_MAX: usize = 64;

/// What was decided last about one pod, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub pod_uid: String,
    /// When filter answered last, RFC 3339.
    pub filtered_at: String,
    /// Hash of what filter decided from.
    pub inputs_hash: String,
    /// Whether that is still kept; without it nodes are only counted.
    pub are_inputs_kept: bool,
    /// Nodes that fit, with their score, 0 to 10: prioritize's, else filter's.
    pub feasible: BTreeMap<String, u32>,
    /// Nodes that do not, by reason.
    pub refused: BTreeMap<String, Refused>,
    /// The node of the highest score, of equals the first by name. kube-scheduler adds the scores of
    /// its own plugins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred: Option<String>,
    /// The one after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<String>,
    /// The best nodes that fit, best first; empty where the inputs were not kept.
    pub nodes: Vec<NodeStory>,
    /// What preempt answered last, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemption: Option<Preemption>,
    /// Whom the extender itself evicted last for it, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction: Option<ForWiring>,
    /// The last bind, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
    /// Why the node that was asked about is not the pod's, in sentences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<WhyNot>,
}

/// Nodes that are refused for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// The reason's sentence, as in the pod's events.
    pub message: String,
    /// Whether pods that leave could help.
    pub resolvable: bool,
    /// How many.
    pub count: usize,
    /// The first of them.
    pub nodes: Vec<String>,
}

/// One bind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bind {
    /// When it ended, RFC 3339.
    pub at: String,
    /// The node.
    pub node: String,
    /// What was written, or was to be: the assignment as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<String>,
    /// Whether the kubelet can only give those GPUs; absent without an assignment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// Why it may give others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inexact: Option<String>,
    /// Why it was not bound; absent when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why one node is not the pod's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyNot {
    /// The node.
    pub node: String,
    /// One after the other.
    pub sentences: Vec<String>,
    /// The node, where it was asked about and the inputs were kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub story: Option<NodeStory>,
}

/// The records that tell the last decision.
struct Last<'a> {
    filter: &'a Record,
    scores: HashMap<&'a str, u32>,
    /// Prioritize's, where it was asked.
    scored: Option<&'a Record>,
    bind: Option<&'a Record>,
}

/// Explains the last decision that `records` tell, which are of one pod, oldest first. `why_not` names
/// a node to be told in full. `None` where filter was never asked, or its record was dropped.
#[must_use]
pub fn explain(records: &[Record], resource: &str, why_not: Option<&str>) -> Option<Explanation> {
    let last = Last::of(records)?;
    let mut explanation = last.summary();
    explanation.preemption = Preemption::last_of(records);
    explanation.eviction = ForWiring::last_of(records);
    let Some(inputs) = last.filter.inputs() else {
        explanation.why_not = why_not.map(why_not::not_kept);
        return Some(explanation);
    };
    let ask = last.filter.asked.read().ok();
    let ask = ask.map(|pod| Ask::of_pod(&pod, resource))?;
    let ranking = ranking(&explanation.feasible);
    explanation.preferred = ranking.first().map(|name| (*name).to_owned());
    explanation.runner_up = ranking.get(1).map(|name| (*name).to_owned());
    let scored = last.scored.and_then(Record::inputs).unwrap_or(inputs);
    let snapshot = scored.snapshot();
    let merits = Merits::of(scored, &snapshot, &ask);
    let story = |name: &str| {
        let story = story(inputs, &ask, name)?;
        let merit = merits.on(name);
        Some(NodeStory { merit, ..story })
    };
    let told = ranking.iter().take(NODES_MAX);
    explanation.nodes = told.filter_map(|name| story(name)).collect();
    explanation.why_not = why_not.map(|node| {
        let story = story(node);
        why_not::answer(&explanation, node, story)
    });
    Some(explanation)
}

/// Highest score first, of equals by name, as a scheduler without other plugins would choose.
fn ranking(feasible: &BTreeMap<String, u32>) -> Vec<&str> {
    let mut names: Vec<(&str, u32)> = feasible
        .iter()
        .map(|(name, score)| (name.as_str(), *score))
        .collect();
    names.sort_by_key(|(_, score)| std::cmp::Reverse(*score));
    names.into_iter().map(|(name, _)| name).collect()
}

/// Prioritize's scores by node.
fn scores(record: &Record) -> HashMap<&str, u32> {
    let names = record.inputs().map(Inputs::names).unwrap_or_default();
    match &record.decided {
        Decided::Prioritize { scores } => names.into_iter().zip(scores.iter().copied()).collect(),
        _ => HashMap::new(),
    }
}

fn story(inputs: &Inputs, ask: &Ask, name: &str) -> Option<NodeStory> {
    let candidate = inputs.candidates.iter().find(|one| one.name() == name)?;
    Some(NodeStory::of(candidate, &inputs.snapshot_of(name), ask))
}

// === impl Last ===

impl<'a> Last<'a> {
    fn of(records: &'a [Record]) -> Option<Self> {
        let is_filter = |record: &&Record| matches!(record.decided, Decided::Filter { .. });
        let filter = records.iter().rev().find(is_filter)?;
        let after = |record: &&Record| record.number > filter.number;
        let is_scored = |record: &&Record| matches!(record.decided, Decided::Prioritize { .. });
        let mut scored = records.iter().filter(after).filter(is_scored);
        let scored = scored.find(|record| record.inputs().is_some());
        let is_bind = |record: &&Record| matches!(record.decided, Decided::Bind { .. });
        Some(Self {
            filter,
            scores: scored.map(scores).unwrap_or_default(),
            scored,
            bind: records.iter().rev().find(is_bind),
        })
    }

    fn summary(&self) -> Explanation {
        let asked = &self.filter.asked;
        let mut explanation = Explanation {
            namespace: asked.namespace.clone(),
            name: asked.name.clone(),
            pod_uid: asked.uid.as_str().to_owned(),
            filtered_at: self.filter.at.clone(),
            inputs_hash: self.filter.inputs_hash(),
            are_inputs_kept: self.filter.inputs().is_some(),
            bind: self.bind.and_then(Bind::of),
            ..Explanation::default()
        };
        let Decided::Filter { outcomes, reasons } = &self.filter.decided else {
            return explanation;
        };
        let names = self.filter.inputs().map(Inputs::names).unwrap_or_default();
        for (position, outcome) in outcomes.iter().enumerate() {
            let name = names.get(position);
            match outcome {
                Outcome::Fits(score) => {
                    let Some(name) = name else { continue };
                    let score = self.scores.get(name).unwrap_or(score);
                    explanation.feasible.insert((*name).to_owned(), *score);
                }
                Outcome::Refused(reason) => {
                    let Some(reason) = reasons.get(*reason as usize) else {
                        continue;
                    };
                    let refused = explanation.refused.entry(reason.kind.clone());
                    refused.or_default().add(reason, name.copied());
                }
            }
        }
        explanation
    }
}

// === impl Refused ===

impl Refused {
    /// One more node for that reason.
    fn add(&mut self, reason: &Reason, node: Option<&str>) {
        self.message.clone_from(&reason.message);
        self.resolvable = reason.resolvable;
        self.count += 1;
        if self.nodes.len() < REFUSED_NAMES_MAX {
            self.nodes.extend(node.map(str::to_owned));
        }
    }
}

// === impl Bind ===

impl Bind {
    fn of(record: &Record) -> Option<Self> {
        let Decided::Bind {
            node,
            annotation,
            inexact,
            error,
        } = &record.decided
        else {
            return None;
        };
        Some(Self {
            at: record.at.clone(),
            node: node.clone(),
            assignment: annotation.clone(),
            exact: annotation.as_ref().map(|_| inexact.is_none()),
            inexact: inexact.clone(),
            error: error.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
