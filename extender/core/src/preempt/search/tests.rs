//! The order of costs, and the bound beyond which sets are not weighed one by one.

use super::*;

fn pool<'a>(priorities: &[i32], ledger: &'a Ledger) -> Pool<'a> {
    let candidate = |priority: &i32| Candidate {
        priority: *priority,
        ..Candidate::default()
    };
    Pool {
        candidates: priorities.iter().map(candidate).collect(),
        ledger,
    }
}

fn unprotected(count: usize) -> Ledger {
    use crate::budgets::Budgets;
    use crate::pod::Holder;
    let mut budgets = Budgets::default();
    budgets.reset(&[]);
    budgets.ledger(vec![Holder::default(); count].iter())
}

#[track_caller]
fn check(priorities: &[i32], accepts: impl Fn(&[usize]) -> bool, best: Option<&[usize]>) {
    let ledger = unprotected(priorities.len());
    let found = pool(priorities, &ledger).best(|chosen| accepts(chosen));
    assert_eq!(found.as_deref(), best);
}

#[test]
fn a_lower_highest_priority_comes_before_fewer_pods() {
    check(
        &[9, 1, 1],
        |chosen| chosen.contains(&0) || chosen.len() >= 2,
        Some(&[1, 2]),
    );
}

#[test]
fn fewer_pods_come_before_lower_sums_of_small_priorities() {
    check(
        &[5, 5, 0],
        |chosen| chosen == [0, 1, 2] || chosen.contains(&0),
        Some(&[0]),
    );
}

#[test]
fn nobody_leaves_where_that_would_not_help_or_is_not_needed() {
    check(&[1, 2], |_| false, None);
    check(&[2, 1], |_| true, Some(&[]));
}

#[test]
fn a_pod_that_leaves_anyway_comes_before_one_that_would_stay() {
    let ledger = unprotected(2);
    let mut pool = pool(&[7, 1], &ledger);
    pool.candidates[0].is_terminating = true;
    assert_eq!(pool.best(|chosen| !chosen.is_empty()), Some(vec![0]));
}

#[test]
fn one_that_has_to_leave_is_in_every_set() {
    let ledger = unprotected(3);
    let mut pool = pool(&[7, 1, 1], &ledger);
    pool.candidates[0].is_required = true;
    assert_eq!(pool.best(|chosen| chosen.len() >= 2), Some(vec![0, 1]));
}

#[test]
fn of_equals_the_one_that_started_last_leaves() {
    let ledger = unprotected(2);
    let mut pool = pool(&[1, 1], &ledger);
    pool.candidates[0].started_at_us = Some(10);
    pool.candidates[1].started_at_us = Some(20);
    assert_eq!(pool.best(|chosen| !chosen.is_empty()), Some(vec![1]));
}

#[test]
fn beyond_the_bound_one_placement_per_pod_finds_a_set_from_which_none_can_be_taken_back() {
    let count = 40;
    let priorities: Vec<i32> = (0..40).rev().collect();
    let ledger = unprotected(count);
    let mut asked = 0;
    let found = pool(&priorities, &ledger).best(|chosen| {
        asked += 1;
        chosen.iter().filter(|position| *position % 2 == 0).count() >= 2
    });
    assert_eq!(found, Some(vec![36, 38]));
    assert_eq!(asked, count + 1);
}

#[test]
fn every_set_is_looked_at_once_at_most() {
    let ledger = unprotected(EXACT_MAX);
    let mut asked = 0;
    let found = pool(&[1; EXACT_MAX], &ledger).best(|chosen| {
        asked += 1;
        chosen.len() == EXACT_MAX
    });
    assert_eq!(found.map(|chosen| chosen.len()), Some(EXACT_MAX));
    assert!(asked <= 1 + (1 << EXACT_MAX), "{asked}");
}
