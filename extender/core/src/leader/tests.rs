//! One replica's view of the lease, case by case, and two replicas with late views, at random.

use super::*;
use berth_topology::names;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;

/// A version of the Lease; times are milliseconds of its holder's clock.
#[derive(Clone, Copy, Debug)]
struct Version {
    holder: &'static str,
    acquired: i64,
    renewed: i64,
    transitions: i32,
    version: u64,
    /// Which of the objects that bore the name.
    object: u64,
    ended: Option<i32>,
}

const DURATION_SECONDS: i32 = 15;

// === impl Version ===

impl Version {
    fn lease(self) -> Lease {
        let time = |millis| Some(MicroTime(Timestamp::from_millisecond(millis).unwrap()));
        let mut lease = Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(self.holder.to_owned()),
                acquire_time: time(self.acquired),
                renew_time: time(self.renewed),
                lease_transitions: Some(self.transitions),
                // Who gives it back writes 1, as client-go does.
                lease_duration_seconds: Some(match self.holder {
                    "" => 1,
                    _ => DURATION_SECONDS,
                }),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        lease.metadata.resource_version = Some(self.version.to_string());
        lease.metadata.uid = Some(self.uid());
        let ended = self.ended.map(|term| term.to_string());
        lease.metadata.annotations =
            ended.map(|term| [(names::ENDED_TERM.to_owned(), term)].into());
        lease
    }

    fn uid(self) -> String {
        format!("object-{}", self.object)
    }
}

/// Renewed at that second, by a holder who has had it from the first.
fn lease(holder: &'static str, second: i64) -> Lease {
    held(holder, 0, second, 0)
}

fn held(holder: &'static str, acquired: i64, renewed: i64, transitions: i32) -> Lease {
    let version = u64::try_from(renewed).unwrap_or(0) + 1_000 * u64::try_from(transitions).unwrap();
    Version {
        holder,
        acquired: 1_000 * acquired,
        renewed: 1_000 * renewed,
        transitions,
        version,
        object: 1,
        ended: None,
    }
    .lease()
}

fn saying(mut lease: Lease, ended: i32) -> Lease {
    let said = [(names::ENDED_TERM.to_owned(), ended.to_string())];
    lease.metadata.annotations = Some(said.into());
    let version = version(&lease).map(|version| (version + 1).to_string());
    lease.metadata.resource_version = version;
    lease
}

struct Replica {
    leader: Leader,
    fence: Fence,
    start: Instant,
}

// === impl Replica ===

impl Replica {
    /// On host `a`, with everything listed at second 0, when its former process's bindings are over.
    fn new() -> Self {
        let started = Instant::now();
        let start = started + HANDOVER;
        let mut fence = Fence::default();
        fence.begin(start);
        fence.end();
        Self {
            leader: Leader::new(Some("a".to_owned()), started),
            fence,
            start,
        }
    }

    fn at(&self, second: f64) -> Instant {
        self.start + Duration::from_secs_f64(second)
    }

    fn read(&mut self, lease: Option<&Lease>, second: f64) {
        let now = self.at(second);
        self.leader.read(lease, now, now);
    }

    fn apply(&mut self, lease: &Lease, second: f64) {
        self.leader.apply(lease, self.at(second));
    }

    fn standing(&self, second: f64) -> Standing {
        self.leader.standing(&self.fence, self.at(second))
    }

    fn list(&mut self, second: f64) {
        self.fence.begin(self.at(second));
        self.fence.end();
    }
}

#[test]
fn leads_while_the_holder_before_the_underscore_is_this_host() {
    let mut replica = Replica::new();
    assert_eq!(replica.standing(0.0), Standing::No(Why::NotHolder));
    replica.read(None, 0.0);
    replica.apply(&lease("a_0f3c", 1), 1.0);
    assert_eq!(replica.standing(1.0), Standing::Serves);
    replica.apply(&held("b_0f3c", 2, 2, 1), 2.0);
    assert_eq!(replica.standing(2.0), Standing::No(Why::NotHolder));
    replica.leader.delete();
    assert_eq!(replica.standing(2.0), Standing::No(Why::NotHolder));
}

#[test]
fn the_right_to_bind_counts_from_the_last_read_that_did_not_find_the_renewal() {
    let mut replica = Replica::new();
    replica.read(None, 0.0);
    // Seen at second 9, but it may have been written at second 0.
    replica.apply(&lease("a_1", 1), 9.0);
    let tenure = replica.leader.tenure();
    let within = |second| replica.leader.bind_within(tenure, replica.at(second));
    assert_eq!(within(9.0), Some(POST_MAX));
    assert_eq!(within(11.0), Some(Duration::from_secs(1)));
    assert_eq!(within(11.9), None, "too little is left");
    assert_eq!(replica.standing(12.0), Standing::No(Why::Lapsed));
}

