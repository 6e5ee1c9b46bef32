//! Whom preempt would evict for the pod, where, and why other nodes were left out; and whom the extender
//! itself evicted for its wiring.

use std::collections::BTreeMap;

use berth_topology::ids::PodUid;
use serde::{Deserialize, Serialize};

use super::Refused;
use crate::preempt::Eviction;
use crate::record::{Candidate, Decided, Record};

/// What preempt answered last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preemption {
    /// When, RFC 3339.
    pub at: String,
    /// Hash of what was decided from.
    pub inputs_hash: String,
    /// Nodes that will fit once their victims are gone; kube-scheduler takes one of them.
    pub nodes: Vec<Evicted>,
    /// Nodes that were offered and are left out, by reason.
    pub left_out: BTreeMap<String, Refused>,
}

/// What the extender evicted itself (`--preempt-for-topology`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForWiring {
    /// When it ended, RFC 3339.
    pub at: String,
    /// Hash of what was decided from.
    pub inputs_hash: String,
    /// From where, and whom.
    pub on: Evicted,
    /// Why not all of them were evicted; absent when they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One node and who would leave it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evicted {
    /// The node.
    pub node: String,
    /// The pods, the most important first.
    pub victims: Vec<Victim>,
    /// Disruption budgets that are violated.
    pub violation_count: usize,
}

/// One pod to evict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Victim {
    /// Its uid.
    pub uid: PodUid,
    /// `NAMESPACE/NAME`; absent for a pod without GPUs, and where the inputs were not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its priority, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Whether it is being deleted already.
    #[serde(default)]
    pub is_terminating: bool,
    /// Indices of the GPUs that its assignment names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<u32>,
}

// === impl Preemption ===

impl Preemption {
    /// The last of those records that is preempt's.
    pub(super) fn last_of(records: &[Record]) -> Option<Self> {
        records.iter().rev().find_map(Self::of)
    }

    fn of(record: &Record) -> Option<Self> {
        let Decided::Preempt {
            evictions,
            spared,
            reasons,
        } = &record.decided
        else {
            return None;
        };
        let mut left_out: BTreeMap<String, Refused> = BTreeMap::new();
        for (node, at) in spared {
            let Some(reason) = reasons.get(*at) else {
                continue;
            };
            let refused = left_out.entry(reason.kind.clone());
            refused.or_default().add(reason, Some(node));
        }
        let evicted = |(node, eviction): (&String, &Eviction)| Evicted::of(record, node, eviction);
        Some(Self {
            at: record.at.clone(),
            inputs_hash: record.inputs_hash(),
            nodes: evictions.iter().map(evicted).collect(),
            left_out,
        })
    }

    /// What it says of one node.
    pub(super) fn sentence(&self, node: &str) -> Option<String> {
        let evicted = self.nodes.iter().find(|one| one.node == node);
        let left_out = || {
            let mut reasons = self.left_out.values();
            reasons.find(|one| one.nodes.iter().any(|name| name == node))
        };
        if let Some(evicted) = evicted {
            let victims: Vec<&str> = evicted.victims.iter().map(Victim::name).collect();
            return Some(match victims.is_empty() {
                true => format!("preemption: {node} fits without anybody evicted"),
                false => format!("preemption: it would fit without {}", victims.join(", ")),
            });
        }
        left_out().map(|one| format!("preemption left {node} out: {}", one.message))
    }
}

// === impl ForWiring ===

impl ForWiring {
    /// The last of those records that is an eviction.
    pub(super) fn last_of(records: &[Record]) -> Option<Self> {
        records.iter().rev().find_map(Self::of)
    }

    fn of(record: &Record) -> Option<Self> {
        let Decided::Evict {
            node,
            victims,
            error,
        } = &record.decided
        else {
            return None;
        };
        let eviction = Eviction {
            victims: victims.clone(),
            violation_count: 0,
        };
        Some(Self {
            at: record.at.clone(),
            inputs_hash: record.inputs_hash(),
            on: Evicted::of(record, node, &eviction),
            error: error.clone(),
        })
    }
}

// === impl Evicted ===

impl Evicted {
    fn of(record: &Record, node: &str, eviction: &Eviction) -> Self {
        let candidates = record.inputs().map(|inputs| inputs.candidates.as_slice());
        let mut candidates = candidates.unwrap_or_default().iter();
        let candidate = candidates.find(|one| one.name() == node);
        let victims = eviction.victims.iter();
        Self {
            node: node.to_owned(),
            victims: victims.map(|uid| Victim::of(uid, candidate)).collect(),
            violation_count: eviction.violation_count,
        }
    }
}

// === impl Victim ===

impl Victim {
    fn of(uid: &PodUid, candidate: Option<&Candidate>) -> Self {
        let mut victim = Self {
            uid: uid.clone(),
            ..Self::default()
        };
        let state = candidate.and_then(Candidate::state);
        let holder = state.and_then(|state| state.holders.iter().find(|one| one.uid == *uid));
        let (Some(state), Some(holder)) = (state, holder) else {
            return victim;
        };
        victim.pod = Some(holder.full_name());
        victim.priority = Some(holder.terms.priority);
        victim.is_terminating = holder.terms.is_terminating;
        if let Some(topology) = &state.topology {
            let machine = &topology.machine;
            let held = holder.named_on(machine);
            victim.gpus = held.iter().map(|at| machine.index(at).0).collect();
        }
        victim
    }

    /// Its name, or its uid where that is all there is.
    #[must_use]
    pub fn name(&self) -> &str {
        self.pod.as_deref().unwrap_or_else(|| self.uid.as_str())
    }
}
