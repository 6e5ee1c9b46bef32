//! Which groups of GPUs are best.
//!
//! Lexicographic over what the crate's documentation lists. Sets are visited in ascending order of
//! their positions and only a strictly better one replaces the best, so ties go to the lowest.

use std::cmp::{Ordering, Reverse};
use std::ops::ControlFlow;

use crate::criteria::{Criteria, Cut};
use crate::packing::Packing;
use crate::quality::Bandwidth;
use crate::set::GpuSet;
use crate::sets::Sets;
use crate::shape::Shape;
use crate::want::Rule;

/// Several groups are weighed against each other up to this many free GPUs; above, groups are
/// chosen one after the other.
pub const JOINT_GPUS_MAX: usize = 16;

/// One question to one shape.
pub(crate) struct Search<'a> {
    shape: &'a Shape,
    rule: &'a Rule,
    /// For each GPU those that may be in one group with it, itself included; empty where it can be
    /// in none.
    together: Vec<GpuSet>,
    /// For each GPU those that have the wished link to it, itself included.
    wished: Vec<GpuSet>,
    /// Whether groups of equal key are compared by what they leave behind.
    looks_behind: bool,
}

/// What groups are chosen from.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    /// GPUs that would do.
    pub(crate) free: GpuSet,
    /// All free and usable ones: those that would not do stay behind too.
    pub(crate) around: GpuSet,
}

/// What decides first, and what every group of a claim has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level {
    meets_wish: bool,
    bandwidth: Bandwidth,
}

/// What a set is compared by, whatever is free around it. Greater is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    level: Level,
    place: Place,
}

/// Where it lies. Greater is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    numa_nodes: Option<Reverse<usize>>,
    sockets: Option<Reverse<usize>>,
    nic_rank: Option<u8>,
}

/// What it leaves behind. Greater is better.
type Left = (u64, Reverse<Cut>);

/// A group that would do.
#[derive(Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) set: GpuSet,
    key: Key,
    /// Only computed where all before is equal.
    left: Option<Left>,
}

/// The best groups, and of how many.
pub(crate) struct Best {
    pub(crate) criteria: Vec<Criteria>,
    pub(crate) candidate_count: usize,
    /// Whether those are all that there are.
    pub(crate) is_complete: bool,
}

/// The best that the worst of `group_count` groups can have with every usable GPU free.
pub(crate) fn best_bandwidth(
    shape: &Shape,
    group_size: usize,
    group_count: usize,
) -> Option<Bandwidth> {
    let rule = Rule {
        counts_numa: false,
        ..Rule::of_size(group_size, group_count)
    };
    let groups = Search::new(shape, &rule)
        .by_key_only()
        .best_groups(Room::only(shape.usable))?;
    groups.into_iter().map(|group| shape.bandwidth(group)).min()
}

// === impl Search ===

impl<'a> Search<'a> {
    pub(crate) fn new(shape: &'a Shape, rule: &'a Rule) -> Self {
        let gpus = 0..shape.facts.gpus.len();
        let together = gpus.clone().map(|gpu| together(shape, rule, gpu));
        let wished = gpus.clone().map(|gpu| shape.linked(gpu, rule.link_wished));
        Self {
            shape,
            rule,
            together: together.collect(),
            wished: wished.collect(),
            looks_behind: true,
        }
    }

    /// Of groups with equal keys the lowest, whatever it leaves behind.
    fn by_key_only(self) -> Self {
        Self {
            looks_behind: false,
            ..self
        }
    }

    /// Whether the requirements leave a way.
    pub(crate) fn fits(self, free: GpuSet) -> bool {
        self.by_key_only().best_groups(Room::only(free)).is_some()
    }

    /// The groups in order, or `None` where the requirements leave no way.
    pub(crate) fn best_groups(&self, room: Room) -> Option<Vec<GpuSet>> {
        if room.free.len() < self.rule.gpu_count() {
            return None;
        }
        let one_by_one = self.one_by_one(room);
        let is_settled = |groups: &Vec<Candidate>| self.are_best_possible(groups, room.free);
        let is_joint = room.free.len() <= JOINT_GPUS_MAX && self.rule.group_count > 1;
        let groups = if !is_joint || one_by_one.as_ref().is_some_and(is_settled) {
            one_by_one?
        } else {
            self.jointly(room).or(one_by_one)?
        };
        Some(groups.into_iter().map(|group| group.set).collect())
    }

    /// Each group the best of what the ones before it left.
    fn one_by_one(&self, mut room: Room) -> Option<Vec<Candidate>> {
        let mut groups = Vec::with_capacity(self.rule.group_count);
        for _ in 0..self.rule.group_count {
            let group = self.best_group(room, &mut |_| true)?;
            room = room.without(group.set);
            groups.push(group);
        }
        Some(groups)
    }

