//! Pods that were seen to be deleted: an agent's list that still names them is behind.

use std::collections::{HashSet, VecDeque};

use berth_topology::allocation::Allocation;
use berth_topology::ids::PodUid;

use crate::pod::Holder;

/// An agent publishes within seconds; a cluster does not delete so many GPU pods in that time.
const GONE_MAX: usize = 16_384;

/// The last [`GONE_MAX`] of them, by uid and by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gone {
    order: VecDeque<(PodUid, String)>,
    uids: HashSet<PodUid>,
    names: HashSet<String>,
}

// === impl Gone ===

impl Gone {
    pub(crate) fn insert(&mut self, holder: &Holder) {
        let name = full_name(&holder.namespace, &holder.name);
        if !self.uids.insert(holder.uid.clone()) {
            return;
        }
        self.names.insert(name.clone());
        self.order.push_back((holder.uid.clone(), name));
        if self.order.len() > GONE_MAX
            && let Some((uid, name)) = self.order.pop_front()
        {
            self.uids.remove(&uid);
            self.names.remove(&name);
        }
    }

    pub(crate) fn contains(&self, uid: &PodUid) -> bool {
        self.uids.contains(uid)
    }

    /// Whether that allocation is of a pod that is gone. A pod of the same name may live again: ask
    /// only for allocations that no living pod claims.
    pub(crate) fn released(&self, truth: &Allocation) -> bool {
        match &truth.pod_uid {
            Some(uid) => self.uids.contains(uid),
            None => self
                .names
                .contains(&full_name(&truth.namespace, &truth.name)),
        }
    }
}

fn full_name(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}
