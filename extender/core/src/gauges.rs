//! What can be read off the index at any moment, for metrics.

use std::time::{Duration, Instant};

use crate::index::{Index, Kind, Sizes};
use crate::occupancy;

/// Every kind that is watched, with its name in metrics.
pub const KINDS: [(Kind, &str); 4] = [
    (Kind::Nodes, "nodes"),
    (Kind::Topologies, "topologies"),
    (Kind::Pods, "pods"),
    (Kind::Leases, "leases"),
];

/// The index at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// How much it holds.
    pub sizes: Sizes,
    /// Nodes with a topology whose agent is silent.
    pub stale_nodes: usize,
    /// Containers whose GPUs the kubelet gave otherwise than they were assigned.
    pub mismatches: usize,
    /// How old what is known of each kind may be.
    pub ages: Vec<(&'static str, Duration)>,
}

// === impl Gauges ===

impl Gauges {
    /// Reads them all. Walks every node: for scrapes, not for requests.
    #[must_use]
    pub fn read(index: &mut Index, now: Instant) -> Self {
        let snapshot = index.snapshot(now);
        let mut gauges = Self {
            sizes: index.sizes(),
            ages: KINDS
                .map(|(kind, name)| (name, index.age(kind, now)))
                .into(),
            ..Self::default()
        };
        for node in snapshot.nodes() {
            let Some(topology) = &node.topology else {
                continue;
            };
            gauges.stale_nodes += usize::from(snapshot.is_stale(&node.name));
            let truths: Vec<_> = topology.allocations.iter().collect();
            gauges.mismatches += occupancy::mismatch_count(&node.holders, &truths);
        }
        gauges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::*;

    #[test]
    fn a_container_that_got_other_gpus_than_it_was_assigned_is_counted_once() {
        let mut index = cluster(&["a"]);
        index.apply_pod(&bound(pod("p", 2), "a", &[0, 1]));
        index.apply_pod(&bound(pod("q", 2), "a", &[2, 3]));
        index.apply_pod(&bound_by_other(pod("r", 1), "a"));
        let mut told = topology("a");
        let given = [
            allocation("p", "a", &[1, 0]),
            allocation("q", "a", &[2, 5]),
            allocation("r", "a", &[7]),
        ];
        told.status.as_mut().unwrap().allocations = given.into();
        index.apply_topology(&told);
        assert_eq!(Gauges::read(&mut index, Instant::now()).mismatches, 1);
    }

    #[test]
    fn a_silent_agent_and_a_broken_watch_are_seen() {
        let start = Instant::now();
        let mut index = cluster(&["a", "b"]);
        let gauges = Gauges::read(&mut index, start);
        assert_eq!(
            (gauges.stale_nodes, gauges.ages[2]),
            (0, ("pods", Duration::ZERO))
        );
        index.lost(Kind::Pods, start);
        index.lost(Kind::Pods, start + Duration::from_secs(3));
        let later = start + Duration::from_secs(70);
        index.apply_lease(&renewed("b", 2), later);
        let gauges = Gauges::read(&mut index, later);
        assert_eq!(gauges.stale_nodes, 1);
        assert_eq!(gauges.ages[2], ("pods", Duration::from_secs(70)));
        index.reset_pods(Vec::new());
        assert_eq!(index.age(Kind::Pods, later), Duration::ZERO);
    }
}
