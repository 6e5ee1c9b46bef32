//! Sets that the extender itself frees for pods: whom it evicts, and until when it keeps the room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use berth_topology::ids::PodUid;

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

    pub(crate) fn uids(&self) -> Vec<PodUid> {
        self.by_pod.keys().cloned().collect()
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
