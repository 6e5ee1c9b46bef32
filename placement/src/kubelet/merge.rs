//! The topology manager's verdict over the hints of all managers (`policy.go`, `policy_*.go`).
//!
//! The kubelet walks every combination of one hint per resource. Its comparison is a total order,
//! so the best can be found without the walk: combinations that count as preferred agree on one
//! mask, and of the others only the masks that remain matter.

use crate::kubelet::facts::Policy;
use crate::kubelet::hints::{Hint, Hints};
use crate::kubelet::mask::NumaMask;

/// What the topology manager decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// NUMA nodes that devices and CPUs are taken from first; `None` where it does not matter.
    pub(crate) mask: Option<NumaMask>,
    pub(crate) is_admitted: bool,
    /// Whether what is not known could have changed the mask.
    pub(crate) is_certain: bool,
}

/// How masks with equally many NUMA nodes are compared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ties<'a> {
    /// The lowest wins.
    Lowest,
    /// `prefer-closest-numa-nodes`: the least sum of distances wins, then the lowest.
    Closest(&'a Distances),
    /// One of the two, nobody knows which.
    Unknown(Option<&'a Distances>),
}

/// Distances between NUMA nodes by position, row by row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Distances {
    pub(crate) count: usize,
    pub(crate) rows: Vec<u32>,
}

/// The verdict of `policy`, one of those that align, over all of a machine's NUMA `nodes`.
pub(crate) fn merge(policy: Policy, ties: Ties<'_>, nodes: NumaMask, all: &[Hints]) -> Verdict {
    let is_single = policy == Policy::SingleNumaNode;
    let ties = if is_single { Ties::Lowest } else { ties };
    let narrowed: Vec<Hints> = all.iter().map(|hints| narrow(is_single, hints)).collect();
    match agreed(nodes, &narrowed) {
        Some(masks) => {
            let (mask, is_certain) = best(&masks, ties, NumaMask::len);
            // Every NUMA node is the same as no wish, to that policy.
            let is_any = is_single && mask == nodes;
            Verdict {
                mask: (!is_any).then_some(mask),
                is_admitted: true,
                is_certain,
            }
        }
        None if policy == Policy::BestEffort => compromise(nodes, ties, &narrowed),
        None => Verdict {
            mask: None,
            is_admitted: false,
            is_certain: true,
        },
    }
}

/// `single-numa-node` looks at preferred hints of one node alone.
fn narrow(is_single: bool, hints: &Hints) -> Hints {
    let is_kept = |hint: &&Hint| !is_single || hint.is_preferred && hint.mask.len() == 1;
    hints.iter().filter(is_kept).copied().collect()
}

/// Masks that every resource prefers; any node where none has a wish.
fn agreed(nodes: NumaMask, all: &[Hints]) -> Option<Vec<NumaMask>> {
    let mut agreed: Option<Vec<NumaMask>> = None;
    for list in all {
        let preferred = |mask: &NumaMask| {
            let is = |hint: &Hint| hint.is_preferred && hint.mask == *mask;
            list.iter().any(is)
        };
        agreed = Some(match agreed {
            Some(masks) => masks.into_iter().filter(|mask| preferred(mask)).collect(),
            None => {
                let preferred = list.iter().filter(|hint| hint.is_preferred);
                preferred.map(|hint| hint.mask).collect()
            }
        });
    }
    let masks = agreed.unwrap_or_else(|| vec![nodes]);
    (!masks.is_empty()).then_some(masks)
}

/// What `best-effort` takes when nobody agrees: what is common to one hint of each, of as many NUMA
/// nodes as the greediest resource needs at least, else of fewer, else of more.
fn compromise(nodes: NumaMask, ties: Ties<'_>, all: &[Hints]) -> Verdict {
    let mut common = vec![nodes];
    let mut least = 0;
    for list in all.iter().filter(|list| !list.is_empty()) {
        let narrowest = list.iter().map(|hint| hint.mask.len()).min();
        least = least.max(narrowest.unwrap_or_default());
        let both = |mask: &NumaMask| -> Vec<NumaMask> {
            let both = list.iter().map(|hint| hint.mask.intersection(*mask));
            both.collect()
        };
        common = common.iter().flat_map(both).collect();
        common.sort_unstable();
        common.dedup();
    }
    common.retain(|mask| !mask.is_empty());
    let rank = |mask: NumaMask| match mask.len() {
        count if count <= least => least - count,
        count => count,
    };
    let (mask, is_certain) = match common.is_empty() {
        true => (nodes, true),
        false => best(&common, ties, rank),
    };
    Verdict {
        mask: Some(mask),
        is_admitted: true,
        is_certain,
    }
}

/// The best of `masks`, which are not none, by `rank` and then as `ties` says; and whether that is
/// certain.
fn best(masks: &[NumaMask], ties: Ties<'_>, rank: impl Fn(NumaMask) -> usize) -> (NumaMask, bool) {
    let least = masks.iter().map(|mask| rank(*mask)).min();
    let equals: Vec<NumaMask> = masks
        .iter()
        .copied()
        .filter(|mask| Some(rank(*mask)) == least)
        .collect();
    let lowest = equals.iter().min().copied().unwrap_or_default();
    let closest = |distances: &Distances| {
        let closest = equals
            .iter()
            .min_by_key(|mask| (distances.sum(**mask), **mask));
        closest.copied().unwrap_or_default()
    };
    match ties {
        Ties::Lowest => (lowest, true),
        Ties::Closest(distances) => (closest(distances), true),
        Ties::Unknown(Some(distances)) => (lowest, closest(distances) == lowest),
        Ties::Unknown(None) => (lowest, equals.len() == 1),
    }
}

// === impl Distances ===

impl Distances {
    /// Over every ordered pair, itself included. Masks that are compared have equally many nodes, so
    /// the sum stands for the kubelet's average.
    fn sum(&self, mask: NumaMask) -> u64 {
        let pairs = mask.iter().flat_map(|a| mask.iter().map(move |b| (a, b)));
        pairs
            .map(|(a, b)| u64::from(self.rows[a * self.count + b]))
            .sum()
    }
}
