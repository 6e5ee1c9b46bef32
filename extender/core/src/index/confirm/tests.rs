//! What reads prove, and what they do not.

use super::*;
use crate::bind::{Error, Prepared, Request, prepare, settle};
use crate::fixtures::*;

/// Nodes `a` and `b`, and pod `p` for all of `a`, whose bind was sent at `start`.
struct Case {
    index: Index,
    pod: Pod,
    uid: PodUid,
    start: Instant,
}

fn case() -> Case {
    let mut index = cluster(&["a", "b"]);
    let pod = pod("p", 8);
    index.apply_pod(&pod);
    let mut case = Case {
        index,
        pod,
        uid: PodUid::from("u-p"),
        start: Instant::now(),
    };
    assert!(matches!(case.bind(0), Ok(Prepared::Post { .. })));
    case
}

fn unsure() -> Result<(), Error> {
    Err(Error::Unsure(String::new()))
}

fn rejected() -> Result<(), Error> {
    Err(Error::Rejected(String::new()))
}

// === impl Case ===

impl Case {
    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    fn bind(&mut self, millis: u64) -> Result<Prepared, Error> {
        let request = Request {
            namespace: "ns".to_owned(),
            name: "p".to_owned(),
            uid: self.uid.clone(),
            node: "a".to_owned(),
        };
        let now = self.at(millis);
        let record = PodRecord::read(&self.pod, RESOURCE);
        prepare(&mut self.index, &request, record.as_ref(), now)
    }

    fn settle(&mut self, outcome: &Result<(), Error>, millis: u64) {
        let now = self.at(millis);
        settle(&mut self.index, &self.uid, outcome, now);
    }

    fn is_asked(&mut self, millis: u64) -> bool {
        let now = self.at(millis);
        !self.index.unconfirmed(now).is_empty()
    }

    fn read(&mut self, found: Option<&Pod>, millis: u64) -> Confirmed {
        let began = self.at(millis);
        self.index.confirmed(&self.uid, found, began, began)
    }

    fn free(&mut self) -> usize {
        free_count(&mut self.index, "a")
    }

    fn bound(&self) -> Pod {
        bound(self.pod.clone(), "a", &[0, 1, 2, 3, 4, 5, 6, 7])
    }
}

#[test]
fn a_pod_is_asked_for_when_a_watch_would_have_shown_it_and_not_more_often_than_once_a_second() {
    let mut case = case();
    assert!(!case.is_asked(100_000), "the POST is under way");
    case.settle(&Ok(()), 100);
    assert!(!case.is_asked(3_099));
    assert!(case.is_asked(3_100));
    assert!(!case.is_asked(4_000));
    assert!(case.is_asked(4_100));
}

