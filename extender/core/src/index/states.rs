//! What each node looks like, worked out anew where something of it changed.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use berth_topology::allocation::Allocation;
use berth_topology::ids::PodUid;

use crate::group;
use crate::node::{Derived, Listed, NodeState, Room, listed};
use crate::pod::Holder;

use super::{Entry, Index};

impl Index {
    pub(super) fn refresh(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        self.generation += 1;
        let mut states = std::mem::take(&mut self.states);
        let map = Arc::make_mut(&mut states);
        for name in std::mem::take(&mut self.dirty) {
            if self.entries.get(&name).is_some_and(Entry::is_empty) {
                self.entries.remove(&name);
            }
            let state = self.state(&name);
            let before = map.get(&name).map(|state| &**state);
            group::update_members(&mut self.members, before, state.as_ref());
            let Some(mut state) = state else {
                map.remove(&name);
                continue;
            };
            state.derived.situation = self.situations.of(&state);
            map.insert(name, Arc::new(state));
        }
        self.states = states;
    }

    /// `None` while there is no such Node.
    fn state(&self, name: &Arc<str>) -> Option<NodeState> {
        let entry = self.entries.get(name)?;
        let is_ready = entry.is_ready?;
        let bound = entry
            .pods
            .iter()
            .filter_map(|uid| self.pods.get(uid))
            .map(|pod| pod.holder.clone());
        let unconfirmed = self.reservations.iter().filter(|one| one.node == **name);
        let holders: Vec<Arc<Holder>> = bound
            .chain(unconfirmed.map(|one| one.holder.clone()))
            .collect();
        let mut state = NodeState {
            name: name.clone(),
            is_ready,
            rack: entry.rack.clone(),
            topology: entry.topology.clone(),
            room: Room::default(),
            promises: Vec::new(),
            released: self.released(entry, &holders),
            allocatable: entry.allocatable,
            holders,
            version: self.generation,
            derived: Derived::default(),
        };
        state.room = state.room_without(&HashSet::new());
        state.promises = self.promises(entry, &state);
        Some(state)
    }

    /// Whom an agent still lists though the pod was seen deleted or finished.
    fn released(&self, entry: &Entry, holders: &[Arc<Holder>]) -> BTreeSet<Listed> {
        let known = entry.topology.iter();
        let all = known.flat_map(|known| known.allocations.iter().chain(&known.exclusive_cpus));
        let released = all.filter(|truth| !self.counts(truth, holders));
        released.map(listed).collect()
    }

    /// Whether what an agent lists is still held: not once its pod was seen deleted or finished.
    fn counts(&self, truth: &Allocation, holders: &[Arc<Holder>]) -> bool {
        if holders
            .iter()
            .any(|holder| crate::occupancy::is_of(truth, holder))
        {
            return true;
        }
        let is_finished = |uid: &PodUid| self.pods.get(uid).is_some_and(|pod| pod.is_finished);
        !self.gone.released(truth) && !truth.pod_uid.as_ref().is_some_and(is_finished)
    }
}
