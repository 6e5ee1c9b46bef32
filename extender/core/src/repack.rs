//! Which pods would have to move for a pending pod to fit, and whereto. A plan only: nothing is moved.
//!
//! For each node the residents that could move are taken away, few at a time, until the pod fits; then
//! each of them must find GPUs elsewhere, or on what is left of its own node. The plan that moves the
//! fewest GPUs is taken, of equals the one that moves the fewest pods, then the first node by name.
//!
//! A pod that is terminating frees its GPUs by itself: it is never moved. Where it is enough to wait until
//! such pods are gone, that is the plan, and where some others must move as well, it says whom it takes to
//! be gone by then.
//!
//! Bounds: [`MOVED_PODS_MAX`] pods of one node move at once, the first [`RESIDENTS_MAX`] of a node by
//! size are considered, [`TRIES_MAX`] placements are tried; moved pods look for a place one after the
//! other, the largest first, each taking the best that is left. Within these bounds the plan is the
//! best one for that order; a limit that was reached is said.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use berth_placement::{PodPlacement, Refusal};
use berth_topology::claim::PodClaim;
use berth_topology::ids::PodUid;
use serde::Serialize;

use crate::decide::{self, Ask};
use crate::node::NodeState;
use crate::pod::Holder;
use crate::snapshot::Snapshot;

mod way;

use way::{Way, indices, less, subsets, without};

/// Pods that one plan moves.
pub const MOVED_PODS_MAX: usize = 4;
/// Residents of one node that are considered, the smallest first.
pub const RESIDENTS_MAX: usize = 16;
/// Placements tried for one plan.
pub const TRIES_MAX: usize = 200_000;

/// What would have to be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The node that the pod then fits.
    pub node: String,
    /// Indices of the GPUs that it would get, in rank order.
    pub gpus: Vec<u32>,
    /// Pods of that node, `NAMESPACE/NAME`, that are terminating and have to be gone: for them it is
    /// enough to wait.
    pub waits_for: Vec<String>,
    /// Pods to move, in this order; none where it fits already, or will.
    pub moves: Vec<Move>,
    /// GPUs of all of them.
    pub moved_gpu_count: usize,
    /// Whether a limit was reached, so that there may be a better plan.
    pub is_limited: bool,
}

/// One pod to move: to delete, and to let it be scheduled again.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// Where it is.
    pub from: String,
    /// Indices of its GPUs there.
    pub from_gpus: Vec<u32>,
    /// Where it fits.
    pub to: String,
    /// Indices of the GPUs that it would get there, in rank order.
    pub to_gpus: Vec<u32>,
    /// Of that set against the best of that machine, 0 to 10.
    pub score: u8,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWay {
    /// The pod asks for nothing, or what it asks cannot be read.
    #[error("what the pod asks cannot be placed: {0}")]
    Claim(String),
    /// No node could take it, whoever left.
    #[error("no node could take the pod, whoever left: {}", list(.0))]
    Never(BTreeMap<String, usize>),
    /// Some could, but those who would have to leave find no other place.
    #[error(
        "{fitting_count} ways to make room were found, but in none do all of the pods that would have to leave find another place"
    )]
    NoOtherPlace {
        /// Node and pods to leave.
        fitting_count: usize,
        /// Whether a limit was reached.
        is_limited: bool,
    },
    /// Nobody who could move frees enough.
    #[error(
        "no {MOVED_PODS_MAX} pods of one node that could move make room for it; pods whose GPUs are not known, or whose claim cannot be read, do not move"
    )]
    NotEnough,
}

fn list(reasons: &BTreeMap<String, usize>) -> String {
    let each = reasons
        .iter()
        .map(|(kind, count)| format!("{kind} on {count}"));
    each.collect::<Vec<_>>().join(", ")
}

/// The pod and the cluster.
struct Search<'a> {
    snapshot: &'a Snapshot,
    claims: &'a BTreeMap<PodUid, PodClaim>,
    ask: &'a Ask,
    tries_left: usize,
}

/// Plans for the pod that asks.
///
/// # Errors
/// When there is no way within the bounds.
pub fn repack(
    snapshot: &Snapshot,
    claims: &BTreeMap<PodUid, PodClaim>,
    ask: &Ask,
) -> Result<Plan, NoWay> {
    let claim = ask.claim.as_ref().as_ref();
    let claim = claim.map_err(|error| NoWay::Claim(error.to_string()))?;
    if claim.gpu_count() == 0 {
        return Err(NoWay::Claim("it asks for no GPUs".to_owned()));
    }
    let mut search = Search {
        snapshot,
        claims,
        ask,
        tries_left: TRIES_MAX,
    };
    let ways = search.ways()?;
    let fitting_count = ways.len();
    for way in ways {
        if let Some(moves) = search.moves(&way) {
            return Ok(search.plan(&way, moves));
        }
    }
    Err(if fitting_count == 0 {
        NoWay::NotEnough
    } else {
        NoWay::NoOtherPlace {
            fitting_count,
            is_limited: search.tries_left == 0,
        }
    })
}

// === impl Search ===

