//! Which groups of GPUs are best.
//!
//! Lexicographic over what the crate's documentation lists. Sets are visited in ascending order of
//! their positions and only a strictly better one replaces the best, so ties go to the lowest.

use std::cmp::Ordering;
use std::collections::HashMap;

use berth_topology::link::LinkClass;

use crate::quality::{Bandwidth, weakest_link};
use crate::set::GpuSet;
use crate::shape::Shape;
use crate::want::Rule;

/// Sets tried one by one: all of any size on 16 GPUs (12,870 of 8), pairs and triples on 64.
pub const SETS_MAX: u64 = 50_000;
/// Several groups are weighed against each other up to this many free GPUs; above, groups are
/// chosen one after the other.
pub const JOINT_GPUS_MAX: usize = 16;
/// Steps of one attempt to fit disjoint groups; none of the recorded machines needs a tenth of it.
const PACK_STEPS_MAX: u32 = 500_000;

/// One question to one shape.
pub(crate) struct Search<'a> {
    shape: &'a Shape,
    rule: &'a Rule,
    /// For each GPU those that may be in one group with it, itself included.
    together: Vec<GpuSet>,
}

/// What decides first, and what every group of a claim has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Level {
    meets_wish: bool,
    bandwidth: Bandwidth,
}

#[derive(Clone, Copy)]
struct Candidate {
    set: GpuSet,
    level: Level,
}

/// The best that the worst of `group_count` groups can have with every usable GPU free.
pub(crate) fn best_bandwidth(
    shape: &Shape,
    group_size: usize,
    group_count: usize,
) -> Option<Bandwidth> {
    let rule = Rule::of_size(group_size, group_count);
    let groups = Search::new(shape, &rule).best_groups(shape.usable)?;
    groups.into_iter().map(|group| shape.bandwidth(group)).min()
}

// === impl Search ===

impl<'a> Search<'a> {
    pub(crate) fn new(shape: &'a Shape, rule: &'a Rule) -> Self {
        let together = (0..shape.facts.gpus.len())
            .map(|position| together(shape, rule, position))
            .collect();
        Self {
            shape,
            rule,
            together,
        }
    }

    /// The groups in order, or `None` where the requirements leave no way.
    pub(crate) fn best_groups(&self, free: GpuSet) -> Option<Vec<GpuSet>> {
        if free.len() < self.rule.gpu_count() {
            return None;
        }
        let one_by_one = self.one_by_one(free);
        let is_settled = one_by_one.as_ref().is_some_and(|groups| are_level(groups));
        let is_joint = free.len() <= JOINT_GPUS_MAX && self.rule.group_count > 1;
        let groups = if is_settled || !is_joint {
            one_by_one?
        } else {
            self.jointly(free).or(one_by_one)?
        };
        Some(groups.into_iter().map(|group| group.set).collect())
    }

    /// Each group the best of what the ones before it left.
    fn one_by_one(&self, free: GpuSet) -> Option<Vec<Candidate>> {
        let mut left = free;
        let mut groups = Vec::with_capacity(self.rule.group_count);
        for _ in 0..self.rule.group_count {
            let group = self.best_group(left, &mut |_| true)?;
            left = left.difference(group.set);
            groups.push(group);
        }
        Some(groups)
    }

    /// The worst group as good as it can be; then each the best that leaves room for the others.
    fn jointly(&self, free: GpuSet) -> Option<Vec<Candidate>> {
        let candidates = self.candidates(free);
        let mut levels: Vec<Level> = candidates.iter().map(|candidate| candidate.level).collect();
        levels.sort();
        levels.dedup();
        let packing = |level: Level| Packing::new(&candidates, level, self.rule.group_size);
        let fits = |level: &Level| packing(*level).fits(free, self.rule.group_count);
        let fitting = levels.partition_point(fits);
        let mut packing = packing(*levels.get(fitting.checked_sub(1)?)?);
        let mut left = free;
        let mut groups = Vec::with_capacity(self.rule.group_count);
        for missing in (0..self.rule.group_count).rev() {
            let group = self.best_group(left, &mut |candidate| {
                candidate.level >= packing.level
                    && packing.fits(left.difference(candidate.set), missing)
            })?;
            left = left.difference(group.set);
            groups.push(group);
        }
        Some(groups)
    }

