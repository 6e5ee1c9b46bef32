//! Preempt, decided: of the pods on a node, the fewest and lowest whose leaving makes room for a set.
//!
//! kube-scheduler offers nodes with victims that its own filters need gone: a count of GPUs, not a set.
//! For each node that was offered, and no other, the victims are chosen again, and the node is kept
//! only if filter will accept it without them: a victim must not be lost for nothing.
//!
//! * **Who may be one**: pods that hold GPUs on that node and are of strictly lower priority. A pod of a
//!   scheduling group is none: its priority and policy are the group's, which the extender does not see.
//!   Pods without GPUs stay in the list if they were in it: other filters need them gone.
//! * **Which are best** ([`search`]): as kube-scheduler ranks nodes (`pickOneNodeForPreemption`): fewest
//!   violated budgets, lowest highest priority, least sum of priorities, fewest, latest started. Pods that
//!   are leaving anyway cost nothing.
//! * **What else must hold**: kube-scheduler's count of the node's GPUs, and what its other filters gained
//!   from the victims it offered: at least as much of each resource as those freed or the pod requests,
//!   and every one that may have been in the way by a host port or a rule about pods. Volumes are not
//!   looked at.
//!
//! Up to 1.37 kube-scheduler sends only nodes with victims, and takes an answer without any for an error.
//! From 1.38 on a node may come without: it stays so if the pod fits already, gets victims if some make it
//! fit, and is left out otherwise.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use berth_topology::ids::PodUid;
use serde::{Deserialize, Serialize};

use crate::budgets::Ledger;
use crate::decide::{self, Ask};
use crate::node::NodeState;
use crate::pod::{Holder, Terms};
use crate::snapshot::Snapshot;

pub mod search;
mod spared;
pub mod stranded;

use search::{Candidate, Cost, Pool};
pub use spared::Spared;

/// A node that kube-scheduler offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// Pods that its own filters need gone, the most important first.
    pub victims: Vec<PodUid>,
    /// Budgets that they violate, as it counts.
    pub violation_count: usize,
}

/// Who has to leave a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Eviction {
    /// The pods, the most important first.
    pub victims: Vec<PodUid>,
    /// Budgets that are violated.
    pub violation_count: usize,
}

/// What is said of every node that was offered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Those that will fit, each with the victims to evict.
    pub kept: BTreeMap<String, Eviction>,
    /// The others, which are left out.
    pub spared: BTreeMap<String, Spared>,
}

/// One node, one pod, and the pods that could leave for it.
struct Scene<'a> {
    snapshot: &'a Snapshot,
    ask: &'a Ask,
    node: &'a NodeState,
    offer: &'a Offer,
    /// The most important first.
    candidates: Vec<&'a Arc<Holder>>,
    ledger: Ledger,
    /// Offered, and none that holds GPUs here: they leave in any case.
    others: Vec<&'a PodUid>,
}

/// Which of the nodes offered will fit, and whom to evict from each.
#[must_use]
pub fn preempt(snapshot: &Snapshot, ask: &Ask, offers: &BTreeMap<String, Offer>) -> Answer {
    let mut answer = Answer::default();
    for (node, offer) in offers {
        match preempt_on(snapshot, ask, node, offer) {
            Ok(eviction) => answer.kept.insert(node.clone(), eviction).map(drop),
            Err(spared) => answer.spared.insert(node.clone(), spared).map(drop),
        };
    }
    answer
}

fn preempt_on(
    snapshot: &Snapshot,
    ask: &Ask,
    node: &str,
    offer: &Offer,
) -> Result<Eviction, Spared> {
    let as_offered = || Eviction {
        victims: offer.victims.clone(),
        violation_count: offer.violation_count,
    };
    if !ask.wants_gpus() {
        return Ok(as_offered());
    }
    // An earlier bind may still come true: nobody is evicted for it.
    if snapshot.unconfirmed(&ask.uid).is_some() {
        return Err(Spared::Unconfirmed);
    }
    if offer.victims.is_empty() && decide::judge(snapshot, ask, node).is_ok() {
        return Ok(as_offered());
    }
    if ask.terms.never_preempts {
        return Err(Spared::NeverPreempts);
    }
    let scene = Scene::new(snapshot, ask, node, offer)?;
    let chosen = scene.search().ok_or_else(|| scene.no_help())?;
    let eviction = scene.eviction(&chosen);
    // Up to 1.37 an answer without victims is an error: what came is kept, if it does.
    match eviction.victims.is_empty() {
        true if scene.accepts_as_offered() => Ok(as_offered()),
        true => Err(Spared::FitsAsItIs),
        false => Ok(eviction),
    }
}