#[test]
fn the_first_renewal_that_is_seen_proves_nothing_and_a_relist_extends_nothing() {
    let mut replica = Replica::new();
    replica.read(Some(&held("a_1", -60, 1, 0)), 0.0);
    assert_eq!(replica.standing(0.0), Standing::No(Why::Lapsed));
    replica.apply(&lease("a_1", 2), 1.0);
    assert_eq!(replica.standing(1.0), Standing::Serves);
    replica.read(Some(&lease("a_1", 2)), 11.0);
    replica.apply(&lease("a_1", 2), 11.5);
    assert_eq!(replica.standing(12.5), Standing::No(Why::Lapsed));
    replica.apply(&held("a_1", -50, -40, 1), 13.0);
    assert_eq!(
        replica.standing(13.0),
        Standing::Serves,
        "times are compared, never read"
    );
}

#[test]
fn an_older_version_than_was_seen_says_nothing_also_after_a_deletion() {
    let mut replica = Replica::new();
    replica.read(None, 0.0);
    replica.apply(&held("b_1", 3, 3, 1), 3.0);
    replica.read(Some(&lease("a_1", 2)), 3.1);
    assert_eq!(replica.standing(3.1), Standing::No(Why::NotHolder));
    replica.apply(&held("a_1", 20, 20, 2), 20.0);
    replica.leader.delete();
    replica.apply(&held("a_1", 20, 20, 2), 20.1);
    assert_eq!(replica.standing(20.1), Standing::No(Why::NotHolder));
}

#[test]
fn a_binding_that_began_before_another_held_the_lease_is_not_sent_in_a_later_term() {
    let mut replica = Replica::new();
    replica.read(None, 0.0);
    replica.apply(&lease("a_1", 1), 1.0);
    let began = replica.leader.tenure();
    let within = |replica: &Replica, tenure, second| {
        let at = replica.at(second);
        replica.leader.bind_within(tenure, at).is_some()
    };
    replica.read(Some(&lease("a_1", 1)), 1.5);
    replica.apply(&lease("a_1", 2), 2.0);
    assert!(within(&replica, began, 2.0), "a renewal changes nothing");
    replica.apply(&held("b_1", 3, 3, 1), 3.0);
    assert!(!within(&replica, began, 3.0));
    replica.apply(&held("a_2", 4, 4, 2), 4.0);
    assert!(!within(&replica, began, 4.0), "the other may have bound");
    assert!(within(&replica, replica.leader.tenure(), 4.0));
}

#[test]
fn one_that_is_told_to_end_starts_no_binding() {
    let now = Instant::now();
    let mut leader = Leader::new(None, now);
    assert_eq!(leader.bind_within(leader.tenure(), now), Some(POST_MAX));
    leader.retire();
    assert_eq!(leader.bind_within(leader.tenure(), now), None);
    assert!(!leader.leads(now));
}

#[test]
fn after_a_lease_has_passed_it_serves_once_it_has_listed_pods() {
    let mut replica = Replica::new();
    replica.read(None, 0.0);
    replica.apply(&held("b_1", 1, 1, 0), 1.0);
    assert!(!replica.leader.wants_list(&replica.fence, replica.at(12.0)));
    // b has stopped a fifth of the lease before it passes: time enough to list.
    assert!(replica.leader.wants_list(&replica.fence, replica.at(13.0)));
    replica.read(Some(&held("b_1", 1, 1, 0)), 15.5);
    replica.apply(&held("a_1", 16, 16, 1), 16.0);
    assert_eq!(replica.standing(16.0), Standing::No(Why::Unlisted));
    replica.list(16.0);
    assert_eq!(replica.standing(16.1), Standing::Serves);
    assert!(!replica.leader.wants_list(&replica.fence, replica.at(16.1)));
}

#[test]
fn after_a_lease_was_given_back_it_waits_for_what_was_begun() {
    let mut replica = Replica::new();
    replica.read(None, 0.0);
    replica.apply(&held("b_1", 1, 1, 0), 1.0);
    replica.apply(&held("", 2, 2, 0), 2.0);
    replica.read(Some(&held("", 2, 2, 0)), 2.5);
    replica.apply(&held("a_1", 3, 3, 1), 3.0);
    replica.list(4.9);
    assert_eq!(replica.standing(4.9), Standing::No(Why::OthersBind));
    assert_eq!(replica.standing(5.0), Standing::No(Why::Unlisted));
    replica.list(5.0);
    assert_eq!(replica.standing(5.1), Standing::Serves);
}

