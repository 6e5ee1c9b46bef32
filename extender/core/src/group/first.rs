//! Where the first pod of a group goes: where the others will find room beside it.
//!
//! All pods of a group may be scored before any of them is placed (a gang cycle asks for each in
//! turn and binds afterwards), so equal pods have to come to the same answer by themselves.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use super::{Clique, Fabric, Group};
use crate::decide::Ask;
use crate::node::NodeState;
use crate::score::{GROUP_FABRIC, GROUP_RACK, GROUP_ROOMY, GROUP_TOGETHER};
use crate::snapshot::Snapshot;

/// Room for a group in the fabrics and racks of the nodes that are asked about, in GPUs.
#[derive(Clone, Debug)]
pub(super) struct First<'a> {
    snapshot: &'a Snapshot,
    ask: &'a Ask,
    /// What each of its pods asks for.
    size: usize,
    /// What its pods ask for together.
    wanted: usize,
    cliques: HashMap<&'a Clique, usize>,
    racks: HashMap<&'a str, usize>,
    favourite: Favourite<'a>,
}

/// Where pods of the group meet, of places that are as good.
#[derive(Clone, Debug)]
enum Favourite<'a> {
    /// The smallest fabric that has room for all.
    Fabric(Fabric<'a>),
    /// No fabric has, but this rack, the smallest.
    Rack(&'a str),
    /// Nobody else of the group is known yet: fabrics that have this much room.
    Roomy(usize),
}

/// Of places of one kind, each with its room; of equal ones the lowest.
#[derive(Clone, Copy, Debug)]
struct Places<P> {
    /// The smallest that has room for the whole group.
    smallest: Option<(usize, P)>,
    largest: Option<(Reverse<usize>, P)>,
}

// === impl First ===

impl<'a> First<'a> {
    pub(super) fn of(
        snapshot: &'a Snapshot,
        ask: &'a Ask,
        group: &Group,
        candidates: impl Iterator<Item = &'a Arc<NodeState>>,
    ) -> Self {
        let size = ask.claim().map_or(0, |claim| claim.gpu_count());
        let mut first = Self {
            snapshot,
            ask,
            size,
            wanted: snapshot.awaited.gpu_count(group).max(size),
            cliques: HashMap::new(),
            racks: HashMap::new(),
            favourite: Favourite::Roomy(0),
        };
        for node in snapshot.nodes() {
            first.add(node);
        }
        first.favourite = first.favourite(candidates);
        first
    }

    fn favourite(&self, candidates: impl Iterator<Item = &'a Arc<NodeState>>) -> Favourite<'a> {
        let (mut fabrics, mut racks) = (Places::new(), Places::new());
        for node in candidates {
            let fabric = Fabric::of(node);
            fabrics.see(fabric, self.in_fabric(fabric, node), self.wanted);
            if let Some(rack) = node.rack.as_deref() {
                racks.see(rack, self.in_rack(rack), self.wanted);
            }
        }
        let (most, largest) = match fabrics.largest {
            Some((Reverse(most), fabric)) => (most, Some(fabric)),
            None => (0, None),
        };
        match (fabrics.smallest, racks.smallest, largest) {
            _ if self.wanted == self.size => Favourite::Roomy(most),
            (Some((_, fabric)), _, _) => Favourite::Fabric(fabric),
            (None, Some((_, rack)), _) => Favourite::Rack(rack),
            (None, None, Some(fabric)) => Favourite::Fabric(fabric),
            (None, None, None) => Favourite::Roomy(most),
        }
    }

    fn add(&mut self, node: &'a NodeState) {
        let (fabric, rack) = (Fabric::of(node), node.rack.as_deref());
        if matches!(fabric, Fabric::Node(_)) && rack.is_none() {
            return;
        }
        let room = self.room(node);
        if let Fabric::Clique(clique) = fabric {
            *self.cliques.entry(clique).or_default() += room;
        }
        if let Some(rack) = rack {
            *self.racks.entry(rack).or_default() += room;
        }
    }

    /// What the group gives that node: as much as there is room for it.
    pub(super) fn on(&self, node: &'a NodeState) -> u32 {
        let share = |weight: u32, room: usize| {
            let part = u64::from(weight) * room.min(self.wanted) as u64;
            let part = part.checked_div(self.wanted as u64).unwrap_or(0);
            u32::try_from(part).unwrap_or(weight)
        };
        let (fabric, rack) = (Fabric::of(node), node.rack.as_deref());
        let in_fabric = self.in_fabric(fabric, node);
        let in_rack = rack.map_or(0, |rack| self.in_rack(rack));
        let extra = match &self.favourite {
            Favourite::Fabric(best) if *best == fabric => GROUP_TOGETHER,
            Favourite::Rack(best) if rack == Some(*best) => GROUP_TOGETHER,
            Favourite::Roomy(most) if in_fabric == *most => GROUP_ROOMY,
            _ => 0,
        };
        share(GROUP_FABRIC - GROUP_TOGETHER, in_fabric) + share(GROUP_RACK, in_rack) + extra
    }

    fn in_fabric(&self, fabric: Fabric<'_>, node: &NodeState) -> usize {
        match fabric {
            Fabric::Clique(clique) => self.cliques.get(clique).copied().unwrap_or(0),
            Fabric::Node(_) => self.room(node),
        }
    }

    fn in_rack(&self, rack: &str) -> usize {
        self.racks.get(rack).copied().unwrap_or(0)
    }

    /// GPUs that pods of that size could have on a node: what is left of a pod is no room.
    fn room(&self, node: &NodeState) -> usize {
        let usable = node.topology.as_ref().filter(|topology| {
            let is_open = !topology.is_dra_managed && !self.snapshot.is_stale(&node.name);
            is_open && self.size > 0
        });
        let Some(topology) = usable else { return 0 };
        let room = node.room_for(&self.ask.uid, self.ask.terms.priority);
        let free_count = room.free.intersection(topology.machine.usable()).len();
        let free_count = free_count.saturating_sub(room.unknown_count);
        free_count - free_count % self.size
    }
}

// === impl Places ===

impl<P: Copy + Ord> Places<P> {
    fn new() -> Self {
        Self {
            smallest: None,
            largest: None,
        }
    }

    fn see(&mut self, place: P, room: usize, wanted: usize) {
        let smaller = (room, place);
        if room >= wanted && self.smallest.is_none_or(|smallest| smaller < smallest) {
            self.smallest = Some(smaller);
        }
        let larger = (Reverse(room), place);
        if self.largest.is_none_or(|largest| larger < largest) {
            self.largest = Some(larger);
        }
    }
}
