//! Which nodes fit a pod, how well, and at bind which GPUs. Pure over a snapshot.
//!
//! Nothing here reserves: kube-scheduler asks filter for many nodes, takes one or none, and never
//! says which. Only bind takes GPUs, and it chooses them again.

use std::collections::HashSet;
use std::sync::Arc;

use berth_placement::{PodPlacement, Refusal, place_pod};
use berth_topology::claim::PodClaim;
use berth_topology::ids::PodUid;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::group::{Group, Pull};
use crate::hints::Hint;
use crate::node::{NodeState, Room, Topology};
use crate::pod::{Claim, PodRecord, Terms};
use crate::score::{self, Merit};
use crate::situation::Situation;
use crate::snapshot::{Named, Snapshot};

pub use crate::score::{Preference, Standing};

mod alike;

use alike::Alike;

/// What is asked, and by whom.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The pod.
    pub uid: PodUid,
    /// What it wants, or why that cannot be read.
    pub claim: Claim,
    /// The pods that it works with.
    pub group: Option<Arc<Group>>,
    /// Its priority, and what else preemption asks of it.
    pub terms: Arc<Terms>,
}

/// Why a node is not for this pod now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum No {
    /// Placement's reason.
    Refused(Refusal),
    /// An earlier bind of the same pod to another node may still come true.
    Unconfirmed,
    /// The answer was due before the node's turn came.
    OutOfTime,
    /// It would fit, but what it would take was freed for a pod of its priority or above.
    Promised,
}

/// What filter found, node by node.
#[derive(Clone, Debug, Default)]
pub struct Verdicts<'a> {
    /// The nodes that were asked about, in the order sent.
    pub offered: Vec<Named<'a>>,
    /// What is said of each.
    pub outcomes: Vec<Outcome>,
    /// Why not, each once.
    pub reasons: Vec<No>,
}

/// What filter says of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It fits, with the score of its set against the best of that machine, 0 to 10.
    Fits(u32),
    /// It does not; the reason's position.
    Refused(u32),
}

/// One pod's question to many nodes.
struct Judge<'a> {
    snapshot: &'a Snapshot,
    ask: &'a Ask,
    /// The node of an earlier bind of this pod that is not settled.
    unconfirmed: Option<&'a str>,
    /// Whether what is to be placed decides alone.
    is_settled: bool,
    alike: Alike<'a>,
}

/// Nodes between two looks at the time: on a machine never seen before each may take milliseconds.
pub(crate) const NODES_PER_LOOK: usize = 16;

/// Which nodes fit.
pub fn filter<'a>(snapshot: &'a Snapshot, ask: &Ask, names: &[&'a str]) -> Verdicts<'a> {
    let offered = snapshot.named(names.iter().copied());
    filter_until(snapshot, ask, offered, || false)
}

/// Which nodes fit; once `is_over` the rest is refused for now, since a late answer is none at all.
pub fn filter_until<'a>(
    snapshot: &Snapshot,
    ask: &Ask,
    offered: Vec<Named<'a>>,
    mut is_over: impl FnMut() -> bool,
) -> Verdicts<'a> {
    let mut verdicts = Verdicts::of_none(offered.len());
    let mut judge = Judge::new(snapshot, ask);
    let mut was_over = false;
    for (position, (one, situation)) in offered.iter().zip(situations(&offered)).enumerate() {
        was_over |= position.is_multiple_of(NODES_PER_LOOK) && is_over();
        verdicts.push(match was_over {
            true => Err(No::OutOfTime),
            false => judge.judge_in(situation, *one),
        });
    }
    Verdicts {
        offered,
        ..verdicts
    }
}

/// How well each node fits, 0 to 10; 0 where it does not. See [`crate::score`].
pub fn prioritize<'a>(
    snapshot: &Snapshot,
    ask: &Ask,
    offered: &[Named<'a>],
    preference: Preference,
) -> Vec<(Named<'a>, u32)> {
    let merits = merits(snapshot, ask, offered, preference);
    let levels = score::levels(&merits);
    offered.iter().copied().zip(levels).collect()
}

/// How good each node is; `None` where the pod does not fit. What other pods were promised lowers
/// the merit as if they had it already; where nothing would be left, to nothing.
pub fn merits<'a>(
    snapshot: &'a Snapshot,
    ask: &'a Ask,
    offered: &[Named<'a>],
    preference: Preference,
) -> Vec<Option<Merit>> {
    if !ask.wants_gpus() {
        return vec![None; offered.len()];
    }
    let candidates = offered.iter().filter_map(|one| one.node);
    let pull = Pull::of(snapshot, ask, candidates);
    let mut judge = Judge::new(snapshot, ask);
    let merit = |(one, situation): (&Named<'a>, _)| {
        let standing = judge.judge_in(situation, *one).ok()?;
        let node = one.node?;
        let pull = pull.on(node);
        let now = standing.merit(pull, preference);
        let promised = snapshot.promised_to_others(one.name, &ask.uid);
        if promised.is_empty() || !promised.meets(node.room.free) {
            return Some(now);
        }
        let room = node.room_for(&ask.uid, ask.terms.priority).less(promised);
        let later = judge.judge_with(*one, |_| room);
        let later = later.map(|standing| standing.merit(pull, preference));
        Some(now.min(later.unwrap_or_default()))
    };
    let each = offered.iter().zip(situations(offered));
    each.map(merit).collect()
}

