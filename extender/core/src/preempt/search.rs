//! Which of a node's pods should leave: exact up to [`EXACT_MAX`] of them, bounded above.
//!
//! Sets are tried from the cheapest on, so the first that is accepted is the best: at most
//! 2^[`EXACT_MAX`] = 4,096 of them, and one where everybody's leaving does not help. Beyond that it goes as
//! kube-scheduler does: all leave, and as many as can are taken back, those that violate a budget first,
//! then the most important. That is one trial per pod and one more.
//!
//! More room never makes a pod not fit. Where that does not hold (a kubelet's topology manager may choose
//! otherwise on an emptier machine) a node may be passed over; none is taken that would not fit.

use std::cmp::Reverse;

use crate::budgets::Ledger;

/// Pods that may leave one node, up to which every set of them is weighed. A machine with eight GPUs has
/// no more than eight.
pub const EXACT_MAX: usize = 12;

/// A pod that may leave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Candidate {
    pub priority: i32,
    pub started_at_us: Option<i64>,
    /// It leaves anyway, and costs nothing.
    pub is_terminating: bool,
    /// It has to leave, whoever else does.
    pub is_required: bool,
}

/// The pods that may leave one node, the most important first.
#[derive(Debug)]
pub(crate) struct Pool<'a> {
    pub candidates: Vec<Candidate>,
    pub ledger: &'a Ledger,
}

/// What it costs that some leave: the less the better, in the order of `pickOneNodeForPreemption`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cost {
    pub violation_count: usize,
    highest_priority: Option<i32>,
    /// Each counted from the least possible on, so that fewer are less.
    priority_sum: i64,
    count: usize,
    /// Those that leave anyway included: none is named without need.
    named_count: usize,
    /// The earliest among those of the highest priority; later is better.
    started_at_us: Reverse<i64>,
}

// === impl Pool ===

impl Pool<'_> {
    /// The best set that is accepted, by position, ascending.
    pub(crate) fn best(&self, mut accepts: impl FnMut(&[usize]) -> bool) -> Option<Vec<usize>> {
        let everybody: Vec<usize> = (0..self.candidates.len()).collect();
        if !accepts(&everybody) {
            return None;
        }
        let optional = everybody
            .iter()
            .filter(|one| !self.candidates[**one].is_required);
        match optional.count() <= EXACT_MAX {
            true => self.cheapest(accepts),
            false => Some(self.reprieved(accepts)),
        }
    }

    /// What it costs that those leave.
    pub(crate) fn cost(&self, chosen: &[usize]) -> Cost {
        let pays = |position: &&usize| !self.candidates[**position].is_terminating;
        let paying: Vec<usize> = chosen.iter().filter(pays).copied().collect();
        let priority = |position: &usize| self.candidates[*position].priority;
        let highest = paying.iter().map(priority).max();
        let of_highest = paying.iter().filter(|one| Some(priority(one)) == highest);
        let started = of_highest.map(|one| self.candidates[*one].started_at_us);
        Cost {
            violation_count: self.ledger.violating(paying.iter().copied()).len(),
            highest_priority: highest,
            priority_sum: paying
                .iter()
                .map(|one| i64::from(priority(one)) + (1 << 31))
                .sum(),
            count: paying.len(),
            named_count: chosen.len(),
            started_at_us: Reverse(
                started
                    .map(|at| at.unwrap_or(i64::MAX))
                    .min()
                    .unwrap_or(i64::MAX),
            ),
        }
    }

    fn cheapest(&self, mut accepts: impl FnMut(&[usize]) -> bool) -> Option<Vec<usize>> {
        let positions = 0..self.candidates.len();
        let (required, optional): (Vec<usize>, Vec<usize>) =
            positions.partition(|position| self.candidates[*position].is_required);
        let with_required = |picks: u32| {
            let picked = optional
                .iter()
                .enumerate()
                .filter(|(bit, _)| picks >> bit & 1 == 1);
            let picked = picked.map(|(_, position)| *position);
            let mut chosen: Vec<usize> = required.iter().copied().chain(picked).collect();
            chosen.sort_unstable();
            chosen
        };
        let mut by_cost: Vec<(Cost, u32)> = (0..1_u32 << optional.len())
            .map(|picks| (self.cost(&with_required(picks)), picks))
            .collect();
        by_cost.sort_unstable();
        let mut sets = by_cost.into_iter().map(|(_, picks)| with_required(picks));
        sets.find(|chosen| accepts(chosen))
    }

    /// Everybody leaves; then as many as can stay.
    fn reprieved(&self, mut accepts: impl FnMut(&[usize]) -> bool) -> Vec<usize> {
        let mut leaving: Vec<usize> = (0..self.candidates.len()).collect();
        let violating = self.ledger.violating(leaving.iter().copied());
        let mut order = leaving.clone();
        order.retain(|position| !self.candidates[*position].is_required);
        order.sort_by_key(|position| {
            let candidate = &self.candidates[*position];
            (
                candidate.is_terminating,
                !violating.contains(position),
                *position,
            )
        });
        for position in order {
            let without: Vec<usize> = leaving
                .iter()
                .copied()
                .filter(|one| *one != position)
                .collect();
            if accepts(&without) {
                leaving = without;
            }
        }
        leaving
    }
}

#[cfg(test)]
mod tests;
