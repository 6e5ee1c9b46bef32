//! What was decided about each pod, and from what: bounded, in memory, for people and for replays.
//!
//! A record shares the nodes' states with the snapshot that it was decided on, so that keeping one
//! costs a pointer a node. When records hold too much, the oldest ones' inputs go first: their answers
//! stay, with a hash of what was dropped.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use berth_placement::Inexact;
use berth_topology::ids::PodUid;
use serde::{Deserialize, Serialize};

use crate::bind;
use crate::decide::{No, Outcome, Verdicts};
use crate::pod::Holder;
use crate::preempt::stranded::Plan;
use crate::preempt::{self, Eviction, Spared};
use crate::snapshot::Named;

pub mod archive;
mod asked;
mod inputs;
mod offered;
pub(crate) mod shared;
pub mod wiring;

pub use asked::Asked;
pub use inputs::{Candidate, Inputs};
pub use offered::Offered;

/// Records kept.
const RECORDS_MAX: usize = 1_024;
/// What all records together may hold, by [`Record::bytes`]'s estimate.
const BYTES_MAX: usize = 24 << 20;
/// A node's state that only a record still holds, and its share of what hangs on it.
const STATE_BYTES: usize = 96;

/// One decision.
#[derive(Clone, Debug)]
pub struct Record {
    /// Grows with each record.
    pub number: u64,
    /// When it was made, RFC 3339, as the server said.
    pub at: String,
    /// The pod.
    pub asked: Arc<Asked>,
    /// What it was decided from, or the hash of what was dropped.
    pub basis: Basis,
    /// What was decided.
    pub decided: Decided,
}

/// What a decision was made from.
#[derive(Clone, Debug)]
pub enum Basis {
    /// All of it.
    Kept(Box<Inputs>),
    /// The records held too much; the hash of what it was.
    Dropped {
        /// As [`Inputs::hash`].
        hash: String,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "verb")]
pub enum Decided {
    /// Which nodes fit.
    Filter {
        /// One for each candidate, in the order that they were sent.
        outcomes: Vec<Outcome>,
        /// Why not, each once.
        reasons: Vec<Reason>,
    },
    /// How well they fit.
    Prioritize {
        /// One for each candidate.
        scores: Vec<u32>,
    },
    /// Whom to evict.
    Preempt {
        /// By node that will fit then.
        evictions: BTreeMap<String, Eviction>,
        /// Nodes that were offered and are left out; the reason's position.
        spared: BTreeMap<String, usize>,
        /// Why, each once.
        reasons: Vec<Reason>,
    },
    /// Whom the extender itself evicts, because only the wiring kept the pod out.
    Evict {
        /// From which node.
        node: String,
        /// The pods, the most important first.
        victims: Vec<PodUid>,
        /// Why not all of them were evicted; absent when they were.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Which GPUs.
    Bind {
        /// The node.
        node: String,
        /// The annotation that was to be written; absent where none was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        annotation: Option<String>,
        /// Why the kubelet may give other GPUs than it names; absent where it can only give those.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inexact: Option<String>,
        /// Why it was not bound; absent when it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
}

/// Why a node does not fit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// Its name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether pods that leave could help.
    pub resolvable: bool,
    /// The sentence.
    pub message: String,
}

/// The last of them, oldest first.
#[derive(Debug, Default)]
pub struct Records {
    ring: VecDeque<Record>,
    /// The number of each pod's newest record.
    newest: HashMap<PodUid, u64>,
    bytes: usize,
    /// Records before this position have lost their inputs.
    kept_from: usize,
    next: u64,
}

// === impl Records ===

impl Records {
    /// Filter answered.
    pub fn filtered(&mut self, asked: &Asked, at: String, inputs: Inputs, verdicts: &Verdicts<'_>) {
        let decided = Decided::filter(verdicts);
        let asked = self.shared(asked);
        self.push(asked, at, Basis::Kept(Box::new(inputs)), decided);
    }

