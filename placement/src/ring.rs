//! The order of a group's ranks: the ring whose weakest edge is best.

use crate::set::GpuSet;
use crate::shape::Facts;

/// Rings over up to this many GPUs are exact (one bit set for each of 2¹⁵ subsets); larger ones go
/// from each GPU to the best linked of the rest.
pub const EXACT_MAX: usize = 16;

/// An edge's worth: NVLink first, then ancestor, then the lanes of the lesser side.
type Edge = (u32, u8, u32);

/// Edges of one group, by position in the group.
struct Ring {
    /// Positions on the machine, ascending.
    members: Vec<usize>,
    edges: Vec<Edge>,
}

/// Positions of `set` in ring order from the lowest. Of equal rings the lexicographically first.
pub(crate) fn order(facts: &Facts, set: GpuSet) -> Vec<usize> {
    let ring = Ring::new(facts, set);
    let order = match ring.members.len() {
        0..=3 => (0..ring.members.len()).collect(),
        4..=EXACT_MAX => ring.exact(),
        _ => ring.nearest(),
    };
    order
        .into_iter()
        .map(|member| ring.members[member])
        .collect()
}

// === impl Ring ===

impl Ring {
    fn new(facts: &Facts, set: GpuSet) -> Self {
        let members: Vec<usize> = set.iter().collect();
        let edge = |a: usize, b: usize| -> Edge {
            let pair = facts.pair(a, b);
            let lanes = facts.gpus[a].pcie_lanes.min(facts.gpus[b].pcie_lanes);
            // NVLink carries the edge alone, whatever PCIe beside it is like.
            if pair.nvlink_mb > 0 {
                (pair.nvlink_mb, 0, 0)
            } else {
                (0, pair.ancestor_rank, lanes)
            }
        };
        let edges = members
            .iter()
            .flat_map(|&a| members.iter().map(move |&b| (a, b)));
        Self {
            edges: edges.map(|(a, b)| edge(a, b)).collect(),
            members,
        }
    }

    fn exact(&self) -> Vec<usize> {
        let mut weakest: Vec<Edge> = GpuSet::first(self.members.len())
            .pairs()
            .map(|(a, b)| self.edge(a, b))
            .collect();
        weakest.sort();
        weakest.dedup();
        // No ring is better than the second best edge of each GPU.
        let bound = (0..self.members.len())
            .map(|member| self.second_best(member))
            .min();
        weakest.retain(|edge| Some(*edge) <= bound);
        // The first to be tried is the bound itself, which wiring as it is built nearly always gives.
        if let Some(order) = weakest.last().and_then(|edge| self.through(*edge)) {
            return order;
        }
        let possible = weakest.partition_point(|edge| self.through(*edge).is_some());
        let best = possible
            .checked_sub(1)
            .and_then(|last| self.through(weakest[last]));
        best.expect("a ring of any edges at all exists in a complete graph")
    }

    /// The first ring whose edges are all at least `weakest`.
    fn through(&self, weakest: Edge) -> Option<Vec<usize>> {
        let count = self.members.len();
        let linked: Vec<u32> = (0..count)
            .map(|member| self.linked(member, weakest))
            .collect();
        let ends = ends(&linked);
        let mut left = (1_u32 << count) - 2;
        let mut order = vec![0];
        while left != 0 {
            let here = *order.last()?;
            // GPUs linked to this one from which the rest can be walked back to the first.
            let next = linked[here] & ends[(left >> 1) as usize];
            if next == 0 {
                return None;
            }
            order.push(next.trailing_zeros() as usize);
            left &= !(1 << next.trailing_zeros());
        }
        Some(order)
    }

    fn nearest(&self) -> Vec<usize> {
        let mut order = vec![0];
        let mut left = GpuSet::first(self.members.len()).without(0);
        while let Some(here) = order.last().copied().filter(|_| !left.is_empty()) {
            let lowest_first = |next: usize| (self.edge(here, next), usize::MAX - next);
            let next = left
                .iter()
                .max_by_key(|next| lowest_first(*next))
                .expect("not empty");
            left = left.without(next);
            order.push(next);
        }
        order
    }

    fn edge(&self, a: usize, b: usize) -> Edge {
        self.edges[a * self.members.len() + b]
    }

    fn second_best(&self, member: usize) -> Edge {
        let others = (0..self.members.len()).filter(|other| *other != member);
        let mut edges: Vec<Edge> = others.map(|other| self.edge(member, other)).collect();
        edges.sort();
        edges[edges.len() - 2]
    }

    fn linked(&self, member: usize, weakest: Edge) -> u32 {
        let others = (0..self.members.len()).filter(|other| *other != member);
        others
            .filter(|other| self.edge(member, *other) >= weakest)
            .fold(0, |bits, other| bits | 1 << other)
    }
}

/// For each set of members but the first (bit `n` is member `n + 1`): those of it from which a path
/// through the whole set ends beside the first (Bellman 1962, Held and Karp 1962).
fn ends(linked: &[u32]) -> Vec<u32> {
    let others = linked.len() - 1;
    let mut ends = vec![0_u32; 1 << others];
    for set in 1..ends.len() {
        let mut starts = 0;
        for other in (0..others).filter(|other| set & (1 << other) != 0) {
            let rest = set & !(1 << other);
            let reaches = if rest == 0 {
                linked[0] & (1 << (other + 1))
            } else {
                linked[other + 1] & ends[rest]
            };
            if reaches != 0 {
                starts |= 1 << (other + 1);
            }
        }
        ends[set] = starts;
    }
    ends
}