/// Whom to evict from that node where kube-scheduler offers nothing, and what that costs.
pub(crate) fn propose<'a>(
    snapshot: &'a Snapshot,
    ask: &'a Ask,
    node: &str,
) -> Option<(Cost, Vec<&'a Arc<Holder>>)> {
    let offer = Offer::default();
    let scene = Scene::new(snapshot, ask, node, &offer).ok()?;
    let chosen = scene.search()?;
    let cost = scene.pool().cost(&chosen);
    let candidates = &scene.candidates;
    let victims = chosen.into_iter().map(|position| {
        let uid = &candidates[position].uid;
        // The snapshot's own, which outlives the scene.
        snapshot
            .node(node)?
            .holders
            .iter()
            .find(|one| one.uid == *uid)
    });
    Some((cost, victims.collect::<Option<_>>()?))
}

// === impl Scene ===

impl<'a> Scene<'a> {
    /// An error where nothing of the kind can be answered.
    fn new(
        snapshot: &'a Snapshot,
        ask: &'a Ask,
        name: &str,
        offer: &'a Offer,
    ) -> Result<Self, Spared> {
        let node = snapshot.node(name).ok_or(Spared::NoNode)?;
        let is_offered = |uid: &PodUid| offer.victims.contains(uid);
        let may_leave = |holder: &&Arc<Holder>| {
            let is_known = is_offered(&holder.uid)
                || (snapshot.unconfirmed(&holder.uid).is_none() && !holder.terms.is_grouped);
            is_known && holder.terms.priority < ask.terms.priority
        };
        let mut candidates: Vec<_> = node.holders.iter().filter(may_leave).collect();
        candidates.sort_by_key(|holder| importance(holder));
        let is_here = |uid: &PodUid| node.holders.iter().any(|holder| holder.uid == *uid);
        let is_candidate = |uid: &PodUid| candidates.iter().any(|holder| holder.uid == *uid);
        // Offered, but as we know it not below the pod: what we know is behind.
        if offer
            .victims
            .iter()
            .any(|uid| is_here(uid) && !is_candidate(uid))
        {
            return Err(Spared::NotBelow);
        }
        let ledger = snapshot
            .budgets
            .ledger(candidates.iter().map(|holder| &***holder));
        Ok(Self {
            snapshot,
            ask,
            node,
            offer,
            ledger,
            candidates,
            others: offer.victims.iter().filter(|uid| !is_here(uid)).collect(),
        })
    }

    /// The best victims, by position in the candidates.
    fn search(&self) -> Option<Vec<usize>> {
        self.pool().best(|chosen| self.accepts(chosen))
    }

    /// Why everybody's leaving does not help.
    fn no_help(&self) -> Spared {
        let candidates = self.candidates.iter().map(|holder| holder.uid.clone());
        let others = self.others.iter().map(|uid| (*uid).clone());
        let leaving = candidates.chain(others).collect();
        match decide::judge_without(self.snapshot, self.ask, &self.node.name, &leaving) {
            Err(no) => Spared::NoHelp(no),
            Ok(_) => Spared::NotEnoughByCount,
        }
    }