    fn candidates(&self, free: GpuSet) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        self.each_group(free, &mut |set| candidates.push(self.candidate(set)));
        candidates
    }

    /// The best group in `free` that is `acceptable`.
    fn best_group(
        &self,
        free: GpuSet,
        acceptable: &mut dyn FnMut(Candidate) -> bool,
    ) -> Option<Candidate> {
        let mut best: Option<Candidate> = None;
        self.each_group(free, &mut |set| {
            let candidate = self.candidate(set);
            let is_better =
                best.is_none_or(|best| self.compare(candidate, best, free) == Ordering::Greater);
            if is_better && acceptable(candidate) {
                best = Some(candidate);
            }
        });
        best
    }

    fn candidate(&self, set: GpuSet) -> Candidate {
        let wished = self.rule.link_wished;
        let meets = || weakest_link(&self.shape.facts, set).is_none_or(|weakest| weakest >= wished);
        let meets_wish = wished == LinkClass::Any || meets();
        Candidate {
            set,
            level: Level {
                meets_wish,
                bandwidth: self.shape.bandwidth(set),
            },
        }
    }

    /// Greater is better. Later criteria are only computed where the earlier ones are equal.
    fn compare(&self, one: Candidate, other: Candidate, free: GpuSet) -> Ordering {
        let numa = || match self.rule.counts_numa {
            true => self
                .shape
                .numa_count(other.set)
                .cmp(&self.shape.numa_count(one.set)),
            false => Ordering::Equal,
        };
        let nic = || match self.rule.counts_nic {
            true => self.nic_rank(one.set).cmp(&self.nic_rank(other.set)),
            false => Ordering::Equal,
        };
        let cut_off = || {
            self.cut_off(other.set, free)
                .cmp(&self.cut_off(one.set, free))
        };
        one.level
            .cmp(&other.level)
            .then_with(numa)
            .then_with(nic)
            .then_with(cut_off)
    }

    /// Of the GPU that is farthest from an RDMA card.
    fn nic_rank(&self, set: GpuSet) -> Option<u8> {
        set.iter()
            .map(|position| self.shape.facts.gpus[position].nic_rank)
            .min()
    }

    /// What lies between `set` and the GPUs that stay free: NVLink, then closeness over PCIe where
    /// there is no NVLink, then neighbours on a NUMA node.
    fn cut_off(&self, set: GpuSet, free: GpuSet) -> (u64, u64, usize) {
        let left = free.difference(set);
        let mut cut = (0, 0, 0);
        for a in set.iter() {
            cut.2 += self.shape.same_numa[a].intersection(left).len();
            for b in left.iter() {
                let pair = self.shape.facts.pair(a, b);
                cut.0 += u64::from(pair.nvlink_mb);
                cut.1 += if pair.nvlink_mb == 0 {
                    u64::from(pair.ancestor_rank)
                } else {
                    0
                };
            }
        }
        cut
    }

    /// Calls `visit` with every group that meets the requirements, ascending; with those grown from
    /// each GPU where there are too many.
    fn each_group(&self, free: GpuSet, visit: &mut dyn FnMut(GpuSet)) {
        let free: GpuSet = free
            .iter()
            .filter(|position| self.together[*position].contains(*position))
            .collect();
        if combinations(free.len(), self.rule.group_size) <= SETS_MAX {
            self.extend(GpuSet::EMPTY, free, self.rule.group_size, visit);
        } else {
            free.iter()
                .filter_map(|seed| self.grow(seed, free))
                .for_each(visit);
        }
    }

    fn extend(&self, chosen: GpuSet, from: GpuSet, missing: usize, visit: &mut dyn FnMut(GpuSet)) {
        if missing == 0 {
            return visit(chosen);
        }
        let mut rest = from;
        while rest.len() >= missing {
            let Some(next) = rest.lowest() else { return };
            rest = rest.without(next);
            self.extend(
                chosen.with(next),
                rest.intersection(self.together[next]),
                missing - 1,
                visit,
            );
        }
    }

    fn grow(&self, seed: usize, free: GpuSet) -> Option<GpuSet> {
        let mut set = GpuSet::EMPTY.with(seed);
        let mut from = free.without(seed).intersection(self.together[seed]);
        while set.len() < self.rule.group_size {
            // Of equal ones the lowest: `max_by_key` keeps the last.
            let lowest_first =
                |next: usize| (self.candidate(set.with(next)).level, usize::MAX - next);
            let next = from.iter().max_by_key(|next| lowest_first(*next))?;
            set = set.with(next);
            from = from.without(next).intersection(self.together[next]);
        }
        Some(set)
    }
}

