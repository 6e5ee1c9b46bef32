//! Pods that were refused everywhere, and which node to poke for one of them.
//!
//! kube-scheduler tries a refused pod again only when an object that it watches changes. Where our
//! own snapshot shows that a pod which was refused would now fit, one annotation on one node is that
//! change; a node is poked at most once a second. A poked pod is forgotten: if it is refused again,
//! filter remembers it anew.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_topology::ids::PodUid;

use crate::decide::{self, Ask};
use crate::index::Index;
use crate::snapshot::Snapshot;

/// Pods remembered; a few hundred bytes each.
const WAITING_MAX: usize = 4_096;
/// A node is not poked more often.
const NODE_INTERVAL: Duration = Duration::from_secs(1);
/// A refused pod that the watch has not shown for so long does not exist.
const UNSEEN_MAX: Duration = Duration::from_secs(30);

/// Pods that filter found no node for.
#[derive(Debug, Default)]
pub struct Waiting {
    /// By uid, so that the same history pokes the same node.
    pods: BTreeMap<PodUid, Refused>,
    poked: HashMap<Arc<str>, Instant>,
}

#[derive(Debug)]
struct Refused {
    ask: Ask,
    /// The index's generation at which it fitted nowhere; 0 where that is not known of every node.
    generation: u64,
    since: Instant,
}

/// One node to annotate, for one pod's sake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poke {
    /// The node.
    pub node: Arc<str>,
    /// The pod that would fit there.
    pub uid: PodUid,
}

// === impl Waiting ===

impl Waiting {
    /// Filter found no node for the pod on that snapshot.
    pub fn refused(&mut self, ask: &Ask, snapshot: &Snapshot, now: Instant) {
        // While an earlier bind of the pod may come true, the nodes were not even looked at.
        let is_looked_at = snapshot.unconfirmed(&ask.uid).is_none();
        let generation = if is_looked_at { snapshot.generation } else { 0 };
        self.remember(ask, generation, now);
    }

    /// Filter found no node for the pod before its answer was due: any may fit, changed or not.
    pub fn refused_early(&mut self, ask: &Ask, now: Instant) {
        self.remember(ask, 0, now);
    }

    /// Filter found nodes for the pod.
    pub fn accepted(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
    }

    /// The next node to poke. Nodes that have not changed since the refusal are not looked at.
    pub fn due(&mut self, snapshot: &Snapshot, now: Instant) -> Option<Poke> {
        self.poked
            .retain(|_, at| now.saturating_duration_since(*at) < NODE_INTERVAL);
        let mut due = None;
        for (uid, refused) in &mut self.pods {
            if snapshot.unconfirmed(uid).is_some() {
                continue;
            }
            let changed = snapshot
                .nodes()
                .filter(|node| node.version > refused.generation);
            let mut fitting: Vec<_> = changed
                .filter(|node| decide::judge(snapshot, &refused.ask, &node.name).is_ok())
                .collect();
            fitting.sort_by(|one, other| one.name.cmp(&other.name));
            if fitting.is_empty() {
                refused.generation = snapshot.generation;
                continue;
            }
            let free = fitting
                .iter()
                .find(|node| !self.poked.contains_key(&node.name));
            due = due.or_else(|| {
                free.map(|node| Poke {
                    node: node.name.clone(),
                    uid: uid.clone(),
                })
            });
        }
        if let Some(poke) = &due {
            self.poked.insert(poke.node.clone(), now);
        }
        due
    }

    /// The node was annotated.
    pub fn done(&mut self, poke: &Poke) {
        self.pods.remove(&poke.uid);
    }

    /// Forgets pods that are bound or gone.
    pub fn prune(&mut self, index: &Index, now: Instant) {
        self.pods.retain(|uid, refused| match index.pod(uid) {
            Some(record) => record.node.is_none() && !record.is_finished,
            None => {
                !index.is_gone(uid) && now.saturating_duration_since(refused.since) < UNSEEN_MAX
            }
        });
    }

    /// Forgets everybody: a replica that does not lead has refused nobody.
    pub fn clear(&mut self) {
        self.pods.clear();
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    fn remember(&mut self, ask: &Ask, generation: u64, now: Instant) {
        if self.pods.len() >= WAITING_MAX && !self.pods.contains_key(&ask.uid) {
            self.drop_oldest();
        }
        let refused = Refused {
            ask: ask.clone(),
            generation,
            since: now,
        };
        self.pods.insert(ask.uid.clone(), refused);
    }

    fn drop_oldest(&mut self) {
        let oldest = self
            .pods
            .iter()
            .min_by_key(|(_, refused)| refused.since)
            .map(|(uid, _)| uid.clone());
        if let Some(uid) = oldest {
            self.pods.remove(&uid);
        }
    }
}

#[cfg(test)]
mod tests;
