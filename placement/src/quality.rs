//! How good a set of GPUs is: the first thing that sets are compared by.

use std::cmp::Ordering;

use berth_topology::link::LinkClass;

use crate::cut::min_cut;
use crate::facts::Facts;
use crate::ring::{self, Edge, Edges};
use crate::set::GpuSet;

/// What the wiring gives a set. A greater one is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bandwidth {
    /// NVLink does not join the set: PCIe carries it. This is the weakest edge of its best ring,
    /// along NVLinks where there are some.
    Pcie {
        /// Ancestor of the edge's two GPUs: 6 one board, 5 one switch (PIX), 4 several (PXB), 3 a
        /// host bridge (PHB), 2 a NUMA node (NODE), 1 the system, 0 unknown.
        ancestor_rank: u8,
        /// PCIe generation × width of the edge's lesser GPU; 0 when unknown.
        lanes: u32,
    },
    /// NVLink joins it.
    NvLink {
        /// The least NVLink budget, or the global minimum cut if that is less, in 10⁶ bytes a
        /// second, one direction.
        mb_per_second: u32,
    },
    /// One GPU needs no link.
    Alone,
}

// === impl Bandwidth ===

impl Bandwidth {
    /// In 10⁹ bytes a second, one direction, where NVLink joins the set. PCIe has no such figure.
    #[must_use]
    pub fn gb_per_second(self) -> Option<f64> {
        match self {
            Self::NvLink { mb_per_second } => Some(f64::from(mb_per_second) / 1_000.0),
            Self::Pcie { .. } | Self::Alone => None,
        }
    }

    /// 0..=10: ten times `self` over `best`, rounded down. PCIe where NVLink was to be had is 0; else
    /// each step of the ancestor is worth the same, and lanes are weighed within the best's step.
    #[must_use]
    pub fn score(self, best: Self) -> u8 {
        u8::try_from(self.share(best, 10)).expect("at most ten")
    }

    /// As [`Self::score`], out of another whole. A better bandwidth never has the lesser share.
    pub(crate) fn share(self, best: Self, whole: u64) -> u64 {
        let (part, of) = self.ratio(best);
        (whole * part).checked_div(of).unwrap_or(whole).min(whole)
    }

    fn ratio(self, best: Self) -> (u64, u64) {
        match (self, best) {
            (
                Self::NvLink {
                    mb_per_second: part,
                },
                Self::NvLink {
                    mb_per_second: whole,
                },
            ) => (part.into(), whole.into()),
            (
                Self::Pcie {
                    ancestor_rank,
                    lanes,
                },
                Self::Pcie {
                    ancestor_rank: best_rank,
                    lanes: best_lanes,
                },
            ) => {
                let (rank, best_rank) = (u64::from(ancestor_rank), u64::from(best_rank));
                let (lanes, best_lanes) = (u64::from(lanes), u64::from(best_lanes));
                let steps_below = best_rank.saturating_sub(1);
                match rank.cmp(&best_rank) {
                    Ordering::Less => (rank, best_rank),
                    Ordering::Equal => (
                        steps_below * best_lanes + lanes,
                        (steps_below + 1) * best_lanes,
                    ),
                    Ordering::Greater => (1, 1),
                }
            }
            (Self::Pcie { .. }, _) => (0, 1),
            (Self::NvLink { .. } | Self::Alone, _) => (1, 1),
        }
    }
}

/// The weakest class between any two of `set`; none for one GPU.
pub(crate) fn weakest_link(facts: &Facts, set: GpuSet) -> Option<LinkClass> {
    set.pairs().map(|(a, b)| facts.pair(a, b).class()).min()
}

/// What `set` has, where that `is_enough`; `is_enough` holds for everything above what it holds for.
///
/// Upper bounds come first, so that most sets that are not enough cost neither a cut nor a ring.
pub(crate) fn bandwidth_if(
    facts: &Facts,
    edges: &Edges,
    set: GpuSet,
    is_enough: &impl Fn(Bandwidth) -> bool,
) -> Option<Bandwidth> {
    let bandwidth = if set.len() < 2 {
        Bandwidth::Alone
    } else if is_joined(facts, set) {
        nvlink(facts, set, is_enough)?
    } else {
        pcie(edges, set, is_enough)?
    };
    is_enough(bandwidth).then_some(bandwidth)
}

/// Whether NVLinks lead from each GPU of the set to each other one, if by others of the set.
fn is_joined(facts: &Facts, set: GpuSet) -> bool {
    let mut reached = GpuSet::EMPTY;
    let mut fresh = set.lowest().map_or(GpuSet::EMPTY, |gpu| reached.with(gpu));
    while let Some(next) = fresh.lowest() {
        reached = reached.with(next);
        fresh = fresh
            .union(facts.nvlinked(next).intersection(set))
            .difference(reached);
    }
    reached == set
}

/// The least NVLink budget, or the global minimum cut if that is less.
fn nvlink(facts: &Facts, set: GpuSet, is_enough: &impl Fn(Bandwidth) -> bool) -> Option<Bandwidth> {
    let (mut budget, mut least_pair, mut least_joined) = (u64::MAX, u64::MAX, u64::MAX);
    for a in set.iter() {
        let mut joined = 0;
        for b in set.without(a).iter() {
            let pair = u64::from(facts.pair(a, b).nvlink_mb);
            joined += pair;
            least_pair = least_pair.min(pair);
        }
        least_joined = least_joined.min(joined);
        budget = budget.min(facts.gpus[a].nvlink_mb.into());
    }
    let of = |mb_per_second: u64| Bandwidth::NvLink {
        mb_per_second: u32::try_from(mb_per_second).unwrap_or(u32::MAX),
    };
    // No cut is above what joins one GPU to the rest.
    let bound = budget.min(least_joined);
    let others = u64::try_from(set.len() - 1).expect("at most 64");
    // A complete graph of edges ≥ w has no cut under (n - 1) w: behind a switch this settles it.
    if !is_enough(of(bound)) || least_pair * others >= bound {
        return Some(of(bound)).filter(|bound| is_enough(*bound));
    }
    Some(of(min_cut(facts, set, bound)))
}

/// The weakest edge of the best ring. As NVLink does not join the set, that edge is none of NVLink.
fn pcie(edges: &Edges, set: GpuSet, is_enough: &impl Fn(Bandwidth) -> bool) -> Option<Bandwidth> {
    let of = |(nvlink_mb, ancestor_rank, lanes): Edge| match nvlink_mb {
        0 => Bandwidth::Pcie {
            ancestor_rank,
            lanes,
        },
        mb_per_second => Bandwidth::NvLink { mb_per_second },
    };
    let searched = || {
        let least = edges.lowest(|edge| is_enough(of(edge)));
        ring::weakest_edge(edges, set, least)
    };
    let level = edges.weakest(set).or_else(searched)?;
    Some(of(edges.worth(level)))
}