/// The node that kube-scheduler will most likely take, if one scores above all others, and the GPUs
/// that the pod would have there.
pub fn hint(snapshot: &Snapshot, ask: &Ask, scores: &[(Named<'_>, u32)]) -> Option<Hint> {
    let best = scores.iter().map(|(_, score)| *score).max()?;
    let mut nodes = scores.iter().filter(|(_, score)| *score == best);
    let (one, _) = nodes.next().filter(|_| ask.wants_gpus())?;
    if nodes.next().is_some() {
        return None;
    }
    let node = one.node?;
    let room = node.room_for(&ask.uid, ask.terms.priority);
    let room = room.less(snapshot.promised_to_others(one.name, &ask.uid));
    let mut judge = Judge::new(snapshot, ask);
    let standing = judge
        .judge_with(*one, |_| room)
        .or_else(|_| judge.judge(*one))
        .ok()?;
    Some(Hint {
        node: node.name.clone(),
        gpus: standing.gpus,
    })
}

/// How well the pod fits that node now.
///
/// # Errors
/// Why it does not.
pub fn judge(snapshot: &Snapshot, ask: &Ask, name: &str) -> Result<Standing, No> {
    Judge::new(snapshot, ask).judge(snapshot.one(name))
}

/// How well the pod would fit that node if the pods `leaving` were gone.
///
/// # Errors
/// Why it would not.
pub fn judge_without(
    snapshot: &Snapshot,
    ask: &Ask,
    name: &str,
    leaving: &HashSet<PodUid>,
) -> Result<Standing, No> {
    let room = |node: &NodeState| node.room_for_without(&ask.uid, ask.terms.priority, leaving);
    Judge::new(snapshot, ask).judge_with(snapshot.one(name), room)
}

/// The GPUs for the pod on that node.
///
/// # Errors
/// Why it does not fit.
pub fn choose(snapshot: &Snapshot, ask: &Ask, name: &str) -> Result<PodPlacement, Refusal> {
    let claim = ask.claim()?;
    let (node, topology) = usable_node(snapshot, snapshot.one(name))?;
    let room = node.room_for(&ask.uid, ask.terms.priority);
    let placement = place_pod(&topology.machine, topology.free(&room), claim)?;
    check_count(room, topology, claim)?;
    Ok(placement)
}

/// The situation of each node where that alone counts. One look at thousands of nodes and nothing
/// else between two of them: memory is read ahead only where little is done with it.
fn situations<'a>(offered: &[Named<'a>]) -> Vec<Option<&'a Situation>> {
    let situation = |one: &Named<'a>| one.node.and_then(|node| node.plain());
    offered.iter().map(situation).collect()
}

/// The node, if anything may be placed there at all.
fn usable_node<'a>(
    snapshot: &Snapshot,
    one: Named<'a>,
) -> Result<(&'a NodeState, &'a Topology), Refusal> {
    let node = one.node.ok_or(Refusal::NoTopology)?;
    let topology = node.topology.as_deref().ok_or(Refusal::NoTopology)?;
    topology.check_owner()?;
    if snapshot.is_stale(one.name) {
        return Err(Refusal::Stale);
    }
    Ok((node, topology))
}

/// GPUs that somebody holds, nobody knows which, leave that many fewer.
fn check_count(room: Room, topology: &Topology, claim: &PodClaim) -> Result<(), Refusal> {
    match room.has_count(topology, claim.gpu_count()) {
        true => Ok(()),
        false => Err(Refusal::NotEnoughFree),
    }
}

// === impl Judge ===

impl<'a> Judge<'a> {
    fn new(snapshot: &'a Snapshot, ask: &'a Ask) -> Self {
        let unconfirmed = snapshot.unconfirmed(&ask.uid);
        Self {
            snapshot,
            ask,
            unconfirmed,
            is_settled: ask.wants_gpus() && unconfirmed.is_none(),
            alike: Alike::default(),
        }
    }

    /// How well the pod fits the node now, by its situation alone where there is one.
    fn judge_in(
        &mut self,
        situation: Option<&'a Situation>,
        one: Named<'a>,
    ) -> Result<Standing, No> {
        match situation {
            Some(situation) if self.is_settled && !self.snapshot.is_stale(one.name) => {
                let standing = self.alike.standing_in(situation, self.ask);
                standing.map_err(No::Refused)
            }
            _ => self.judge(one),
        }
    }

    /// The same, from all that is known of the node.
    fn judge(&mut self, one: Named<'a>) -> Result<Standing, No> {
        let (uid, priority) = (&self.ask.uid, self.ask.terms.priority);
        let no = match self.judge_with(one, |node| node.room_for(uid, priority)) {
            Err(no) if no.is_resolvable() => no,
            settled => return settled,
        };
        let has_promises = one.node.is_some_and(|node| !node.promises.is_empty());
        if has_promises && self.judge_with(one, |node| node.room).is_ok() {
            return Err(No::Promised);
        }
        Err(no)
    }