#[test]
fn many_are_asked_for_in_turn() {
    let names: Vec<String> = (0..5).map(|node| format!("n-{node}")).collect();
    let mut index = cluster(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let start = Instant::now();
    for number in 0..40 {
        let pod = pod(&format!("p{number}"), 1);
        index.apply_pod(&pod);
        let request = Request {
            namespace: "ns".to_owned(),
            name: format!("p{number}"),
            uid: PodUid(format!("u-p{number}")),
            node: names[number % 5].clone(),
        };
        prepare(&mut index, &request, None, start).unwrap();
        settle(&mut index, &request.uid, &Ok(()), start);
    }
    let mut asked = std::collections::BTreeSet::new();
    for tick in 0..4 {
        let now = start + Duration::from_millis(4_000 + 250 * tick);
        let due = index.unconfirmed(now);
        assert!(due.len() <= ASKS_MAX);
        for one in due {
            assert!(asked.insert(one.name.clone()), "{} again", one.name);
        }
    }
    assert_eq!(asked.len(), 40);
}

#[test]
fn time_alone_gives_nothing_back() {
    for outcome in [Ok(()), unsure()] {
        let mut case = case();
        case.settle(&outcome, 100);
        let later = case.at(1_000_000_000);
        let room = case.index.snapshot(later).node("a").unwrap().room;
        assert_eq!(room.free.len(), 0, "{outcome:?}");
    }
}

#[test]
fn an_unbound_pod_frees_an_unsure_bind_only_if_it_was_read_after_the_last_possible_effect() {
    let mut case = case();
    case.settle(&unsure(), 1_000);
    assert!(!case.is_asked(3_299));
    let pod = case.pod.clone();
    assert_eq!(case.read(Some(&pod), 3_299), Confirmed::Nothing);
    assert_eq!(case.free(), 0);
    assert!(case.is_asked(3_300));
    assert_eq!(case.read(Some(&pod), 3_300), Confirmed::NeverBound);
    assert_eq!(case.free(), 8);
}

#[test]
fn a_read_that_began_before_another_try_says_nothing_of_it() {
    let mut case = case();
    case.settle(&unsure(), 1_000);
    let pod = case.pod.clone();
    assert!(matches!(case.bind(3_400), Ok(Prepared::Post { .. })));
    assert_eq!(case.read(Some(&pod), 3_300), Confirmed::Nothing);
    case.settle(&unsure(), 3_500);
    assert_eq!(case.read(Some(&pod), 3_300), Confirmed::Nothing);
    case.bind(3_600).unwrap();
    case.settle(&Ok(()), 3_700);
    assert_eq!(case.read(Some(&pod), 3_300), Confirmed::Nothing);
    assert_eq!(case.free(), 0);
}

#[test]
fn a_refusal_says_nothing_of_an_earlier_try_that_was_never_answered() {
    let mut case = case();
    case.settle(&unsure(), 1_000);
    case.bind(1_100).unwrap();
    case.settle(&rejected(), 1_200);
    assert_eq!(case.free(), 0, "the first may still come true");
    let pod = case.pod.clone();
    assert_eq!(case.read(Some(&pod), 3_300), Confirmed::NeverBound);
    case.bind(3_400).unwrap();
    case.settle(&rejected(), 3_500);
    assert_eq!(case.free(), 8, "there was no other");
}

#[test]
fn a_pod_that_is_gone_or_another_one_frees_its_bind() {
    let mut another = pod("p", 8);
    another.metadata.uid = Some("u-p+".to_owned());
    for found in [None, Some(&another)] {
        let mut case = case();
        case.settle(&Ok(()), 100);
        assert_eq!(case.read(found, 3_200), Confirmed::Gone);
        assert_eq!(case.free(), 8);
        assert!(matches!(case.bind(3_300), Err(Error::Gone)));
    }
}

#[test]
fn a_bind_that_was_done_is_held_until_the_watch_shows_it_whatever_it_shows_before() {
    let mut case = case();
    // As if no watch had shown it yet.
    case.index = cluster(&["a", "b"]);
    case.bind(0).unwrap();
    case.settle(&unsure(), 100);
    let bound = case.bound();
    assert_eq!(case.read(Some(&bound), 3_000), Confirmed::Bound);
    case.index.reset_pods(Vec::new());
    assert_eq!(case.free(), 0, "a list that began before the pod was there");
    let pod = case.pod.clone();
    case.index.apply_pod(&pod);
    assert_eq!(case.free(), 0, "a watch that is behind");
    case.index.apply_pod(&bound);
    assert_eq!(case.index.sizes().reservations, 0);
    assert_eq!(case.free(), 0);
}

#[test]
fn what_somebody_else_bound_is_held_where_it_is() {
    let mut case = case();
    case.settle(&unsure(), 100);
    let elsewhere = bound_by_other(case.pod.clone(), "b");
    assert_eq!(case.read(Some(&elsewhere), 3_000), Confirmed::Bound);
    assert_eq!(case.free(), 8);
    let room = snapshot(&mut case.index).node("b").unwrap().room;
    assert_eq!((room.free.len(), room.unknown_count), (8, 8));
    assert!(matches!(case.bind(3_100), Err(Error::Unconfirmed(node)) if node == "b"));

    let mut case = self::case();
    case.settle(&unsure(), 100);
    let here = bound_by_other(case.pod.clone(), "a");
    assert_eq!(case.read(Some(&here), 3_000), Confirmed::Bound);
    assert!(matches!(case.bind(3_100), Err(Error::BoundByOther)));
}

#[test]
fn a_pod_that_has_ended_holds_nothing() {
    let mut case = case();
    case.settle(&Ok(()), 100);
    let ended = in_phase(case.bound(), "Failed");
    assert_eq!(case.read(Some(&ended), 3_200), Confirmed::Gone);
    assert_eq!(case.free(), 8);
}

#[test]
fn a_read_that_contradicts_the_api_servers_word_frees_nothing() {
    let mut case = case();
    case.settle(&Ok(()), 100);
    let pod = case.pod.clone();
    assert_eq!(case.read(Some(&pod), 3_200), Confirmed::Contradicted);
    assert_eq!(case.read(Some(&pod), 4_200), Confirmed::Contradicted);
    assert_eq!(case.free(), 0);
    assert!(case.is_asked(5_000));
}

#[test]
fn where_the_watch_was_faster_a_read_says_nothing() {
    let mut case = case();
    case.settle(&Ok(()), 100);
    let bound = case.bound();
    case.index.apply_pod(&bound);
    case.index.apply_pod(&in_phase(bound.clone(), "Succeeded"));
    assert_eq!(case.read(Some(&bound), 3_200), Confirmed::Nothing);
    assert_eq!(case.free(), 8);
}
