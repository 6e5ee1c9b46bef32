//! Which nodes fit a pod, how well, and at bind which GPUs. Pure over a snapshot.
//!
//! Nothing here reserves: kube-scheduler asks filter for many nodes, takes one or none, and never
//! says which. Only bind takes GPUs, and it chooses them again.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use berth_placement::{PodFit, PodPlacement, Refusal, fit_pod, place_pod};
use berth_topology::claim::{self, PodClaim};
use berth_topology::ids::PodUid;
use berth_topology::link::LinkClass;
use k8s_openapi::api::core::v1::Pod;

use crate::node::{NodeState, Room, Topology};
use crate::snapshot::Snapshot;

/// What is asked, and by whom.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The pod.
    pub uid: PodUid,
    /// What it wants, or why that cannot be read.
    pub claim: Arc<Result<PodClaim, claim::Error>>,
}

/// Why a node is not for this pod now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum No {
    /// Placement's reason.
    Refused(Refusal),
    /// An earlier bind of the same pod to another node may still come true.
    Unconfirmed,
}

/// What filter found, node by node.
#[derive(Clone, Debug, Default)]
pub struct Verdicts {
    /// Nodes that fit, with their score.
    pub feasible: Vec<(String, u32)>,
    /// Nodes that do not.
    pub refused: Vec<(String, No)>,
}

/// Which of equally wired nodes comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// The one with the fewest free GPUs, so that whole nodes stay free.
    #[default]
    Pack,
    /// The one with the most.
    Spread,
}

/// How a node stands to a pod that fits it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// 0 to 10.
    pub score: u32,
    /// The worst link between two GPUs of a group; NVLink where a group is one GPU.
    pub link: LinkClass,
}

/// A node that does not meet a wish for a link scores no more than this, so that one that meets it
/// with half of its own best set still comes first.
const WISH_UNMET_SCORE_MAX: u32 = 4;

/// Which nodes fit.
pub fn filter(snapshot: &Snapshot, ask: &Ask, names: &[&str]) -> Verdicts {
    let mut verdicts = Verdicts::default();
    for name in names {
        match judge(snapshot, ask, name) {
            Ok(standing) => verdicts.feasible.push(((*name).to_owned(), standing.score)),
            Err(no) => verdicts.refused.push(((*name).to_owned(), no)),
        }
    }
    verdicts
}

/// How well each node fits, 0 to 10; 0 where it does not.
pub fn prioritize(
    snapshot: &Snapshot,
    ask: &Ask,
    names: &[&str],
    preference: Preference,
) -> Vec<(String, u32)> {
    if !ask.wants_gpus() {
        return names.iter().map(|name| ((*name).to_owned(), 0)).collect();
    }
    let standing = |name: &&str| judge(snapshot, ask, name).unwrap_or_default();
    let standings: Vec<Standing> = names.iter().map(standing).collect();
    let free = |name: &&str| snapshot.node(name).map_or(0, |node| node.room.free.len());
    let free: Vec<usize> = names.iter().map(free).collect();
    let scores = break_ties(&standings, &free, preference);
    names
        .iter()
        .map(|name| (*name).to_owned())
        .zip(scores)
        .collect()
}

/// Of the nodes offered for preemption, those that fit once their victims are gone. None is added:
/// kube-scheduler would obey, whoever the victims are.
pub fn preempt<'a>(
    snapshot: &Snapshot,
    ask: &Ask,
    victims: impl Iterator<Item = (&'a str, HashSet<PodUid>)>,
) -> HashSet<&'a str> {
    let accepts = |(name, leaving): &(&str, HashSet<PodUid>)| {
        let room = |node: &NodeState| node.room_without(leaving);
        judge_with(snapshot, ask, name, room).is_ok()
    };
    victims.filter(accepts).map(|(name, _)| name).collect()
}

/// How well the pod fits that node now.
///
/// # Errors
/// Why it does not.
pub fn judge(snapshot: &Snapshot, ask: &Ask, name: &str) -> Result<Standing, No> {
    judge_with(snapshot, ask, name, |node| node.room)
}

