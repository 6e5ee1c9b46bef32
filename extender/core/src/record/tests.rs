//! What is kept, in which bounds.

use super::*;
use crate::decide::{self, Ask};
use crate::fixtures::*;
use crate::index::Index;

fn filter(
    records: &mut Records,
    index: &mut Index,
    pod: &k8s_openapi::api::core::v1::Pod,
    names: &[&str],
) {
    let (snapshot, ask) = (snapshot(index), Ask::of_pod(pod, RESOURCE));
    let verdicts = decide::filter(&snapshot, &ask, names);
    let inputs = Inputs::of(&snapshot, &ask, &verdicts.offered, decide::Preference::Pack);
    records.filtered(&Asked::of(pod), "now".to_owned(), inputs, &verdicts);
}

#[test]
fn answers_keep_the_order_of_the_nodes_and_each_reason_once() {
    let mut records = Records::default();
    let mut index = cluster(&["a", "b"]);
    filter(
        &mut records,
        &mut index,
        &pod("p", 1),
        &["x", "b", "y", "a"],
    );
    let record = records.iter().next().unwrap();
    let Decided::Filter { outcomes, reasons } = &record.decided else {
        panic!("{record:?}");
    };
    use Outcome::{Fits, Refused};
    assert_eq!(*outcomes, [Refused(0), Fits(10), Refused(0), Fits(10)]);
    assert_eq!(reasons.len(), 1);
}

#[test]
fn where_records_hold_too_much_the_oldest_lose_their_inputs_and_keep_their_hash() {
    let mut records = Records::default();
    let mut index = cluster(&["a"]);
    let names: Vec<String> = (0..4_000).map(|number| format!("node-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    filter(&mut records, &mut index, &pod("first", 1), &names);
    let hash = records.iter().next().unwrap().inputs_hash();
    for number in 0..70 {
        filter(
            &mut records,
            &mut index,
            &pod(&format!("p{number}"), 1),
            &names,
        );
    }
    assert!(records.bytes() <= BYTES_MAX);
    let first = records.iter().next().unwrap();
    assert!(first.inputs().is_none());
    assert_eq!(first.inputs_hash(), hash, "equal inputs, equal hashes");
    assert!(records.iter().next_back().unwrap().inputs().is_some());
}

#[test]
fn the_oldest_are_forgotten() {
    let mut records = Records::default();
    let mut index = cluster(&["a"]);
    for number in 0..=RECORDS_MAX {
        filter(
            &mut records,
            &mut index,
            &pod(&format!("p{number}"), 1),
            &["a"],
        );
    }
    assert_eq!(records.len(), RECORDS_MAX);
    assert!(records.of_pod("ns", "p0").is_empty());
    assert!(records.of_uid(&"u-p0".into()).is_none());
    assert!(records.of_uid(&"u-p1".into()).is_some());
    assert_eq!(records.newest.len(), RECORDS_MAX);
    let last = records.of_pod("ns", &format!("p{RECORDS_MAX}"));
    assert_eq!(last.len(), 1);
    let whole: usize = records.iter().map(Record::bytes).sum();
    assert_eq!(records.bytes(), whole);
}

#[test]
fn what_preempt_was_offered_counts_and_is_dropped_like_the_rest() {
    let mut records = Records::default();
    let mut index = cluster(&["a"]);
    let victims = |node: usize| (0..100).map(move |pod| PodUid(format!("u-{node}-{pod}")));
    let offers = (0..500).map(|node| {
        let victims = victims(node).collect();
        (
            format!("node-{node}"),
            preempt::Offer {
                victims,
                violation_count: 0,
            },
        )
    });
    let offers: BTreeMap<String, preempt::Offer> = offers.collect();
    let (snapshot, pod) = (snapshot(&mut index), pod("p", 1));
    let ask = ask(&pod);
    let answer = preempt::preempt(&snapshot, &ask, &offers);
    assert_eq!(answer.spared.len(), 500);
    for _ in 0..20 {
        let inputs = Inputs::of_preempt(&snapshot, &ask, &offers);
        records.preempted(&Asked::of(&pod), "now".to_owned(), inputs, &answer);
    }
    assert!(records.bytes() <= BYTES_MAX, "{}", records.bytes());
    let (first, last) = (
        records.iter().next().unwrap(),
        records.iter().next_back().unwrap(),
    );
    assert!(first.inputs().is_none() && last.inputs().is_some());
    assert_eq!(first.inputs_hash(), last.inputs_hash());
    let whole: usize = records.iter().map(Record::bytes).sum();
    assert_eq!(records.bytes(), whole);
}

#[test]
fn a_pod_created_again_under_its_name_is_another_one() {
    let mut records = Records::default();
    let mut index = cluster(&["a"]);
    filter(&mut records, &mut index, &pod("p", 1), &["a"]);
    let mut again = pod("p", 2);
    again.metadata.uid = Some("u-again".to_owned());
    filter(&mut records, &mut index, &again, &["a"]);
    let of_pod = records.of_pod("ns", "p");
    assert_eq!(of_pod.len(), 1);
    assert_eq!(of_pod[0].asked.uid.as_str(), "u-again");
}

#[test]
fn other_inputs_have_another_hash() {
    let mut records = Records::default();
    let mut index = cluster(&["a", "b"]);
    filter(&mut records, &mut index, &pod("p", 1), &["a", "b"]);
    filter(&mut records, &mut index, &pod("p", 1), &["a", "b"]);
    filter(&mut records, &mut index, &pod("p", 1), &["b", "a"]);
    index.apply_pod(&bound(pod("q", 1), "a", &[3]));
    filter(&mut records, &mut index, &pod("p", 1), &["a", "b"]);
    let hashes: Vec<String> = records.iter().map(Record::inputs_hash).collect();
    assert_eq!(hashes[0], hashes[1]);
    assert_ne!(hashes[0], hashes[2]);
    assert_ne!(hashes[0], hashes[3]);
}