    /// Whether the worst of these groups, chosen one by one, is as good as the worst of any groups can
    /// be. Then [`Self::jointly`] would choose the same: the best group always leaves room for the others.
    fn are_best_possible(&self, groups: &[Candidate], free: GpuSet) -> bool {
        let worst = groups.iter().map(|group| group.key.level).min();
        let best = groups.first().map(|group| group.key.level);
        worst >= best || worst >= self.worst_level_max(free)
    }

    /// What the worst of the groups has at most. Each GPU that takes part is in some group, whose level is
    /// at most the best of all sets with that GPU; and so many take part.
    fn worst_level_max(&self, free: GpuSet) -> Option<Level> {
        let mut best_with: Vec<Option<Level>> = vec![None; self.together.len()];
        self.each(free, &mut |set| {
            let level = Some(self.level(set));
            let twins = set.iter().map(|gpu| self.shape.twins[gpu]);
            let alike = twins.fold(GpuSet::EMPTY, GpuSet::union);
            for gpu in alike.iter() {
                best_with[gpu] = best_with[gpu].max(level);
            }
        });
        let mut levels: Vec<Option<Level>> = free.iter().map(|gpu| best_with[gpu]).collect();
        levels.sort_by_key(|level| Reverse(*level));
        *levels.get(self.rule.gpu_count().checked_sub(1)?)?
    }

    /// The worst group as good as it can be; then each the best that leaves room for the others.
    fn jointly(&self, mut room: Room) -> Option<Vec<Candidate>> {
        let mut candidates = Vec::new();
        let _ = self.each_alike(room.free, &mut |set| {
            candidates.push((set, self.level(set)));
        });
        let mut levels: Vec<Level> = candidates.iter().map(|(_, level)| *level).collect();
        levels.sort();
        levels.dedup();
        let packing = |level: Level| {
            let good_enough = candidates.iter().filter(|candidate| candidate.1 >= level);
            Packing::new(good_enough.map(|(set, _)| *set), self.rule.group_size)
        };
        let fits = |level: &Level| packing(*level).fits(room.free, self.rule.group_count);
        let fitting = levels.partition_point(fits);
        let level = *levels.get(fitting.checked_sub(1)?)?;
        let mut packing = packing(level);
        let mut groups = Vec::with_capacity(self.rule.group_count);
        for missing in (0..self.rule.group_count).rev() {
            let group = self.best_group(room, &mut |candidate| {
                candidate.key.level >= level
                    && packing.fits(room.free.difference(candidate.set), missing)
            })?;
            room = room.without(group.set);
            groups.push(group);
        }
        Some(groups)
    }

    /// The best group in the room that is `acceptable`.
    fn best_group(
        &self,
        room: Room,
        acceptable: &mut dyn FnMut(Candidate) -> bool,
    ) -> Option<Candidate> {
        let mut best: Option<Candidate> = None;
        self.each(room.free, &mut |set| {
            let rival = best.map(|best| best.key);
            let Some(mut candidate) = self.candidate_if(set, rival) else {
                return;
            };
            let is_better = match &mut best {
                Some(best) => self.compare(&mut candidate, best, room) == Ordering::Greater,
                None => true,
            };
            if is_better && acceptable(candidate) {
                best = Some(candidate);
            }
        });
        best
    }

    /// The best `limit` groups, best first, each with all that it is judged by.
    pub(crate) fn ranked(&self, room: Room, limit: usize) -> Best {
        let mut candidates = Vec::new();
        let is_complete =
            self.each_alike(room.free, &mut |set| candidates.push(self.candidate(set)));
        if !is_complete {
            // Several GPUs may grow the same one.
            candidates.sort_by_key(|candidate| candidate.set);
            candidates.dedup_by_key(|candidate| candidate.set);
        }
        let candidate_count = candidates.len();
        candidates.sort_by_key(|candidate| Reverse(candidate.key));
        // What is left behind is computed for those only that can still be among the first.
        let last = candidates.get(limit.saturating_sub(1)).map(|last| last.key);
        let rest = last.map_or(candidates.len(), |last| {
            candidates.partition_point(|candidate| candidate.key >= last)
        });
        candidates.truncate(rest);
        let mut ranked: Vec<Criteria> = candidates
            .iter()
            .map(|candidate| self.criteria(candidate, room))
            .collect();
        ranked.sort_by(|one, other| other.cmp(one));
        ranked.truncate(limit);
        Best {
            criteria: ranked,
            candidate_count,
            is_complete,
        }
    }

    fn criteria(&self, candidate: &Candidate, room: Room) -> Criteria {
        let (future, Reverse(cut)) = self.left(candidate.set, room);
        Criteria {
            meets_wish: candidate.key.level.meets_wish,
            bandwidth: candidate.key.level.bandwidth,
            numa_nodes: candidate.key.place.numa_nodes.map(|Reverse(count)| count),
            sockets: candidate.key.place.sockets.map(|Reverse(count)| count),
            nic_rank: candidate.key.place.nic_rank,
            future,
            cut,
            set: candidate.set,
        }
    }

