//! One way to make room on a node: who leaves, and what the pod then has there.

use std::collections::HashSet;
use std::sync::Arc;

use berth_placement::{GpuSet, PodPlacement};
use berth_topology::ids::PodUid;

use super::{MOVED_PODS_MAX, Move, RESIDENTS_MAX};
use crate::node::NodeState;
use crate::pod::Holder;

/// Residents of one node whose leaving makes room.
pub(super) struct Way {
    pub state: Arc<NodeState>,
    /// Who has to move.
    pub leaving: Vec<Arc<Holder>>,
    /// Who is terminating, and has to be gone.
    pub ending: Vec<Arc<Holder>>,
    /// GPUs of those that move.
    pub gpu_count: usize,
    pub placement: PodPlacement,
}

/// Sets of positions below `count`, at most [`MOVED_PODS_MAX`] in each, none of them empty.
pub(super) fn subsets(count: usize) -> impl Iterator<Item = GpuSet> {
    let all = (1_u64 << count.min(RESIDENTS_MAX)) - 1;
    let sets = (1..=all).map(GpuSet::from_bits);
    sets.filter(|set| set.len() <= MOVED_PODS_MAX)
}

/// The node once these have left.
pub(super) fn without(state: &NodeState, leaving: &[Arc<Holder>]) -> Arc<NodeState> {
    let uids: HashSet<PodUid> = leaving.iter().map(|holder| holder.uid.clone()).collect();
    let mut left = state.clone();
    left.room = state.room_without(&uids);
    left.holders.retain(|holder| !uids.contains(&holder.uid));
    Arc::new(left)
}

/// The node once these GPUs are held too.
pub(super) fn less(state: &NodeState, gpus: GpuSet) -> Arc<NodeState> {
    let mut less = state.clone();
    less.room.free = less.room.free.difference(gpus);
    Arc::new(less)
}

pub(super) fn indices(placement: &PodPlacement) -> Vec<u32> {
    let ranks = placement.containers.values().flat_map(|one| &one.ranks);
    ranks.filter_map(|rank| Some(rank.index?.0)).collect()
}

// === impl Way ===

impl Way {
    /// Nobody has to leave.
    pub(super) fn as_it_is(state: &Arc<NodeState>, placement: PodPlacement) -> Self {
        Self::of(state, Vec::new(), Vec::new(), placement)
    }

    pub(super) fn of(
        state: &Arc<NodeState>,
        leaving: Vec<Arc<Holder>>,
        ending: Vec<Arc<Holder>>,
        placement: PodPlacement,
    ) -> Self {
        Self {
            gpu_count: leaving.iter().map(|holder| holder.gpu_count).sum(),
            state: state.clone(),
            leaving,
            ending,
            placement,
        }
    }

    pub(super) fn waits_for(&self) -> Vec<String> {
        self.ending
            .iter()
            .map(|holder| holder.full_name())
            .collect()
    }

    pub(super) fn move_of(
        &self,
        holder: &Holder,
        to: &NodeState,
        placement: &PodPlacement,
    ) -> Move {
        let machine = self.state.topology.as_ref().map(|known| &known.machine);
        let from = machine.map(|machine| {
            let set = holder.named_on(machine);
            set.iter().map(|at| machine.index(at).0).collect()
        });
        Move {
            pod: holder.full_name(),
            from: self.state.name.to_string(),
            from_gpus: from.unwrap_or_default(),
            to: to.name.to_string(),
            to_gpus: indices(placement),
            score: placement.score,
        }
    }
}
