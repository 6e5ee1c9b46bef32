//! One node as a scheduling request sees it: unchanged for the request's whole life.

use std::collections::HashSet;
use std::sync::Arc;

use berth_placement::{GpuSet, Machine, Shapes};
use berth_topology::allocation::Allocation;
use berth_topology::ids::PodUid;
use berth_topology::node::Status;
use serde::{Deserialize, Serialize};

use crate::group::Clique;
use crate::occupancy::{self, Occupancy};
use crate::pod::Holder;
use crate::record::shared;
use crate::record::wiring::{Wiring, Wirings};

/// One node. What is added here is written into snapshots, so that decisions can be made again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its name.
    #[serde(with = "shared")]
    pub name: Arc<str>,
    /// Condition Ready of the Node.
    pub is_ready: bool,
    /// Its rack, where a label says so.
    #[serde(with = "shared::maybe")]
    pub rack: Option<Arc<str>>,
    /// What its agent published; absent without an agent.
    #[serde(skip)]
    pub topology: Option<Arc<Topology>>,
    /// Pods that hold GPUs here, those of unconfirmed binds included.
    #[serde(with = "shared::each")]
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
    /// What the agent published of the hardware, for records.
    pub wiring: Wiring,
}

/// What machines of equal hardware share.
#[derive(Clone, Debug, Default)]
pub struct Hardware {
    shapes: Shapes,
    wirings: Wirings,
}

/// What can be given away on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Room {
    /// GPUs that nobody is known to hold; broken ones are among them.
    #[serde(with = "bits")]
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
    /// Reads what an agent published, as far as `resource` is concerned.
    pub fn read(status: &Status, resource: &str, hardware: &mut Hardware) -> Self {
        let machine = hardware.shapes.machine(status);
        let ours = status
            .allocations
            .iter()
            .filter(|truth| truth.resource == resource);
        Self {
            is_dra_managed: machine.is_dra_managed(resource),
            clique: Clique::of_node(status),
            machine,
            hash: status.hash.clone(),
            allocations: ours.cloned().collect(),
            wiring: hardware.wirings.intern(status),
        }
    }

    /// The status again, as far as it was kept.
    ///
    /// # Errors
    /// When what was kept is no status.
    pub fn status(&self) -> Result<Status, serde_json::Error> {
        Ok(Status {
            hash: self.hash.clone(),
            allocations: self.allocations.clone(),
            ..self.wiring.status()?
        })
    }

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

/// A set as the number whose bits are its positions.
mod bits {
    use berth_placement::GpuSet;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(set: &GpuSet, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(set.bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<GpuSet, D::Error> {
        u64::deserialize(from).map(GpuSet::from_bits)
    }
}