    /// How well it would fit in `room`.
    fn judge_with(
        &mut self,
        one: Named<'a>,
        room: impl Fn(&NodeState) -> Room,
    ) -> Result<Standing, No> {
        let ask = self.ask;
        if !ask.wants_gpus() {
            return Ok(Standing::default());
        }
        if let Some(bound) = self.unconfirmed {
            return if bound == one.name {
                Ok(Standing::default())
            } else {
                Err(No::Unconfirmed)
            };
        }
        let claim = ask.claim()?;
        let (node, topology) = usable_node(self.snapshot, one)?;
        Ok(self.alike.standing(topology, room(node), claim)?)
    }
}

// === impl Verdicts ===

impl<'a> Verdicts<'a> {
    fn of_none(count: usize) -> Self {
        Self {
            outcomes: Vec::with_capacity(count),
            ..Self::default()
        }
    }

    fn push(&mut self, judged: Result<Standing, No>) {
        let outcome = match judged {
            Ok(standing) => Outcome::Fits(standing.score),
            Err(no) => Outcome::Refused(self.reason(no)),
        };
        self.outcomes.push(outcome);
    }

    /// There are some twenty at most.
    fn reason(&mut self, no: No) -> u32 {
        let known = self.reasons.iter().position(|known| *known == no);
        let at = known.unwrap_or_else(|| {
            self.reasons.push(no);
            self.reasons.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// Nodes that fit, with their scores, in the order sent.
    pub fn feasible(&self) -> impl Iterator<Item = (Named<'a>, u32)> {
        let each = self.offered.iter().zip(&self.outcomes);
        each.filter_map(|(one, outcome)| match outcome {
            Outcome::Fits(score) => Some((*one, *score)),
            Outcome::Refused(_) => None,
        })
    }

    /// Nodes that do not, and why not, in the order sent.
    pub fn refused(&self) -> impl Iterator<Item = (Named<'a>, &No)> {
        let each = self.offered.iter().zip(&self.outcomes);
        each.filter_map(|(one, outcome)| match outcome {
            Outcome::Fits(_) => None,
            Outcome::Refused(at) => Some((*one, self.reasons.get(*at as usize)?)),
        })
    }

    /// How many nodes fit.
    #[must_use]
    pub fn feasible_count(&self) -> usize {
        self.feasible().count()
    }

    /// Whether no node fits.
    #[must_use]
    pub fn is_nowhere(&self) -> bool {
        self.feasible().next().is_none()
    }

    /// Whether every node was looked at.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.reasons.contains(&No::OutOfTime)
    }
}

// === impl Ask ===

impl Ask {
    /// What `pod` asks of `resource`.
    pub fn of_pod(pod: &Pod, resource: &str) -> Self {
        let uid = PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default());
        let claim = PodClaim::of_pod(pod, resource);
        let group = Group::of_pod(pod, claim.as_ref().ok());
        Self {
            uid,
            claim: Arc::new(claim),
            group: group.map(Arc::new),
            terms: Arc::new(Terms::of_pod(pod, resource)),
        }
    }

    /// What a pod of the index asks.
    pub fn of_record(record: &PodRecord) -> Self {
        Self {
            uid: record.holder.uid.clone(),
            claim: record.claim.clone(),
            group: record.holder.group.clone(),
            terms: record.holder.terms.clone(),
        }
    }

    /// What some pod of priority 0 asks that wants this.
    #[must_use]
    pub fn of_claim(claim: &PodClaim) -> Self {
        Self {
            uid: PodUid::default(),
            claim: Arc::new(Ok(claim.clone())),
            group: None,
            terms: Arc::default(),
        }
    }

    /// What it wants.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn claim(&self) -> Result<&PodClaim, Refusal> {
        let claim = self.claim.as_ref().as_ref();
        claim.map_err(|error| Refusal::BadClaim(error.clone()))
    }

    /// Whether this is any business of ours. A claim that cannot be read is.
    pub fn wants_gpus(&self) -> bool {
        self.claim
            .as_ref()
            .as_ref()
            .map_or(true, |claim| claim.gpu_count() > 0)
    }
}

// === impl No ===

impl No {
    /// The reason's name, as in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.kind(),
            Self::Unconfirmed => "Unconfirmed",
            Self::OutOfTime => "OutOfTime",
            Self::Promised => "Promised",
        }
    }

    /// Whether it can change without anything else than pods leaving, or time.
    pub fn is_resolvable(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_resolvable(),
            Self::Unconfirmed | Self::OutOfTime | Self::Promised => true,
        }
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl std::fmt::Display for No {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Unconfirmed => f.write_str("an earlier binding of this pod is not confirmed yet"),
            Self::OutOfTime => f.write_str("not looked at before the answer was due"),
            Self::Promised => f.write_str("the GPUs are kept for a pod that waits for its victims"),
        }
    }
}

#[cfg(test)]
mod tests;