    fn pool(&self) -> Pool<'_> {
        let candidates = self.candidates.iter().map(|holder| Candidate {
            priority: holder.terms.priority,
            started_at_us: holder.terms.started_at_us,
            is_terminating: holder.terms.is_terminating,
            is_required: self.is_required(holder),
        });
        Pool {
            candidates: candidates.collect(),
            ledger: &self.ledger,
        }
    }

    /// Whether a filter that we do not see may need this one gone, whoever else leaves.
    fn is_required(&self, holder: &Holder) -> bool {
        let (victim, pod) = (&holder.terms, &self.ask.terms);
        let is_in_the_way = victim.is_grouped
            || victim.has_pod_rules
            || pod.has_pod_rules
            || (victim.has_host_ports && pod.has_host_ports);
        is_in_the_way && self.offer.victims.contains(&holder.uid)
    }

    fn accepts(&self, chosen: &[usize]) -> bool {
        let chosen_ones = || chosen.iter().map(|position| self.candidates[*position]);
        // Most sets are too small; that is seen without placing anything.
        let freed_count: usize = chosen_ones().map(|holder| holder.gpu_count).sum();
        if self.node.room.free.len() + freed_count < self.wanted() {
            return false;
        }
        let others = self.others.iter().map(|uid| (*uid).clone());
        let leaving = chosen_ones().map(|holder| holder.uid.clone());
        self.frees_enough(chosen) && self.fits_without(&leaving.chain(others).collect())
    }

    fn wanted(&self) -> usize {
        self.ask.claim().map_or(0, |claim| claim.gpu_count())
    }

    fn accepts_as_offered(&self) -> bool {
        self.fits_without(&self.offer.victims.iter().cloned().collect())
    }

    fn fits_without(&self, leaving: &HashSet<PodUid>) -> bool {
        let (uid, terms) = (&self.ask.uid, &self.ask.terms);
        let by_count = self.node.free_by_count(uid, terms.priority, leaving);
        by_count.is_none_or(|free_count| free_count >= self.wanted())
            && decide::judge_without(self.snapshot, self.ask, &self.node.name, leaving).is_ok()
    }

    /// Whether they free as much of every other resource as those offered, or as the pod requests.
    fn frees_enough(&self, chosen: &[usize]) -> bool {
        let offered = self.candidates.iter();
        let offered = offered.filter(|holder| self.offer.victims.contains(&holder.uid));
        let offered: Vec<&Terms> = offered.map(|holder| &*holder.terms).collect();
        let freed = |name: &str| -> u64 {
            let terms = chosen
                .iter()
                .map(|position| &self.candidates[*position].terms);
            terms.map(|terms| terms.request(name)).sum()
        };
        let mut wanted = self.ask.terms.requests.iter();
        wanted.all(|(name, requested)| {
            let gained: u64 = offered.iter().map(|terms| terms.request(name)).sum();
            freed(name) >= gained.min(*requested)
        })
    }

    fn eviction(&self, chosen: &[usize]) -> Eviction {
        Eviction {
            victims: self.in_order(chosen),
            violation_count: self.ledger.violating(chosen.iter().copied()).len()
                + self.others_violation_count(),
        }
    }

    /// Budgets that the offered pods without GPUs violate: what is left of kube-scheduler's count when
    /// those of the others are taken off. Their labels are not sent.
    fn others_violation_count(&self) -> usize {
        let is_offered =
            |position: &usize| self.offer.victims.contains(&self.candidates[*position].uid);
        let offered = (0..self.candidates.len()).filter(is_offered);
        let of_ours = match self.snapshot.budgets.is_synced() {
            true => self.ledger.violating(offered).len(),
            false => 0,
        };
        let left = self.offer.violation_count.saturating_sub(of_ours);
        left.min(self.others.len())
    }

    /// The chosen and the pods without GPUs, the most important first, as kube-scheduler's ranking of
    /// nodes expects it. A pod whose priority we do not see stands where it was offered: below the one
    /// before it.
    fn in_order(&self, chosen: &[usize]) -> Vec<PodUid> {
        let mut above = i32::MAX;
        let mut placed: Vec<(Reverse<i32>, bool, PodUid)> = Vec::new();
        for uid in &self.offer.victims {
            match self.candidates.iter().find(|holder| holder.uid == *uid) {
                Some(holder) => above = holder.terms.priority,
                None => placed.push((Reverse(above), true, uid.clone())),
            }
        }
        let chosen = chosen.iter().map(|position| self.candidates[*position]);
        placed.extend(
            chosen.map(|holder| (Reverse(holder.terms.priority), false, holder.uid.clone())),
        );
        placed.sort_by_key(|(priority, is_unseen, _)| (*priority, *is_unseen));
        placed.into_iter().map(|(_, _, uid)| uid).collect()
    }
}

/// Ascending for falling importance (`MoreImportantVictim`): higher priority, then started earlier; then
/// by uid, so that every replica says the same.
fn importance(holder: &Holder) -> (Reverse<i32>, i64, PodUid) {
    let terms = &holder.terms;
    let started_at_us = terms.started_at_us.unwrap_or(i64::MAX);
    (Reverse(terms.priority), started_at_us, holder.uid.clone())
}

#[cfg(test)]
mod tests;