    /// Prioritize answered.
    pub fn scored(
        &mut self,
        asked: &Asked,
        at: String,
        inputs: Inputs,
        scores: &[(Named<'_>, u32)],
    ) {
        let scores = scores.iter().map(|(_, score)| *score).collect();
        let decided = Decided::Prioritize { scores };
        let asked = self.shared(asked);
        self.push(asked, at, Basis::Kept(Box::new(inputs)), decided);
    }

    /// Preempt answered.
    pub fn preempted(
        &mut self,
        asked: &Asked,
        at: String,
        inputs: Inputs,
        answer: &preempt::Answer,
    ) {
        let asked = self.shared(asked);
        let decided = Decided::preempt(answer);
        self.push(asked, at, Basis::Kept(Box::new(inputs)), decided);
    }

    /// Bind ended. `inputs` is absent where nothing was chosen. kube-scheduler sends no Pod to bind: it
    /// is known from filter.
    pub fn bound(
        &mut self,
        request: &bind::Request,
        at: String,
        inputs: Option<Inputs>,
        bound: Bound,
    ) {
        let decided = Decided::Bind {
            node: bound.node,
            annotation: bound.annotation,
            inexact: bound.inexact.map(|doubt| doubt.kind().to_owned()),
            error: bound.error,
        };
        let asked = self.of_uid(&request.uid);
        let inputs = inputs.filter(|_| asked.is_some());
        let asked = asked.unwrap_or_else(|| named(&request.uid, &request.namespace, &request.name));
        self.push(asked, at, Basis::of(inputs), decided);
    }

    /// The evictions of that plan ended. The pod is known from filter.
    pub fn evicted(&mut self, plan: &Plan, at: String, error: Option<String>) {
        let pod = &plan.pod;
        let decided = Decided::evict(&plan.node, &plan.victims, error);
        let asked = self.of_uid(&pod.uid);
        let inputs = asked.as_ref().map(|_| plan.inputs.clone());
        let asked = asked.unwrap_or_else(|| named(&pod.uid, &pod.namespace, &pod.name));
        self.push(asked, at, Basis::of(inputs), decided);
    }

    /// Every record, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.ring.iter()
    }

    /// The records of the pod that bears the name now, or did last; oldest first.
    #[must_use]
    pub fn of_pod(&self, namespace: &str, name: &str) -> Vec<Record> {
        let is_of =
            |record: &&Record| record.asked.namespace == namespace && record.asked.name == name;
        let Some(last) = self.ring.iter().rev().find(is_of) else {
            return Vec::new();
        };
        let uid = &last.asked.uid;
        let same = self.ring.iter().filter(|record| record.asked.uid == *uid);
        same.cloned().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// What they hold, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn of_uid(&self, uid: &PodUid) -> Option<Arc<Asked>> {
        let oldest = self.ring.front()?.number;
        let position = self.newest.get(uid)?.checked_sub(oldest)?;
        let record = self.ring.get(usize::try_from(position).ok()?)?;
        Some(record.asked.clone())
    }

    /// The same pod, shared with the record before, if there is one that reads the same.
    fn shared(&self, asked: &Asked) -> Arc<Asked> {
        let known = self.of_uid(&asked.uid).filter(|known| **known == *asked);
        known.unwrap_or_else(|| Arc::new(asked.clone()))
    }

    fn push(&mut self, asked: Arc<Asked>, at: String, basis: Basis, decided: Decided) {
        let record = Record {
            number: self.next,
            at,
            asked,
            basis,
            decided,
        };
        let uid = record.asked.uid.clone();
        self.newest.insert(uid, record.number);
        self.next += 1;
        self.bytes += record.bytes();
        self.ring.push_back(record);
        while self.bytes > BYTES_MAX && self.kept_from + 1 < self.ring.len() {
            self.drop_inputs();
        }
        while self.ring.len() > RECORDS_MAX || self.bytes > BYTES_MAX && self.ring.len() > 1 {
            self.drop_oldest();
        }
    }

    fn drop_inputs(&mut self) {
        let record = &mut self.ring[self.kept_from];
        self.bytes -= record.bytes();
        if let Basis::Kept(inputs) = &record.basis {
            let hash = inputs.hash(&record.asked);
            record.basis = Basis::Dropped { hash };
        }
        self.bytes += record.bytes();
        self.kept_from += 1;
    }

    fn drop_oldest(&mut self) {
        let Some(record) = self.ring.pop_front() else {
            return;
        };
        self.bytes -= record.bytes();
        self.kept_from = self.kept_from.saturating_sub(1);
        let uid = &record.asked.uid;
        if self.newest.get(uid) == Some(&record.number) {
            self.newest.remove(uid);
        }
    }
}

/// A pod of which no record tells what it asks: inputs are of no use without.
fn named(uid: &PodUid, namespace: &str, name: &str) -> Arc<Asked> {
    Arc::new(Asked {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.clone(),
        pod: "{}".to_owned(),
    })
}

/// How a bind ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// The node.
    pub node: String,
    /// The annotation that was to be written.
    pub annotation: Option<String>,
    /// Why the kubelet may give other GPUs.
    pub inexact: Option<Inexact>,
    /// Why it was not bound.
    pub error: Option<String>,
}

// === impl Basis ===

impl Basis {
    /// Nothing was chosen where there are none.
    fn of(inputs: Option<Inputs>) -> Self {
        let nothing = || Self::Dropped {
            hash: String::new(),
        };
        inputs.map_or_else(nothing, |inputs| Self::Kept(Box::new(inputs)))
    }
}

// === impl Record ===

impl Record {
    /// What it was decided from, unless that was dropped.
    #[must_use]
    pub fn inputs(&self) -> Option<&Inputs> {
        match &self.basis {
            Basis::Kept(inputs) => Some(inputs.as_ref()),
            Basis::Dropped { .. } => None,
        }
    }

