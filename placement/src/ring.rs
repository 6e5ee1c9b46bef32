//! The order of a group's ranks: the ring whose weakest edge is best.
//!
//! Edges are compared by their *level*: the place of their worth among all edges of the machine.

use std::sync::OnceLock;

use crate::facts::Facts;
use crate::set::GpuSet;

/// Rings over up to this many GPUs are exact (one bit set for each of 2¹⁵ subsets); larger ones go
/// from each GPU to the best linked of the rest.
pub const EXACT_MAX: usize = 16;

/// On machines of more GPUs than that, sets of up to this many are compared by exact rings.
pub const EXACT_OF_MANY_MAX: usize = 8;

/// An edge's worth: NVLink first, then ancestor, then the lanes of the lesser side. NVLink carries
/// the edge alone, whatever PCIe beside it is like.
pub(crate) type Edge = (u32, u8, u32);

/// Place of an edge's worth among all of the machine; a greater one is better.
pub(crate) type Level = usize;

/// Every edge of a machine.
#[derive(Debug)]
pub(crate) struct Edges {
    count: usize,
    /// Distinct worths, ascending.
    worths: Vec<Edge>,
    /// Row-major, one for each two positions.
    levels: Vec<u16>,
    /// The weakest edge of each set's best ring, by the set's bits; for small machines, when asked.
    rings: OnceLock<Vec<u8>>,
}

/// Levels by the last GPU of a path; a small machine has at most 121.
type Row = [u8; EXACT_MAX];

/// One group, by position in the group.
struct Ring<'a> {
    edges: &'a Edges,
    /// Positions on the machine, ascending.
    members: Vec<usize>,
}

// === impl Edges ===

impl Edges {
    pub(crate) fn new(facts: &Facts) -> Self {
        let count = facts.gpus.len();
        let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        let all: Vec<Edge> = pairs.map(|(a, b)| facts.edge(a, b)).collect();
        let mut worths = all.clone();
        worths.sort_unstable();
        worths.dedup();
        let level = |edge: &Edge| {
            let level = worths.partition_point(|worth| worth < edge);
            u16::try_from(level).expect("64 GPUs have 2,016 pairs")
        };
        Self {
            count,
            levels: all.iter().map(level).collect(),
            worths,
            rings: OnceLock::new(),
        }
    }

    /// What an edge of that level is worth.
    pub(crate) fn worth(&self, level: Level) -> Edge {
        self.worths[level]
    }

    /// The lowest level whose worth is `enough`, where everything above enough is enough.
    pub(crate) fn lowest(&self, enough: impl Fn(Edge) -> bool) -> Level {
        self.worths.partition_point(|worth| !enough(*worth))
    }

    fn level(&self, a: usize, b: usize) -> Level {
        self.levels[a * self.count + b].into()
    }

    /// The weakest edge of the best ring over `set`, from the table of a small machine.
    pub(crate) fn weakest(&self, set: GpuSet) -> Option<Level> {
        if self.count > EXACT_MAX {
            return None;
        }
        let rings = self.rings.get_or_init(|| rings(&self.rows()));
        let bits = usize::try_from(set.bits()).ok()?;
        rings.get(bits).copied().map(Level::from)
    }

    fn rows(&self) -> Vec<Row> {
        let row = |a: usize| {
            let mut row = [0; EXACT_MAX];
            for (b, level) in row.iter_mut().enumerate().take(self.count) {
                *level = u8::try_from(self.level(a, b)).expect("16 GPUs have 120 pairs");
            }
            row
        };
        (0..self.count).map(row).collect()
    }
}

/// The weakest edge of the best ring over every set (Bellman 1962, Held and Karp 1962, with the least
/// edge in place of the sum). A path starts at its set's lowest GPU; for each GPU that it can end at
/// the best one is kept.
fn rings(edges: &[Row]) -> Vec<u8> {
    let best_through = |row: &Row, to: &Row| -> u8 {
        let through = row.iter().zip(to).map(|(path, edge)| *path.min(edge));
        through.fold(0, u8::max)
    };
    let mut paths = vec![[0; EXACT_MAX]; 1 << edges.len()];
    let mut rings = vec![0; paths.len()];
    for set in 1..paths.len() {
        let first = set.trailing_zeros() as usize;
        let mut lasts = set & (set - 1);
        if lasts == 0 {
            // Nothing is weaker than what was not walked yet.
            paths[set][first] = u8::MAX;
        }
        while lasts != 0 {
            let last = lasts.trailing_zeros() as usize;
            lasts &= lasts - 1;
            paths[set][last] = best_through(&paths[set & !(1 << last)], &edges[last]);
        }
        rings[set] = best_through(&paths[set], &edges[first]);
    }
    rings
}

/// The weakest edge of the best ring over `set`, two GPUs or more; `None` where it is below `least`.
pub(crate) fn weakest_edge(edges: &Edges, set: GpuSet, least: Level) -> Option<Level> {
    let ring = Ring::new(edges, set);
    let bound = ring.bound();
    if bound < least {
        return None;
    }
    match ring.members.len() {
        0..=3 => Some(bound),
        4..=EXACT_OF_MANY_MAX => ring.best(least, bound),
        _ => Some(ring.weakest(&ring.nearest())).filter(|weakest| *weakest >= least),
    }
}