/// Empty where the GPU can be in no group at all.
fn together(shape: &Shape, rule: &Rule, position: usize) -> GpuSet {
    if rule.is_numa_single && shape.facts.gpus[position].numa.is_none() {
        return GpuSet::EMPTY;
    }
    let linked = shape.linked(position, rule.link_required);
    if rule.is_numa_single {
        linked.intersection(shape.same_numa[position])
    } else {
        linked
    }
}

fn are_level(groups: &[Candidate]) -> bool {
    groups.iter().all(|group| group.level == groups[0].level)
}

/// Ways to choose `size` of `count`, or `u64::MAX` where they are more than that holds.
fn combinations(count: usize, size: usize) -> u64 {
    let size = size.min(count.saturating_sub(size));
    let mut ways: u64 = 1;
    for step in 0..size {
        let (factor, divisor) = ((count - step) as u64, (step + 1) as u64);
        let Some(product) = ways.checked_mul(factor) else {
            return u64::MAX;
        };
        ways = product / divisor;
    }
    ways
}

/// How many disjoint groups of at least one level fit.
struct Packing {
    level: Level,
    group_size: usize,
    /// By their lowest position.
    groups: HashMap<usize, Vec<GpuSet>>,
    most: HashMap<GpuSet, usize>,
    steps_left: u32,
}

// === impl Packing ===

impl Packing {
    fn new(candidates: &[Candidate], level: Level, group_size: usize) -> Self {
        let mut groups: HashMap<usize, Vec<GpuSet>> = HashMap::new();
        for candidate in candidates
            .iter()
            .filter(|candidate| candidate.level >= level)
        {
            groups
                .entry(candidate.set.lowest().unwrap_or_default())
                .or_default()
                .push(candidate.set);
        }
        Self {
            level,
            group_size,
            groups,
            most: HashMap::new(),
            steps_left: PACK_STEPS_MAX,
        }
    }

    /// Whether `count` groups fit into `free`; no where the steps run out first.
    fn fits(&mut self, free: GpuSet, count: usize) -> bool {
        self.most(free) >= count
    }

    fn most(&mut self, free: GpuSet) -> usize {
        let bound = free.len() / self.group_size;
        let Some(lowest) = free.lowest().filter(|_| bound > 0 && self.steps_left > 0) else {
            return 0;
        };
        if let Some(most) = self.most.get(&free) {
            return *most;
        }
        self.steps_left -= 1;
        let mut most = 0;
        for group in self.groups.get(&lowest).cloned().unwrap_or_default() {
            if most == bound {
                break;
            }
            if group.is_subset(free) {
                most = most.max(1 + self.most(free.difference(group)));
            }
        }
        if most < bound {
            most = most.max(self.most(free.without(lowest)));
        }
        self.most.insert(free, most);
        most
    }
}