    fn candidate(&self, set: GpuSet) -> Candidate {
        let candidate = self.candidate_if(set, None);
        candidate.expect("without a rival everything is good enough")
    }

    /// The candidate, unless its key is less than that of its `rival`.
    fn candidate_if(&self, set: GpuSet, rival: Option<Key>) -> Option<Candidate> {
        let meets_wish = self.meets_wish(set);
        let numa_nodes = || Reverse(self.shape.numa_count(set));
        let sockets = || Reverse(self.shape.socket_count(set));
        let place = Place {
            numa_nodes: self.rule.counts_numa.then(numa_nodes),
            sockets: self.rule.counts_numa.then(sockets),
            nic_rank: self.rule.counts_nic.then(|| self.nic_rank(set)),
        };
        let key = |bandwidth| Key {
            level: Level {
                meets_wish,
                bandwidth,
            },
            place,
        };
        let is_enough = |bandwidth| rival.is_none_or(|rival| key(bandwidth) >= rival);
        Some(Candidate {
            set,
            key: key(self.shape.bandwidth_if(set, &is_enough)?),
            left: None,
        })
    }

    fn level(&self, set: GpuSet) -> Level {
        Level {
            meets_wish: self.meets_wish(set),
            bandwidth: self.shape.bandwidth(set),
        }
    }

    fn meets_wish(&self, set: GpuSet) -> bool {
        set.iter().all(|gpu| set.is_subset(self.wished[gpu]))
    }

    /// Greater is better. What is left behind is only computed where all before is equal.
    fn compare(&self, one: &mut Candidate, other: &mut Candidate, room: Room) -> Ordering {
        let by_key = one.key.cmp(&other.key);
        if !self.looks_behind {
            return by_key;
        }
        by_key.then_with(|| {
            let left = |candidate: &mut Candidate| {
                let set = candidate.set;
                *candidate.left.get_or_insert_with(|| self.left(set, room))
            };
            left(one).cmp(&left(other))
        })
    }

    fn left(&self, set: GpuSet, room: Room) -> Left {
        let left = room.around.difference(set);
        let worth = self.shape.worth(left, room.around);
        (worth, Reverse(self.cut(set, left)))
    }

    /// Of the GPU that is farthest from an RDMA card.
    fn nic_rank(&self, set: GpuSet) -> u8 {
        let ranks = set
            .iter()
            .map(|position| self.shape.facts.gpus[position].nic_rank);
        ranks.min().unwrap_or_default()
    }

    fn cut(&self, set: GpuSet, left: GpuSet) -> Cut {
        let mut cut = Cut::default();
        for a in set.iter() {
            cut.numa_neighbours += self.shape.same_numa[a].intersection(left).len();
            for b in left.iter() {
                let pair = self.shape.facts.pair(a, b);
                cut.nvlink_mb_per_second += u64::from(pair.nvlink_mb);
                if pair.nvlink_mb == 0 {
                    cut.pcie += u64::from(pair.ancestor_rank);
                }
            }
        }
        cut
    }

    /// Calls `visit` with every group that meets the requirements, ascending, of groups that differ
    /// by twins one; with those grown from each GPU where there are too many.
    fn each(&self, free: GpuSet, visit: &mut dyn FnMut(GpuSet)) {
        let _ = self.each_of(free, &self.shape.twins, visit);
    }

    /// As [`Self::each`], with all that differ by twins; whether there were few enough for all.
    fn each_alike(&self, free: GpuSet, visit: &mut dyn FnMut(GpuSet)) -> bool {
        self.each_of(free, &self.shape.alone, visit)
    }

    fn each_of(&self, free: GpuSet, twins: &[GpuSet], visit: &mut dyn FnMut(GpuSet)) -> bool {
        let free: GpuSet = free
            .iter()
            .filter(|position| self.together[*position].contains(*position))
            .collect();
        let sets = Sets {
            from: free,
            size: self.rule.group_size,
            twins,
            together: &self.together,
        };
        let are_few = sets.are_few();
        if are_few {
            let _ = sets.each(&mut |set| {
                visit(set);
                ControlFlow::Continue(())
            });
        } else {
            free.iter()
                .filter_map(|seed| self.grow(seed, free))
                .for_each(visit);
        }
        are_few
    }

    fn grow(&self, seed: usize, free: GpuSet) -> Option<GpuSet> {
        let mut set = GpuSet::EMPTY.with(seed);
        let mut from = free.without(seed).intersection(self.together[seed]);
        while set.len() < self.rule.group_size {
            // Of equal ones the lowest: `max_by_key` keeps the last.
            let lowest_first = |next: usize| (self.level(set.with(next)), usize::MAX - next);
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

// === impl Room ===

impl Room {
    /// Where every free GPU would do.
    pub(crate) fn only(free: GpuSet) -> Self {
        Self { free, around: free }
    }

    fn without(self, taken: GpuSet) -> Self {
        Self {
            free: self.free.difference(taken),
            around: self.around.difference(taken),
        }
    }
}
