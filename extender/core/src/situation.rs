//! What one node looks like to every pod: its kind of machine and what is free there.
//!
//! Fleets repeat machines, and most of what is free repeats too: thousands of nodes are some dozens of
//! situations. They are told apart once, when a node changes, so that a request need not look at what
//! each node's agent published: that is scattered over megabytes of memory.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use berth_placement::{Inexact, MachineKind};

use crate::interned::Interned;
use crate::node::{NodeState, Room, Topology};
use crate::standings::Standings;

/// Situations known before those that no node is in any more are looked for.
const SWEEP_AT_MIN: usize = 1_024;

/// All that placing a claim on a node depends on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Look<'a> {
    machine: MachineKind<'a>,
    plugin_doubt: Option<Inexact>,
    is_dra_managed: bool,
    room: Room,
    counts_cpus: bool,
}

/// The same, shared by the nodes that are in it.
#[derive(Debug)]
pub struct Situation {
    /// That of one of them.
    pub(crate) topology: Arc<Topology>,
    pub(crate) room: Room,
    /// How claims stand there; no part of what it is.
    pub(crate) standings: Standings,
}

/// Every situation that some node is in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Situations(Interned<Situation, SWEEP_AT_MIN>);

// === impl Look ===

impl<'a> Look<'a> {
    pub(crate) fn of(topology: &'a Topology, room: Room) -> Self {
        Self {
            machine: topology.machine.kind(),
            plugin_doubt: topology.plugin_doubt,
            is_dra_managed: topology.is_dra_managed,
            room,
            counts_cpus: topology.machine.counts_cpus(),
        }
    }
}

impl Hash for Look<'_> {
    /// The CPUs that are held are long, and empty where nobody counts them.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.machine.hash(state);
        self.plugin_doubt.hash(state);
        self.room.free.hash(state);
        self.room.unknown_count.hash(state);
        if self.counts_cpus {
            self.room.cpus.hash(state);
        }
    }
}

// === impl Situation ===

impl Situation {
    fn look(&self) -> Look<'_> {
        Look::of(&self.topology, self.room)
    }
}

impl PartialEq for Situation {
    fn eq(&self, other: &Self) -> bool {
        self.look() == other.look()
    }
}

impl Eq for Situation {}

impl Hash for Situation {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.look().hash(state);
    }
}

// === impl Situations ===

impl Situations {
    /// That of a node, if its agent has said anything.
    pub(crate) fn of(&mut self, node: &NodeState) -> Option<Arc<Situation>> {
        let situation = Situation {
            topology: node.topology.clone()?,
            room: node.room,
            standings: Standings::default(),
        };
        Some(self.0.intern(Arc::new(situation)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{bound, cluster, pod, snapshot};

    #[test]
    fn nodes_that_are_wired_and_used_alike_are_in_one_situation_until_one_of_them_changes() {
        let mut index = cluster(&["a", "b"]);
        let is_same = |index: &mut crate::index::Index| {
            let seen = snapshot(index);
            let of = |name| {
                seen.node(name)
                    .and_then(|node| node.derived.situation.clone())
            };
            Arc::ptr_eq(&of("a").unwrap(), &of("b").unwrap())
        };
        assert!(is_same(&mut index));
        index.apply_pod(&bound(pod("p", 1), "a", &[3]));
        assert!(!is_same(&mut index));
        index.apply_pod(&bound(pod("q", 1), "b", &[3]));
        assert!(is_same(&mut index));
    }

    #[test]
    fn situations_that_no_node_is_in_are_dropped() {
        let mut index = cluster(&["a"]);
        let seen = snapshot(&mut index);
        let node = seen.node("a").unwrap();
        let mut situations = Situations::default();
        for count in 0..4 * SWEEP_AT_MIN {
            let mut node = NodeState::clone(node);
            node.room.unknown_count = count;
            situations.of(&node);
        }
        assert!(situations.0.len() <= SWEEP_AT_MIN + 1);
    }
}