/// The GPUs for the pod on that node.
///
/// # Errors
/// Why it does not fit.
pub fn choose(snapshot: &Snapshot, claim: &PodClaim, name: &str) -> Result<PodPlacement, Refusal> {
    let (node, topology) = usable_node(snapshot, name)?;
    let placement = place_pod(&topology.machine, node.room.free, claim)?;
    check_count(node.room, topology, claim)?;
    Ok(placement)
}

fn judge_with(
    snapshot: &Snapshot,
    ask: &Ask,
    name: &str,
    room: impl Fn(&NodeState) -> Room,
) -> Result<Standing, No> {
    if !ask.wants_gpus() {
        return Ok(Standing::default());
    }
    if let Some(bound) = snapshot.unconfirmed(&ask.uid) {
        return if bound == name {
            Ok(Standing::default())
        } else {
            Err(No::Unconfirmed)
        };
    }
    let claim = ask
        .claim
        .as_ref()
        .as_ref()
        .map_err(|error| Refusal::BadClaim(error.clone()))?;
    let (node, topology) = usable_node(snapshot, name)?;
    let room = room(node);
    let fit = fit_pod(&topology.machine, room.free, claim)?;
    check_count(room, topology, claim)?;
    Ok(Standing::of(fit, claim))
}

/// The node, if anything may be placed there at all.
fn usable_node<'a>(
    snapshot: &'a Snapshot,
    name: &str,
) -> Result<(&'a NodeState, &'a Topology), Refusal> {
    let node = snapshot.node(name).ok_or(Refusal::NoTopology)?;
    let topology = node.topology.as_deref().ok_or(Refusal::NoTopology)?;
    if topology.is_dra_managed {
        return Err(Refusal::DraManaged);
    }
    if snapshot.is_stale(name) {
        return Err(Refusal::Stale);
    }
    Ok((node, topology))
}

/// GPUs that somebody holds, nobody knows which, leave that many fewer.
fn check_count(room: Room, topology: &Topology, claim: &PodClaim) -> Result<(), Refusal> {
    let free_count = room.free.intersection(topology.machine.usable()).len();
    if free_count < room.unknown_count + claim.gpu_count() {
        Err(Refusal::NotEnoughFree)
    } else {
        Ok(())
    }
}

/// Takes one point from nodes that are not the preferred ones among their equals, where no node has
/// the score below: the set against the machine's best always comes first, and kube-scheduler knows
/// only whole points. Preferred is the better link, then the node with the fewer (or more) free GPUs.
fn break_ties(standings: &[Standing], free: &[usize], preference: Preference) -> Vec<u32> {
    let order = |free: usize| match preference {
        Preference::Pack => usize::MAX - free,
        Preference::Spread => free,
    };
    let keys = standings.iter().zip(free);
    let keys: Vec<_> = keys
        .map(|(standing, free)| (standing.score, (standing.link, order(*free))))
        .collect();
    let mut preferred = BTreeMap::new();
    for (score, key) in &keys {
        let best = preferred.entry(*score).or_insert(*key);
        *best = (*best).max(*key);
    }
    let lowered = |(score, key): &(u32, (LinkClass, usize))| {
        let has_room = *score > 1 && !preferred.contains_key(&(score - 1));
        if has_room && preferred[score] != *key {
            score - 1
        } else {
            *score
        }
    };
    keys.iter().map(lowered).collect()
}

// === impl Standing ===

impl Standing {
    fn of(fit: PodFit, claim: &PodClaim) -> Self {
        let link = fit.weakest_link.unwrap_or(LinkClass::NvLink);
        let wishes = claim
            .containers
            .iter()
            .map(|container| container.claim.link);
        let is_met = wishes.max().is_none_or(|wish| link >= wish);
        let score = u32::from(fit.score);
        Self {
            score: if is_met {
                score
            } else {
                score.min(WISH_UNMET_SCORE_MAX)
            },
            link,
        }
    }
}

// === impl Ask ===

impl Ask {
    /// What `pod` asks of `resource`.
    pub fn of_pod(pod: &Pod, resource: &str) -> Self {
        let uid = PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default());
        Self {
            uid,
            claim: Arc::new(PodClaim::of_pod(pod, resource)),
        }
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
        }
    }

    /// Whether it can change without anything else than pods leaving, or time.
    pub fn is_resolvable(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_resolvable(),
            Self::Unconfirmed => true,
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
        }
    }
}

#[cfg(test)]
mod tests;
