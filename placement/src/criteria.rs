//! Everything that one set is judged by, in order.

use std::cmp::Ordering;

use crate::quality::Bandwidth;
use crate::set::GpuSet;

/// Every key of the objective for one set, first to last. A greater one is better; two different
/// sets are never equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Criteria {
    /// Whether every pair has the link that was wished for; true where none was.
    pub meets_wish: bool,
    /// What the wiring gives the set.
    pub bandwidth: Bandwidth,
    /// NUMA nodes spanned, fewer is better; absent where the claim says `numa: any`.
    pub numa_nodes: Option<usize>,
    /// Sockets spanned, fewer is better; absent where the claim says `numa: any`.
    pub sockets: Option<usize>,
    /// Rank of the ancestor (as in [`Bandwidth::Pcie`]) that its worst GPU shares with the nearest
    /// RDMA card; absent where `nic: near` was not asked for.
    pub nic_rank: Option<u8>,
    /// Feasibility that stays behind: for each size of the mix, weight × quality of the best group
    /// of what stays free, in thousandths.
    pub future: u64,
    /// What is cut off from what stays free, less is better.
    pub cut: Cut,
    /// The set; of equal ones the one with the lowest positions.
    pub set: GpuSet,
}

/// What lies between a set and the GPUs that stay free. Less is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// NVLink, in 10⁶ bytes a second.
    pub nvlink_mb_per_second: u64,
    /// Sum of PCIe ancestor ranks of the pairs without NVLink.
    pub pcie: u64,
    /// Pairs of one NUMA node.
    pub numa_neighbours: usize,
}

/// One set that would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// Positions in rank order.
    pub order: Vec<usize>,
    /// The same as a set.
    pub set: GpuSet,
    /// What it is judged by.
    pub criteria: Criteria,
}

/// The best sets that one group could have, and of how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranking {
    /// Best first.
    pub sets: Vec<Ranked>,
    /// Sets that were compared: all that meet the requirements, where it is complete.
    pub candidate_count: usize,
    /// Whether there were few enough to compare all; else one was grown from each GPU.
    pub is_complete: bool,
}

/// The name of a criterion, and how two sets compare by it.
type Verdict = (&'static str, Ordering);

// === impl Criteria ===

impl Criteria {
    /// The first criterion that differs between the two; `same set` where none does.
    #[must_use]
    pub fn decided_by(&self, other: &Self) -> &'static str {
        let decides = |(_, ordering): &Verdict| *ordering != Ordering::Equal;
        let first = self.verdicts(other).into_iter().find(decides);
        first.map_or("same set", |(name, _)| name)
    }

    fn verdicts(&self, other: &Self) -> [Verdict; 8] {
        let fewer = |one: Option<usize>, other: Option<usize>| other.cmp(&one);
        [
            ("link wish", self.meets_wish.cmp(&other.meets_wish)),
            ("bandwidth", self.bandwidth.cmp(&other.bandwidth)),
            ("NUMA nodes", fewer(self.numa_nodes, other.numa_nodes)),
            ("sockets", fewer(self.sockets, other.sockets)),
            ("RDMA card", self.nic_rank.cmp(&other.nic_rank)),
            ("what stays possible", self.future.cmp(&other.future)),
            ("what is cut off", other.cut.cmp(&self.cut)),
            ("lowest index", other.set.cmp_positions(self.set)),
        ]
    }
}

impl Ord for Criteria {
    fn cmp(&self, other: &Self) -> Ordering {
        let mut verdicts = self.verdicts(other).into_iter();
        let decisive = verdicts.find(|(_, ordering)| *ordering != Ordering::Equal);
        decisive.map_or(Ordering::Equal, |(_, ordering)| ordering)
    }
}

impl PartialOrd for Criteria {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
