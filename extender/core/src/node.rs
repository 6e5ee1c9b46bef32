//! One node as a scheduling request sees it: unchanged for the request's whole life.

use std::collections::HashSet;
use std::sync::Arc;

use berth_placement::{GpuSet, Machine};
use berth_topology::allocation::Allocation;
use berth_topology::ids::PodUid;

use crate::group::Clique;
use crate::occupancy::{self, Occupancy};
use crate::pod::Holder;

/// One node.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// Its name.
    pub name: Arc<str>,
    /// Condition Ready of the Node.
    pub is_ready: bool,
    /// Its rack, where a label says so.
    pub rack: Option<Arc<str>>,
    /// What its agent published; absent without an agent.
    pub topology: Option<Arc<Topology>>,
    /// Pods that hold GPUs here, those of unconfirmed binds included.
    pub holders: Vec<Arc<Holder>>,
    /// What is free now.
    pub room: Room,
    /// The index's generation when this was made.
    pub version: u64,
}

/// What an agent published, ready to be placed on.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Its wiring.
    pub machine: Machine,
    /// A DRA driver hands out our resource here.
    pub is_dra_managed: bool,
    /// The NVLink fabric clique that its GPUs are members of.
    pub clique: Option<Clique>,
    /// As the agent published it: an assignment names what it was decided on.
    pub hash: String,
    /// What the kubelet gave out of our resource.
    pub allocations: Vec<Allocation>,
}

/// What can be given away on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// GPUs that nobody is known to hold; broken ones are among them.
    pub free: GpuSet,
    /// So many of them are held after all, nobody knows which.
    pub unknown_count: usize,
}

// === impl NodeState ===

impl NodeState {
    /// What would be free if pods got the GPUs that were promised to them.
    #[must_use]
    pub fn room_less(&self, promised: GpuSet) -> Room {
        Room {
            free: self.room.free.difference(promised),
            ..self.room
        }
    }

    /// What would be free if the pods `leaving` were gone.
    pub fn room_without(&self, leaving: &HashSet<PodUid>) -> Room {
        let Some(topology) = &self.topology else {
            return Room::default();
        };
        let (left, stay): (Vec<_>, Vec<_>) = self
            .holders
            .iter()
            .cloned()
            .partition(|holder| leaving.contains(&holder.uid));
        topology.room(&stay, |truth| {
            !left.iter().any(|holder| occupancy::is_of(truth, holder))
        })
    }
}

// === impl Topology ===

impl Topology {
    /// What is free when `holders` hold what they do. `counts` tells which allocations are still true.
    pub fn room(&self, holders: &[Arc<Holder>], counts: impl Fn(&Allocation) -> bool) -> Room {
        let truths: Vec<&Allocation> = self
            .allocations
            .iter()
            .filter(|truth| counts(truth))
            .collect();
        let Occupancy {
            held,
            unknown_count,
        } = occupancy::occupancy(holders, &truths);
        Room {
            free: self.machine.all().difference(self.machine.set_of(&held)),
            unknown_count,
        }
    }
}