/// Found by the simulation, seed 4234275.
#[test]
fn what_a_holder_began_whom_it_never_saw_is_waited_for_when_a_read_finds_the_lease_given_back() {
    let mut replica = Replica::new();
    replica.read(Some(&held("a_1", 0, 0, 0)), 0.0);
    replica.apply(&held("", 10, 10, 0), 10.0);
    // b held it meanwhile, and gave it back at second 20 with a binding under way.
    replica.read(Some(&held("", 20, 20, 1)), 20.0);
    replica.apply(&held("a_2", 20, 20, 2), 20.0);
    assert!(!replica.leader.wants_list(&replica.fence, replica.at(31.9)));
    assert!(replica.leader.wants_list(&replica.fence, replica.at(32.0)));
}

#[test]
fn who_gave_the_lease_back_says_when_its_bindings_are_over_and_nobody_waits_longer() {
    let mut replica = Replica::new();
    replica.read(None, 0.0);
    replica.apply(&held("b_1", 1, 1, 4), 1.0);
    replica.apply(&held("", 2, 2, 4), 2.0);
    replica.apply(&saying(held("", 2, 2, 4), 3), 2.1);
    assert!(
        !replica.leader.wants_list(&replica.fence, replica.at(2.2)),
        "that was another term"
    );
    replica.apply(&saying(held("", 2, 2, 4), 4), 2.3);
    assert!(replica.leader.wants_list(&replica.fence, replica.at(2.3)));
    replica.list(2.3);
    replica.read(Some(&saying(held("", 2, 2, 4), 4)), 2.4);
    replica.apply(&saying(held("a_1", 3, 3, 5), 4), 3.0);
    assert_eq!(replica.standing(3.0), Standing::Serves);
}

#[test]
fn what_it_says_after_the_lease_was_taken_counts_too() {
    let mut replica = Replica::new();
    replica.read(None, 0.0);
    replica.apply(&held("b_1", 1, 1, 4), 1.0);
    replica.apply(&held("", 2, 2, 4), 2.0);
    replica.apply(&held("a_1", 3, 3, 5), 2.1);
    replica.list(2.2);
    assert_eq!(replica.standing(2.2), Standing::No(Why::OthersBind));
    replica.apply(&saying(held("a_1", 3, 3, 5), 4), 2.3);
    assert_eq!(replica.standing(2.3), Standing::No(Why::Unlisted));
    replica.list(2.3);
    assert_eq!(replica.standing(2.3), Standing::Serves);
}

#[test]
fn it_says_so_of_a_term_of_its_own_that_it_has_seen_end_and_of_no_other() {
    let mut replica = Replica::new();
    let ended = |replica: &Replica, second| {
        let term = replica.leader.ended_term(replica.at(second));
        term.map(|term| term.number)
    };
    replica.read(None, 0.0);
    replica.apply(&held("b_1", 1, 1, 4), 1.0);
    replica.apply(&held("", 2, 2, 4), 2.0);
    assert_eq!(ended(&replica, 9.0), None, "it was not ours");
    replica.apply(&held("a_1", 3, 3, 5), 3.0);
    assert_eq!(ended(&replica, 9.0), None, "it goes on");
    replica.apply(&held("", 4, 4, 5), 4.0);
    assert_eq!(ended(&replica, 4.9), None, "what b began may be under way");
    assert_eq!(ended(&replica, 5.0), Some(5));
    replica.apply(&held("b_2", 5, 5, 6), 5.0);
    assert_eq!(ended(&replica, 5.0), Some(5), "b waits for it");
    let term = replica.leader.ended_term(replica.at(5.0)).cloned().unwrap();
    replica.leader.told(&term);
    assert_eq!(ended(&replica, 9.0), None);
}

#[test]
fn it_says_nothing_of_a_lease_that_was_deleted_or_of_a_term_long_ago() {
    let mut replica = Replica::new();
    replica.read(None, 0.0);
    replica.apply(&held("a_1", 3, 3, 5), 3.0);
    replica.apply(&held("", 4, 4, 5), 4.0);
    replica.apply(&held("b_2", 5, 5, 6), 5.0);
    replica.apply(&held("", 6, 6, 6), 6.0);
    assert_eq!(replica.leader.ended_term(replica.at(20.0)), None);
    replica.apply(&held("a_1", 7, 7, 7), 7.0);
    replica.apply(&held("", 8, 8, 7), 8.0);
    assert!(replica.leader.ended_term(replica.at(20.0)).is_some());
    replica.leader.delete();
    assert_eq!(replica.leader.ended_term(replica.at(20.0)), None);
}