    /// Hash of what it was decided from; empty where it chose nothing.
    #[must_use]
    pub fn inputs_hash(&self) -> String {
        match &self.basis {
            Basis::Kept(inputs) => inputs.hash(&self.asked),
            Basis::Dropped { hash } => hash.clone(),
        }
    }

    /// What it holds, about.
    fn bytes(&self) -> usize {
        let inputs = self.inputs().map_or(0, |inputs| {
            let offered = inputs.offered.as_ref().map_or(0, |offered| offered.bytes());
            let states = inputs.candidates.len() + inputs.peers.len();
            states * (size_of::<Candidate>() + STATE_BYTES) + offered
        });
        let decided = match &self.decided {
            Decided::Filter { outcomes, reasons } => {
                size_of_val(outcomes.as_slice()) + 128 * reasons.len()
            }
            Decided::Prioritize { scores } => size_of_val(scores.as_slice()),
            Decided::Preempt {
                evictions,
                spared,
                reasons,
            } => {
                let names = evictions.keys().chain(spared.keys());
                let names: usize = names.map(|name| name.len() + 64).sum();
                let victims = evictions.values().flat_map(|one| &one.victims);
                let victims: usize = victims.map(offered::uid_bytes).sum();
                names + victims + 128 * reasons.len()
            }
            Decided::Evict { node, victims, .. } => {
                let victims: usize = victims.iter().map(offered::uid_bytes).sum();
                node.len() + victims
            }
            Decided::Bind { annotation, .. } => annotation.as_ref().map_or(0, |text| text.len()),
        };
        size_of::<Self>() + self.asked.pod.len() + inputs + decided
    }
}

// === impl Decided ===

impl Decided {
    /// Filter's answer, in the order of the candidates.
    #[must_use]
    pub fn filter(verdicts: &Verdicts<'_>) -> Self {
        Self::Filter {
            outcomes: verdicts.outcomes.clone(),
            reasons: verdicts.reasons.iter().map(Reason::of).collect(),
        }
    }

    /// Preempt's answer.
    #[must_use]
    pub fn preempt(answer: &preempt::Answer) -> Self {
        let mut reasons: Vec<Reason> = Vec::new();
        let mut position = |spared: &Spared| {
            let reason = Reason::of_spared(spared);
            let known = reasons.iter().position(|known| *known == reason);
            known.unwrap_or_else(|| {
                reasons.push(reason);
                reasons.len() - 1
            })
        };
        let spared = answer.spared.iter();
        let spared = spared.map(|(node, spared)| (node.clone(), position(spared)));
        let spared = spared.collect();
        Self::Preempt {
            evictions: answer.kept.clone(),
            spared,
            reasons,
        }
    }

    /// An eviction of ours.
    #[must_use]
    pub fn evict(node: &str, victims: &[Arc<Holder>], error: Option<String>) -> Self {
        Self::Evict {
            node: node.to_owned(),
            victims: victims.iter().map(|victim| victim.uid.clone()).collect(),
            error,
        }
    }

    /// The verb's name.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Filter { .. } => "filter",
            Self::Prioritize { .. } => "prioritize",
            Self::Preempt { .. } => "preempt",
            Self::Evict { .. } => "evict",
            Self::Bind { .. } => "bind",
        }
    }
}

// === impl Reason ===

impl Reason {
    /// A refusal, as people see it.
    #[must_use]
    pub fn of(no: &No) -> Self {
        Self {
            kind: no.kind().to_owned(),
            resolvable: no.is_resolvable(),
            message: no.to_string(),
        }
    }

    /// Why a node is left out of preempt's answer, as people see it.
    #[must_use]
    pub fn of_spared(spared: &Spared) -> Self {
        Self {
            kind: spared.kind().to_owned(),
            resolvable: spared.is_resolvable(),
            message: spared.to_string(),
        }
    }
}

// === impl Bound ===

impl Bound {
    /// A bind of that request: what was prepared, and how it ended.
    #[must_use]
    pub fn of(
        request: &bind::Request,
        annotation: Option<String>,
        outcome: &Result<(), bind::Error>,
    ) -> Self {
        Self {
            node: request.node.clone(),
            annotation,
            inexact: None,
            error: outcome.as_ref().err().map(ToString::to_string),
        }
    }

    /// The same, with why the kubelet may give other GPUs.
    #[must_use]
    pub fn doubted(self, inexact: Option<Inexact>) -> Self {
        Self { inexact, ..self }
    }
}

#[cfg(test)]
mod tests;