/// Positions of `set` in ring order from the lowest. Of equal rings the lexicographically first.
pub(crate) fn order(edges: &Edges, set: GpuSet) -> Vec<usize> {
    let ring = Ring::new(edges, set);
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

impl<'a> Ring<'a> {
    fn new(edges: &'a Edges, set: GpuSet) -> Self {
        Self {
            edges,
            members: set.iter().collect(),
        }
    }

    /// The first of the best rings.
    fn exact(&self) -> Vec<usize> {
        let ascending: Vec<usize> = (0..self.members.len()).collect();
        let of_ascending = self.weakest(&ascending);
        // In ascending order nothing comes before it, and behind switches nothing is better.
        if of_ascending == self.bound() {
            return ascending;
        }
        let best = self.best(0, self.bound());
        let best = best.expect("a ring of any edges at all exists in a complete graph");
        if of_ascending == best {
            return ascending;
        }
        first_ring(&self.linked(best))
    }

    /// The weakest edge of the best ring, if that is `least` or more; `bound` is what it is at most.
    fn best(&self, least: Level, bound: Level) -> Option<Level> {
        // The bound itself is what wiring as it is built nearly always gives.
        if has_ring(&self.linked(bound)) {
            return Some(bound);
        }
        let (mut given, mut denied) = (least, bound);
        if given >= denied || !has_ring(&self.linked(given)) {
            return None;
        }
        while denied - given > 1 {
            let middle = usize::midpoint(given, denied);
            if has_ring(&self.linked(middle)) {
                given = middle;
            } else {
                denied = middle;
            }
        }
        // Levels between may belong to edges elsewhere on the machine.
        Some(given)
    }

    fn nearest(&self) -> Vec<usize> {
        let mut order = vec![0];
        let mut left = GpuSet::first(self.members.len()).without(0);
        while let Some(here) = order.last().copied().filter(|_| !left.is_empty()) {
            let lowest_first = |next: usize| (self.level(here, next), usize::MAX - next);
            let next = left
                .iter()
                .max_by_key(|next| lowest_first(*next))
                .expect("not empty");
            left = left.without(next);
            order.push(next);
        }
        order
    }

    fn weakest(&self, order: &[usize]) -> Level {
        let around = order.iter().zip(order.iter().cycle().skip(1));
        let levels = around.map(|(a, b)| self.level(*a, *b));
        levels.min().unwrap_or_default()
    }

    fn level(&self, a: usize, b: usize) -> Level {
        self.edges.level(self.members[a], self.members[b])
    }

    /// No ring is better than the second best edge of each GPU; two GPUs have one edge only.
    fn bound(&self) -> Level {
        let count = self.members.len();
        let second_best = |member: usize| {
            let (mut best, mut second) = (0, 0);
            for other in (0..count).filter(|other| *other != member) {
                let level = self.level(member, other);
                if level > best {
                    (best, second) = (level, best);
                } else if level > second {
                    second = level;
                }
            }
            if count == 2 { best } else { second }
        };
        (0..count).map(second_best).min().unwrap_or_default()
    }

    /// For each member those with an edge of at least that level to it.
    fn linked(&self, least: Level) -> Vec<u16> {
        let count = self.members.len();
        let row = |member: usize| {
            let others = (0..count).filter(|other| *other != member);
            others
                .filter(|other| self.level(member, *other) >= least)
                .fold(0, |bits, other| bits | 1 << other)
        };
        (0..count).map(row).collect()
    }
}

/// Whether a ring goes through every member along the edges given.
fn has_ring(linked: &[u16]) -> bool {
    let count = linked.len();
    let least_linked = linked.iter().map(|row| row.count_ones() as usize).min();
    match least_linked {
        Some(0 | 1) | None => false,
        // Dirac 1952.
        Some(least) if 2 * least >= count => true,
        _ => is_connected(linked) && linked[0] & full_ends(linked) != 0,
    }
}

fn is_connected(linked: &[u16]) -> bool {
    let (mut reached, mut fresh) = (1_u16, 1_u16);
    while fresh != 0 {
        let next = linked[fresh.trailing_zeros() as usize];
        fresh = (fresh & (fresh - 1)) | (next & !reached);
        reached |= next;
    }
    reached.count_ones() as usize == linked.len()
}

/// Where a path through all members can end that begins beside the first.
fn full_ends(linked: &[u16]) -> u16 {
    let ends = ends(linked);
    ends.last().copied().unwrap_or_default()
}

/// The lexicographically first ring; it must exist.
fn first_ring(linked: &[u16]) -> Vec<usize> {
    let ends = ends(linked);
    let mut left = (1_usize << linked.len()) - 2;
    let mut order = vec![0];
    let mut here = 0;
    while left != 0 {
        // GPUs linked to this one from which the rest can be walked back to the first.
        let next = linked[here] & ends[left >> 1];
        here = next.trailing_zeros() as usize;
        left &= !(1 << here);
        order.push(here);
    }
    order
}

/// For each set of members but the first (bit `n` is member `n + 1`): those of it from which a path
/// through the whole set ends beside the first (Bellman 1962, Held and Karp 1962).
fn ends(linked: &[u16]) -> Vec<u16> {
    let others = linked.len() - 1;
    let mut ends = vec![0_u16; 1 << others];
    for other in 0..others {
        ends[1 << other] = linked[0] & (2 << other);
    }
    for set in 3..ends.len() {
        let mut starts = 0;
        let mut left = set;
        while left != 0 {
            let other = left.trailing_zeros();
            left &= left - 1;
            if linked[other as usize + 1] & ends[set & !(1 << other)] != 0 {
                starts |= 2 << other;
            }
        }
        // A single member's row was set before; sets of one are powers of two.
        if !set.is_power_of_two() {
            ends[set] = starts;
        }
    }
    ends
}
