//! The proof as a test: a few thousand seeds hold every promise, and faults put in on purpose do not.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_proof::run::{play, replay};
use berth_proof::sabotage::Sabotage;

/// Seeds of an ordinary run; `BERTH_PROOF_SEEDS` says another number.
const SEEDS: u64 = 5_000;

fn seeds() -> u64 {
    let given = std::env::var("BERTH_PROOF_SEEDS").ok();
    given.map_or(SEEDS, |text| {
        text.parse().expect("BERTH_PROOF_SEEDS is a number")
    })
}

/// The least seed that breaks a promise of that kind, of the first so many.
fn first_failure(sabotage: Sabotage, kind: &str, seeds: u64) -> Option<u64> {
    let next = AtomicU64::new(0);
    let failed = Mutex::new(None);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds
                || failed
                    .lock()
                    .expect("no thread panics")
                    .is_some_and(|failed| failed < seed)
            {
                return;
            }
            if play(seed, sabotage).is_some_and(|violation| violation.contains(kind)) {
                let mut failed = failed.lock().expect("no thread panics");
                *failed = Some(failed.map_or(seed, |known: u64| known.min(seed)));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    failed.into_inner().expect("no thread panics")
}

#[test]
fn no_interleaving_gives_a_gpu_twice_or_loses_a_pod() {
    let seeds = seeds();
    println!("seeds 0..{seeds}");
    if let Some(seed) = first_failure(Sabotage::Nothing, "", seeds) {
        let failure = replay(seed, Sabotage::Nothing).unwrap_err();
        panic!(
            "berth-proof replay {seed}: after {} events: {}\n{}",
            failure.event_count,
            failure.violation,
            failure.log.join("\n")
        );
    }
}

#[test]
fn a_seed_is_always_the_same_story() {
    for seed in 0..200 {
        assert_eq!(
            replay(seed, Sabotage::Nothing).unwrap(),
            replay(seed, Sabotage::Nothing).unwrap()
        );
    }
}

#[track_caller]
#[allow(clippy::print_stdout, reason = "a test says which seed it was")]
fn is_found(sabotage: Sabotage, violation: &str) {
    let seed =
        first_failure(sabotage, violation, SEEDS).expect("a fault put in on purpose is found");
    let failure = replay(seed, sabotage).expect_err("it fails again");
    println!(
        "{sabotage:?}: seed {seed}, {} events: {}",
        failure.event_count, failure.violation
    );
}

#[test]
fn finds_that_a_lost_answer_is_taken_for_a_refusal() {
    is_found(Sabotage::LostIsRefused, "were both given");
}

#[test]
fn finds_that_a_terminating_pod_is_taken_for_gone() {
    is_found(Sabotage::TerminatingIsGone, "were both given");
}

#[test]
fn finds_that_a_binding_is_done_for_another_pod_of_the_name() {
    is_found(Sabotage::UidIgnored, "was bound by a binding for");
}

#[test]
fn finds_that_a_bind_holds_nothing_until_the_watch_shows_it() {
    is_found(Sabotage::NothingHeld, "were both given");
}

#[test]
fn finds_that_both_replicas_lead() {
    is_found(Sabotage::EverybodyLeads, "binds while extender");
}

#[test]
fn finds_that_a_replica_serves_before_it_has_seen_what_the_other_did() {
    is_found(Sabotage::ServesUnfenced, "binds while extender");
}

#[test]
fn finds_that_an_extender_starts_before_what_it_had_sent_is_over() {
    is_found(
        Sabotage::ForgetsFormer,
        "serves while its former process binds",
    );
    is_found(Sabotage::ForgetsFormer, "were both given");
}

#[test]
fn finds_that_bindings_are_said_to_be_over_too_early() {
    is_found(Sabotage::SaysEndedEarly, "binds while extender");
}

#[test]
fn finds_that_a_bind_is_given_up_by_time_alone() {
    is_found(Sabotage::ReleasesByTime, "were both given");
}

#[test]
fn finds_that_nobody_tells_the_scheduler_of_room() {
    is_found(Sabotage::NobodyPokes, "was lost");
}
