//! How good a set of GPUs is: the first thing that sets are compared by.

use berth_topology::link::LinkClass;

use crate::set::GpuSet;
use crate::shape::Facts;

/// What the wiring gives a set. A greater one is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bandwidth {
    /// NVLink does not join the set: PCIe carries it.
    Pcie {
        /// Worst ancestor of two GPUs without NVLink between them: 6 one board, 5 one switch (PIX),
        /// 4 several (PXB), 3 a host bridge (PHB), 2 a NUMA node (NODE), 1 the system, 0 unknown.
        ancestor_rank: u8,
        /// Least PCIe generation × width of its GPUs; 0 when unknown.
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
    /// What `set` has.
    pub(crate) fn of(facts: &Facts, set: GpuSet) -> Self {
        if set.len() < 2 {
            return Self::Alone;
        }
        match nvlink_mb_per_second(facts, set) {
            0 => pcie(facts, set),
            mb_per_second => Self::NvLink { mb_per_second },
        }
    }

    /// In 10⁹ bytes a second, one direction, where NVLink joins the set. PCIe has no such figure.
    #[must_use]
    pub fn gb_per_second(self) -> Option<f64> {
        match self {
            Self::NvLink { mb_per_second } => Some(f64::from(mb_per_second) / 1_000.0),
            Self::Pcie { .. } | Self::Alone => None,
        }
    }

    /// 0..=10: ten times `self` over `best`, rounded down. PCIe where NVLink was to be had is 0;
    /// among PCIe sets the first of ancestor and lanes that differs is compared.
    #[must_use]
    pub fn score(self, best: Self) -> u8 {
        let (part, whole) = match (self, best) {
            (
                Self::NvLink {
                    mb_per_second: part,
                },
                Self::NvLink {
                    mb_per_second: whole,
                },
            ) => (part, whole),
            (
                Self::Pcie {
                    ancestor_rank,
                    lanes,
                },
                Self::Pcie {
                    ancestor_rank: best_rank,
                    lanes: best_lanes,
                },
            ) => match ancestor_rank == best_rank {
                true => (lanes, best_lanes),
                false => (ancestor_rank.into(), best_rank.into()),
            },
            (Self::Pcie { .. }, _) => (0, 1),
            (Self::NvLink { .. } | Self::Alone, _) => (1, 1),
        };
        let tenths = if whole == 0 {
            10
        } else {
            10 * u64::from(part) / u64::from(whole)
        };
        u8::try_from(tenths.min(10)).expect("at most ten")
    }
}

/// The weakest class between any two of `set`; none for one GPU.
pub(crate) fn weakest_link(facts: &Facts, set: GpuSet) -> Option<LinkClass> {
    set.pairs().map(|(a, b)| facts.pair(a, b).class()).min()
}

fn pcie(facts: &Facts, set: GpuSet) -> Bandwidth {
    let without_nvlink = set
        .pairs()
        .map(|(a, b)| facts.pair(a, b))
        .filter(|pair| pair.nvlink_mb == 0);
    // Pairs that all have NVLink are still no joined set when a GPU's own budget is zero.
    let ancestor_rank = without_nvlink
        .map(|pair| pair.ancestor_rank)
        .min()
        .unwrap_or_default();
    let lanes = set
        .iter()
        .map(|position| facts.gpus[position].pcie_lanes)
        .min();
    Bandwidth::Pcie {
        ancestor_rank,
        lanes: lanes.unwrap_or_default(),
    }
}

/// 0 where NVLink does not join the set.
fn nvlink_mb_per_second(facts: &Facts, set: GpuSet) -> u32 {
    let budget = set
        .iter()
        .map(|position| facts.gpus[position].nvlink_mb)
        .min()
        .unwrap_or_default();
    if budget == 0 {
        return 0;
    }
    let least_pair = set
        .pairs()
        .map(|(a, b)| facts.pair(a, b).nvlink_mb)
        .min()
        .unwrap_or_default();
    // A complete graph of edges ≥ w has no cut under (n - 1) w: behind a switch this settles it.
    let others = u64::try_from(set.len() - 1).expect("at most 64");
    if u64::from(least_pair) * others >= u64::from(budget) {
        return budget;
    }
    let cut = min_cut(facts, set).min(u64::from(budget));
    u32::try_from(cut).expect("at most the budget")
}

/// Global minimum cut of the set's NVLink graph (Stoer and Wagner 1997): merges vertices until two
/// are left; the last vertex of each maximum-adjacency order gives one candidate cut.
fn min_cut(facts: &Facts, set: GpuSet) -> u64 {
    let members: Vec<usize> = set.iter().collect();
    let count = members.len();
    let mut weights = vec![0_u64; count * count];
    for (a, b) in GpuSet::first(count).pairs() {
        let weight = facts.pair(members[a], members[b]).nvlink_mb.into();
        weights[a * count + b] = weight;
        weights[b * count + a] = weight;
    }
    let mut left = GpuSet::first(count);
    let mut least = u64::MAX;
    while left.len() > 1 && least > 0 {
        let (before, last, cut) = adjacency_order_end(&weights, count, left);
        least = least.min(cut);
        left = left.without(last);
        for other in left.without(before).iter() {
            let joined = weights[before * count + other] + weights[last * count + other];
            weights[before * count + other] = joined;
            weights[other * count + before] = joined;
        }
    }
    least
}

/// The last two vertices of a maximum-adjacency order, and what joins the last to all before it.
fn adjacency_order_end(weights: &[u64], count: usize, vertices: GpuSet) -> (usize, usize, u64) {
    let mut joins = [0_u64; crate::set::GPUS_MAX];
    let (mut before, mut last, mut cut) = (0, 0, 0);
    let mut left = vertices;
    while !left.is_empty() {
        let next = left
            .iter()
            .max_by_key(|&vertex| joins[vertex])
            .expect("not empty");
        (before, last, cut) = (last, next, joins[next]);
        left = left.without(next);
        for other in left.iter() {
            joins[other] += weights[next * count + other];
        }
    }
    (before, last, cut)
}
