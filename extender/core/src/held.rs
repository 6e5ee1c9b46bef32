//! Sets that the extender itself frees for pods: whom it evicts, and until when it keeps the room.
//!
//! Before the first is evicted the pod is told (`note`), so that whoever leads next keeps the room too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use berth_topology::ids::PodUid;

mod note;

pub use note::Note;

/// One pod's room on one node.
#[derive(Clone, Debug)]
pub struct Hold {
    /// The node.
    pub node: Arc<str>,
    /// Who is evicted.
    pub victims: Arc<BTreeSet<PodUid>>,
    /// When it is given up, if the pod has not been bound.
    pub until: Instant,
}

/// All of them, by the pod that waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    by_pod: BTreeMap<PodUid, Hold>,
    /// What pods say, so that each note is taken up once: one that is over is not kept again.
    noted: BTreeMap<PodUid, Note>,
    /// Of those, what was not taken up yet.
    fresh: BTreeSet<PodUid>,
}

// === impl Held ===

impl Held {
    pub(crate) fn insert(&mut self, uid: PodUid, hold: Hold) {
        self.by_pod.insert(uid, hold);
    }

    pub(crate) fn remove(&mut self, uid: &PodUid) -> Option<Hold> {
        self.by_pod.remove(uid)
    }

    pub(crate) fn get(&self, uid: &PodUid) -> Option<&Hold> {
        self.by_pod.get(uid)
    }

    /// A pod says that, or nothing. Whether it said something before that is over.
    pub(crate) fn note(&mut self, uid: &PodUid, note: Option<&Note>) -> bool {
        let Some(note) = note else {
            self.fresh.remove(uid);
            return self.noted.remove(uid).is_some();
        };
        if self.noted.get(uid) != Some(note) {
            self.noted.insert(uid.clone(), note.clone());
            if !self.by_pod.get(uid).is_some_and(|hold| note.is_of(hold)) {
                self.fresh.insert(uid.clone());
            }
        }
        false
    }

    /// What is to be kept because pods say so, from now on.
    pub(crate) fn take_up(&mut self, now: Instant) -> Vec<(PodUid, Hold)> {
        let fresh = std::mem::take(&mut self.fresh).into_iter();
        fresh
            .filter_map(|uid| {
                let hold = self.noted.get(&uid)?.hold(now);
                Some((uid, hold))
            })
            .collect()
    }

    /// Those of which no pod says anything.
    pub(crate) fn unsaid(&self) -> Vec<PodUid> {
        let all = self.by_pod.keys();
        all.filter(|uid| !self.noted.contains_key(*uid))
            .cloned()
            .collect()
    }

    pub(crate) fn on(&self, node: &str) -> impl Iterator<Item = (&PodUid, &Hold)> {
        let held = self.by_pod.iter();
        held.filter(move |(_, hold)| *hold.node == *node)
    }

    pub(crate) fn expired(&self, now: Instant) -> Vec<PodUid> {
        let over = self.by_pod.iter().filter(|(_, hold)| hold.until <= now);
        over.map(|(uid, _)| uid.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