#[test]
fn what_was_said_of_a_former_term_does_not_excuse_its_own_former_process() {
    let started = Instant::now();
    let mut replica = Replica {
        leader: Leader::new(Some("a".to_owned()), started),
        fence: Fence::default(),
        start: started,
    };
    replica.read(Some(&saying(held("a_1", 100, 101, 3), 2)), 0.0);
    replica.apply(&saying(held("a_1", 100, 102, 3), 2), 1.0);
    replica.list(1.0);
    assert_eq!(replica.standing(2.9), Standing::No(Why::OthersBind));
    replica.list(3.0);
    assert_eq!(replica.standing(3.0), Standing::Serves);
}

#[test]
fn after_a_lease_was_deleted_it_waits_until_its_holder_must_have_stopped() {
    let mut replica = Replica::new();
    replica.read(None, 0.0);
    replica.apply(&held("b_1", 1, 1, 0), 1.0);
    replica.leader.delete();
    replica.read(None, 2.0);
    replica.apply(&held("a_1", 3, 3, 0), 3.0);
    assert_eq!(replica.standing(12.9), Standing::No(Why::OthersBind));
}

#[test]
fn a_scheduler_that_follows_another_of_the_same_host_is_served_at_once() {
    let mut replica = Replica::new();
    replica.read(None, 0.0);
    replica.apply(&lease("a_1", 1), 1.0);
    replica.read(Some(&lease("a_1", 1)), 15.0);
    replica.apply(&held("a_2", 16, 16, 1), 16.0);
    assert_eq!(
        replica.standing(16.0),
        Standing::Serves,
        "all was written by us"
    );
}

#[test]
fn one_that_starts_while_its_scheduler_leads_waits_for_its_next_renewal_alone() {
    let mut replica = Replica::new();
    replica.read(Some(&held("a_1", 100, 160, 3)), 0.0);
    assert_eq!(replica.standing(0.0), Standing::No(Why::Lapsed));
    replica.list(0.1);
    replica.apply(&held("a_1", 100, 162, 3), 2.0);
    assert_eq!(replica.standing(2.0), Standing::Serves);
}

#[test]
fn one_that_starts_just_after_a_change_waits_for_whoever_was_before() {
    let mut replica = Replica::new();
    replica.read(Some(&held("a_1", 100, 102, 3)), 0.0);
    replica.apply(&held("a_1", 100, 104, 3), 2.0);
    assert_eq!(replica.standing(9.9), Standing::No(Why::OthersBind));
    assert_eq!(replica.standing(10.1), Standing::No(Why::Unlisted));
}

#[test]
fn without_a_lease_it_always_leads_once_its_former_process_can_bind_no_more() {
    let started = Instant::now();
    let leader = Leader::new(None, started);
    let mut fence = Fence::default();
    fence.begin(started);
    fence.end();
    let early = started + HANDOVER - Duration::from_millis(1);
    assert!(leader.leads(early) && !leader.wants_list(&fence, early));
    assert_eq!(
        leader.standing(&fence, early),
        Standing::No(Why::OthersBind)
    );
    let later = started + HANDOVER;
    assert_eq!(leader.standing(&fence, later), Standing::No(Why::Unlisted));
    assert!(leader.wants_list(&fence, later));
    fence.begin(later);
    fence.end();
    assert_eq!(leader.standing(&fence, later), Standing::Serves);
    assert!(!leader.wants_list(&fence, later));
}

#[test]
fn with_a_lease_its_former_process_is_waited_for_too() {
    let started = Instant::now();
    let mut replica = Replica {
        leader: Leader::new(Some("a".to_owned()), started),
        fence: Fence::default(),
        start: started,
    };
    replica.read(Some(&held("a_1", 100, 160, 3)), 0.0);
    replica.apply(&held("a_1", 100, 162, 3), 2.0);
    replica.list(2.0);
    assert_eq!(replica.standing(2.9), Standing::No(Why::OthersBind));
    assert_eq!(replica.standing(3.0), Standing::No(Why::Unlisted));
    replica.list(3.0);
    assert_eq!(replica.standing(3.0), Standing::Serves);
}

mod two;
