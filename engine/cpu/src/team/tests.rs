//! Teams of more workers than this machine may have CPUs.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn team(workers: usize) -> Team {
    Team::new(Some(workers)).expect("threads")
}

fn even(count: usize, work: &(dyn Fn(Piece) + Sync)) -> Stage<'_> {
    Stage {
        pieces: Pieces::Even(count),
        work,
    }
}

fn counters(count: usize) -> Vec<AtomicUsize> {
    (0..count).map(|_| AtomicUsize::new(0)).collect()
}

fn are_all(counters: &[AtomicUsize], expected: usize) -> bool {
    counters
        .iter()
        .all(|counter| counter.load(Ordering::Relaxed) == expected)
}

#[test]
fn every_worker_does_what_each_is_to_do_once() {
    for count in 1..=4 {
        let mut team = team(count);
        let seen = counters(count);
        for _ in 0..100 {
            team.run_on_each(|worker| {
                assert_eq!(worker.count, count);
                seen[worker.index].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(are_all(&seen, 100));
    }
}

#[test]
fn every_piece_is_done_once_and_no_stage_begins_before_the_one_before_is_done() {
    for count in 1..=4 {
        let mut team = team(count);
        for pieces in [0, 1, 2, 3, 7, 40] {
            let (first, second, third) = (counters(pieces), counters(3 * count), counters(2));
            let add = |to: &[AtomicUsize], index: usize| {
                to[index].fetch_add(1, Ordering::Relaxed);
            };
            for round in 1..=50 {
                team.run(&[
                    even(pieces, &|piece| add(&first, piece.index)),
                    Stage {
                        pieces: Pieces::Own(&|_| 3),
                        work: &|piece| {
                            assert!(are_all(&first, round));
                            add(&second, 3 * piece.of.index + piece.index);
                        },
                    },
                    even(2, &|piece| {
                        assert!(are_all(&second, round));
                        add(&third, piece.index);
                    }),
                ]);
                assert!(are_all(&third, round));
            }
        }
    }
}

#[test]
fn who_has_not_come_holds_nobody_up() {
    let mut team = Team {
        // Whose second worker never comes.
        shared: Arc::new(Shared::new(2)),
        threads: vec![],
        cpus: vec![0, 0],
        memory: Pool::default(),
    };
    let done = counters(9);
    team.run(&[even(9, &|piece| {
        done[piece.index].fetch_add(1, Ordering::Relaxed);
    })]);
    assert!(are_all(&done, 1));
}

#[test]
fn a_panic_reaches_the_caller_frees_who_waits_and_the_team_goes_on() {
    for bad in 0..6 {
        let mut team = team(3);
        let began = AtomicUsize::new(0);
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            team.run(&[
                even(6, &|piece| {
                    if piece.index == bad {
                        panic::resume_unwind(Box::new(bad));
                    }
                }),
                even(6, &|_| {
                    began.fetch_add(1, Ordering::Relaxed);
                }),
            ]);
        }));
        let payload = result.expect_err("a piece panicked");
        assert_eq!(payload.downcast_ref(), Some(&bad));
        assert_eq!(began.into_inner(), 0);
        let ran = AtomicUsize::new(0);
        team.run_on_each(|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.into_inner(), 3);
    }
}

#[test]
fn workers_that_slept_wake_for_the_next_run() {
    let mut team = team(2);
    let shared = Arc::clone(&team.shared);
    // Asleep when it is counted; it always gets there.
    while shared.start.sleepers() == 0 {
        thread::yield_now();
    }
    let ran = AtomicUsize::new(0);
    team.run_on_each(|_| {
        ran.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(ran.into_inner(), 2);
}

#[test]
fn each_worker_is_pinned_to_its_cpu_and_the_caller_gets_its_mask_back() {
    let before = Cpus::of_this_thread().expect("a mask");
    let mut team = Team::new(None).expect("threads");
    assert_eq!(team.worker_count(), before.list().len());
    assert_eq!(Cpus::of_this_thread().expect("a mask"), before);
    let pinned = team.pin_caller();
    let cpus = team.cpus().to_vec();
    team.run_on_each(|worker| {
        let mine = Cpus::of_this_thread().expect("a mask");
        assert_eq!(mine.list(), [cpus[worker.index]]);
    });
    drop(pinned);
    assert_eq!(Cpus::of_this_thread().expect("a mask"), before);
}
