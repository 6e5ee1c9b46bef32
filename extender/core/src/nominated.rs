//! Sets that were freed for pods which are not bound yet, so that nobody else is given them.
//!
//! A nominee is a pod with `status.nominatedNodeName`, or one for which the extender itself evicts
//! (`preempt::stranded`). kube-scheduler keeps the *number* of its GPUs free, for pods of its priority
//! and below; here the *set* is kept. It is worked out anew whenever the node changes, in order of
//! priority: what is best of the free GPUs, or where those will not do, of what is free once the
//! victims are gone. A terminating pod of lower priority is a victim.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_placement::{GpuSet, fit_pod};
use berth_topology::claim::PodClaim;
use berth_topology::ids::PodUid;
use serde::{Deserialize, Serialize};

use crate::node::{Room, Topology, bits};
use crate::pod::Holder;
use crate::record::shared;

/// A pod that waits on a node for its victims to leave.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nominee {
    /// The pod.
    pub uid: PodUid,
    /// Its priority: pods of higher priority do not yield to it.
    pub priority: i32,
    /// What it asks; absent where that cannot be read.
    pub claim: Option<PodClaim>,
    /// GPUs that it asks for.
    pub gpu_count: usize,
    /// Whom the extender evicts for it; empty where kube-scheduler does.
    #[serde(with = "shared")]
    pub victims: Arc<BTreeSet<PodUid>>,
}

/// A nominee, and what is kept for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Promise {
    /// The pod.
    #[serde(with = "shared")]
    pub nominee: Arc<Nominee>,
    /// Its set; empty while none would do.
    #[serde(with = "bits")]
    pub gpus: GpuSet,
}

// === impl Nominee ===

impl Nominee {
    /// Whether a pod of that priority has to leave this one its set.
    #[must_use]
    pub fn comes_before(&self, uid: &PodUid, priority: i32) -> bool {
        self.uid != *uid && self.priority >= priority
    }

    fn evicts(&self, holder: &Holder) -> bool {
        let is_leaving = holder.terms.is_terminating && holder.terms.priority < self.priority;
        is_leaving || self.victims.contains(&holder.uid)
    }
}

/// What is kept for each of `nominees` on one node. `room_without` tells what is free once the holders
/// that it is asked about are gone.
pub(crate) fn promises(
    mut nominees: Vec<Arc<Nominee>>,
    topology: &Topology,
    room_without: impl Fn(&dyn Fn(&Holder) -> bool) -> Room,
) -> Vec<Promise> {
    nominees.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.uid.cmp(&b.uid)));
    let mut kept = GpuSet::EMPTY;
    let mut promise = |nominee: Arc<Nominee>| {
        let gpus = set_for(&nominee, topology, kept, &room_without);
        kept = kept.union(gpus);
        Promise { nominee, gpus }
    };
    nominees.into_iter().map(&mut promise).collect()
}

fn set_for(
    nominee: &Nominee,
    topology: &Topology,
    kept: GpuSet,
    room_without: impl Fn(&dyn Fn(&Holder) -> bool) -> Room,
) -> GpuSet {
    let Some(claim) = &nominee.claim else {
        return GpuSet::EMPTY;
    };
    let fit = |room: Room| {
        let room = room.less(kept);
        let fit = fit_pod(&topology.machine, topology.free(&room), claim).ok()?;
        room.has_count(topology, claim.gpu_count())
            .then_some(fit.gpus)
    };
    let now = room_without(&|_| false);
    fit(now)
        .or_else(|| fit(room_without(&|holder| nominee.evicts(holder))))
        .unwrap_or(GpuSet::EMPTY)
}

#[cfg(test)]
mod tests;
