//! Teams of more workers than this machine may have CPUs.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::*;

fn team(workers: usize) -> Team {
    Team::new(Some(workers)).expect("threads")
}

#[test]
fn every_worker_runs_once_in_every_run() {
    for count in 1..=4 {
        let mut team = team(count);
        let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..100 {
            team.run(|worker| {
                assert_eq!(worker.count, count);
                seen[worker.index].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(seen.iter().all(|runs| runs.load(Ordering::Relaxed) == 100));
    }
}

#[test]
fn nobody_passes_a_barrier_before_all_have_come() {
    let mut team = team(3);
    let arrived = AtomicUsize::new(0);
    team.run(|worker| {
        for round in 1..=200 {
            arrived.fetch_add(1, Ordering::SeqCst);
            worker.barrier();
            assert!(arrived.load(Ordering::SeqCst) >= 3 * round);
            worker.barrier();
        }
    });
    assert_eq!(arrived.into_inner(), 600);
}

#[test]
fn shares_cover_everything_once_and_differ_by_at_most_one() {
    for (count, items) in [(1, 5), (2, 5), (3, 3), (4, 2), (3, 0), (2, 64)] {
        let mut team = team(count);
        let taken: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
        team.run(|worker| {
            let share = worker.share(items);
            assert!(share.len().abs_diff(items / count) <= 1);
            for item in share {
                taken[item].fetch_add(1, Ordering::Relaxed);
            }
        });
        assert!(taken.iter().all(|times| times.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn a_panic_reaches_the_caller_frees_who_waits_and_the_team_goes_on() {
    for who in 0..3 {
        let mut team = team(3);
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            team.run(|worker| {
                if worker.index == who {
                    panic::resume_unwind(Box::new(who));
                }
                worker.barrier();
                worker.barrier();
            });
        }));
        let payload = result.expect_err("a worker panicked");
        assert_eq!(payload.downcast_ref(), Some(&who));
        let ran = AtomicUsize::new(0);
        team.run(|worker| {
            worker.barrier();
            ran.fetch_add(1, Ordering::Relaxed);
            worker.barrier();
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
    team.run(|_| {
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
    team.run(|worker| {
        let mine = Cpus::of_this_thread().expect("a mask");
        assert_eq!(mine.list(), [cpus[worker.index]]);
    });
    drop(pinned);
    assert_eq!(Cpus::of_this_thread().expect("a mask"), before);
}