impl Search<'_> {
    /// Every way to make room on some node, the fewest GPUs first.
    fn ways(&mut self) -> Result<Vec<Way>, NoWay> {
        let mut states: Vec<Arc<NodeState>> = self.snapshot.nodes().cloned().collect();
        states.sort_by(|a, b| a.name.cmp(&b.name));
        let mut ways = Vec::new();
        let mut never: BTreeMap<String, usize> = BTreeMap::new();
        for state in &states {
            match self.choose(state, self.ask) {
                Ok(placement) => ways.push(Way::as_it_is(state, placement)),
                Err(refusal) if refusal.is_resolvable() => self.ways_on(state, &mut ways),
                Err(refusal) => *never.entry(refusal.kind().to_owned()).or_default() += 1,
            }
        }
        let never_count: usize = never.values().sum();
        if never_count == states.len() {
            return Err(NoWay::Never(never));
        }
        ways.sort_by_key(|way| (way.gpu_count, way.leaving.len(), way.ending.len()));
        Ok(ways)
    }

    fn ways_on(&mut self, state: &Arc<NodeState>, ways: &mut Vec<Way>) {
        let holders = state.holders.iter().cloned();
        let (ending, mut residents): (Vec<Arc<Holder>>, Vec<_>) =
            holders.partition(|holder| holder.terms.is_terminating);
        if let Some(way) = self.way(state, &[], &ending) {
            ways.push(way);
            return;
        }
        residents.retain(|holder| self.can_move(holder));
        residents.sort_by_key(|holder| holder.gpu_count);
        residents.truncate(RESIDENTS_MAX);
        for leaving in subsets(residents.len()) {
            if self.tries_left == 0 {
                return;
            }
            let leaving: Vec<Arc<Holder>> = leaving
                .iter()
                .map(|position| residents[position].clone())
                .collect();
            let now = self.way(state, &leaving, &[]);
            ways.extend(now.or_else(|| self.way(state, &leaving, &ending)));
        }
    }

    /// The pod on that node once those are gone; of `ending` no more than it takes.
    fn way(
        &mut self,
        state: &Arc<NodeState>,
        leaving: &[Arc<Holder>],
        ending: &[Arc<Holder>],
    ) -> Option<Way> {
        if leaving.is_empty() && ending.is_empty() {
            return None;
        }
        let gone = |ending: &[Arc<Holder>]| without(state, &[leaving, ending].concat());
        let mut placement = self.choose(&gone(ending), self.ask).ok()?;
        let mut needed = ending.to_vec();
        for holder in ending {
            let mut fewer = needed.clone();
            fewer.retain(|one| one.uid != holder.uid);
            if let Ok(suffices) = self.choose(&gone(&fewer), self.ask) {
                (needed, placement) = (fewer, suffices);
            }
        }
        Some(Way::of(state, leaving.to_vec(), needed, placement))
    }

    /// Whose GPUs and claim are known. One that is terminating goes by itself, and comes back nowhere.
    fn can_move(&self, holder: &Holder) -> bool {
        let named: usize = holder.intent.values().map(Vec::len).sum();
        !holder.terms.is_terminating
            && named == holder.gpu_count
            && self.claims.contains_key(&holder.uid)
    }

    /// A place for each that leaves, the largest first; `None` where one finds none.
    fn moves(&mut self, way: &Way) -> Option<Vec<Move>> {
        let left = without(&way.state, &[&way.leaving[..], &way.ending].concat());
        let mut changed = HashMap::new();
        changed.insert(way.state.name.clone(), less(&left, way.placement.gpus));
        let mut leaving: Vec<&Arc<Holder>> = way.leaving.iter().collect();
        leaving.sort_by_key(|holder| std::cmp::Reverse(holder.gpu_count));
        let mut moves = Vec::with_capacity(leaving.len());
        for holder in leaving {
            let ask = Ask {
                uid: holder.uid.clone(),
                terms: holder.terms.clone(),
                ..Ask::of_claim(self.claims.get(&holder.uid)?)
            };
            let (to, placement) = self.best_place(&ask, &changed)?;
            moves.push(way.move_of(holder, &to, &placement));
            changed.insert(to.name.clone(), less(&to, placement.gpus));
        }
        Some(moves)
    }

    /// The node with the best set, of equals the one with the fewest free GPUs, then by name.
    fn best_place(
        &mut self,
        ask: &Ask,
        changed: &HashMap<Arc<str>, Arc<NodeState>>,
    ) -> Option<(Arc<NodeState>, PodPlacement)> {
        let states: Vec<Arc<NodeState>> = self
            .snapshot
            .nodes()
            .map(|state| changed.get(&state.name).unwrap_or(state).clone())
            .collect();
        let fitting = states.into_iter().filter_map(|state| {
            let placement = self.choose(&state, ask).ok()?;
            Some((state, placement))
        });
        fitting.min_by(|(a, one), (b, other)| {
            let key = |state: &NodeState, placement: &PodPlacement| {
                (std::cmp::Reverse(placement.score), state.room.free.len())
            };
            let by_worth = key(a, one).cmp(&key(b, other));
            by_worth.then_with(|| a.name.cmp(&b.name))
        })
    }

    /// As bind would choose on that node.
    fn choose(&mut self, state: &Arc<NodeState>, ask: &Ask) -> Result<PodPlacement, Refusal> {
        let Some(left) = self.tries_left.checked_sub(1) else {
            return Err(Refusal::NotEnoughFree);
        };
        self.tries_left = left;
        let mut stale = HashSet::default();
        if self.snapshot.is_stale(&state.name) {
            stale.insert(state.name.clone());
        }
        let alone = Snapshot {
            stale,
            ..Snapshot::default()
        };
        let alone = alone.with_nodes([state.clone()]);
        decide::choose(&alone, ask, &state.name)
    }

    fn plan(&self, way: &Way, moves: Vec<Move>) -> Plan {
        Plan {
            node: way.state.name.to_string(),
            gpus: indices(&way.placement),
            waits_for: way.waits_for(),
            moves,
            moved_gpu_count: way.gpu_count,
            is_limited: self.tries_left == 0,
        }
    }
}

#[cfg(test)]
mod tests;
