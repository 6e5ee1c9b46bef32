//! Stories about one pod, as people would read them.

use berth_topology::gpu::HealthState;
use berth_topology::ids::{NumaId, PodUid};
use berth_topology::node::NodeTopology;

use super::*;
use crate::bind;
use crate::decide::{self, Preference};
use crate::fixtures::*;
use crate::index::Index;
use crate::preempt::{Offer, preempt};
use crate::record::{Asked, Bound, Records};

/// `a` has one quad left, `b` two GPUs of each quad, `c` nothing; `d` has no topology.
fn index() -> Index {
    let mut index = cluster(&["a", "b", "c"]);
    index.apply_node(&node("d"));
    index.apply_pod(&bound(pod("quad", 4), "a", &[0, 1, 2, 3]));
    index.apply_pod(&bound(pod("mixed", 4), "b", &[0, 1, 4, 5]));
    index.apply_pod(&bound(pod("whole", 8), "c", &[0, 1, 2, 3, 4, 5, 6, 7]));
    index
}

fn decided(pod: &k8s_openapi::api::core::v1::Pod) -> Records {
    let (mut index, mut records) = (index(), Records::default());
    let (snapshot, ask) = (snapshot(&mut index), ask(pod));
    let names = ["b", "a", "c", "d"];
    let verdicts = decide::filter(&snapshot, &ask, &names);
    let inputs = Inputs::of(&snapshot, &ask, &verdicts.offered, Preference::Pack);
    records.filtered(&Asked::of(pod), "then".to_owned(), inputs, &verdicts);
    let fitting: Vec<_> = verdicts.feasible().map(|(one, _)| one).collect();
    let scores = decide::prioritize(&snapshot, &ask, &fitting, Preference::Pack);
    let inputs = Inputs::of(&snapshot, &ask, &fitting, Preference::Pack);
    records.scored(&Asked::of(pod), "then".to_owned(), inputs, &scores);
    records
}

fn explained(records: &Records, why_not: Option<&str>) -> Explanation {
    explain(&records.of_pod("ns", "p"), RESOURCE, why_not).unwrap()
}

#[track_caller]
fn check_why_not(node: &str, sentences: &[&str]) {
    let told = explained(&decided(&pod("p", 4)), Some(node))
        .why_not
        .unwrap();
    for sentence in sentences {
        let is_told = told.sentences.iter().any(|one| one.contains(sentence));
        assert!(is_told, "{sentence:?} is not in {:#?}", told.sentences);
    }
}

#[test]
fn nodes_are_told_best_first_with_what_decided_between_their_sets() {
    let all = explained(&decided(&pod("p", 2)), None);
    let names: Vec<&str> = all.nodes.iter().map(|story| &*story.node).collect();
    let (best, next) = (all.preferred.as_deref(), all.runner_up.as_deref());
    assert_eq!(names, [best.unwrap(), next.unwrap()]);
    assert!(all.feasible[names[0]] >= all.feasible[names[1]]);
    let story = |name: &str| all.nodes.iter().find(|story| story.node == name).unwrap();
    assert_eq!(story("a").free, [4, 5, 6, 7]);
    assert_eq!(story("a").holders["ns/quad"], [0, 1, 2, 3]);
    let sets = &story("b").containers[0].sets;
    assert_eq!(sets[0].gpus, [2, 3]);
    assert_eq!(sets[0].uuids[0].as_str(), "b-2");
    assert_eq!(sets[0].lost_by, None);
    assert_eq!(sets[1].gpus, [6, 7]);
    let loss = sets[1].lost_by.as_ref().unwrap();
    let told = [&*loss.criterion, &*loss.better, &*loss.this];
    assert_eq!(told, ["lowest index", "2,3", "6,7"]);
    let of_b = &story("b").containers[0];
    // Four free GPUs: six pairs.
    assert_eq!((of_b.set_count, of_b.are_all_compared), (6, true));
    let loss = sets[2].lost_by.as_ref().unwrap();
    let told = [&*loss.criterion, &*loss.better, &*loss.this];
    assert_eq!(told, ["bandwidth", "NVLink 50.0 GB/s", "PCIe SYS"]);
    assert_eq!(all.refused["NotEnoughFree"].nodes, ["c"]);
    assert_eq!(all.refused["NoTopology"].count, 1);
    assert!(!all.refused["NoTopology"].resolvable);
}

#[test]
fn why_not_is_answered_for_every_way_in_which_a_node_can_lose() {
    check_why_not(
        "b",
        &[
            "b fits, but a is better: score 10 against",
            "the difference is mostly link: 300 against 0 of a node's 1000 points",
            "GPUs 2, 3, 6, 7",
            "on a: GPUs 4, 5, 6, 7",
        ],
    );
    check_why_not("a", &["a is the preferred node, with score 10"]);
    check_why_not(
        "c",
        &[
            "NotEnoughFree: not enough free GPUs",
            "pods that leave",
            "ns/whole holds GPUs 0, 1, 2",
        ],
    );
    check_why_not(
        "d",
        &[
            "NoTopology",
            "no pod's leaving changes that",
            "free GPUs: none",
        ],
    );
    check_why_not("e", &["kube-scheduler did not ask about e"]);
}

#[test]
fn a_bind_is_told_with_its_assignment_or_its_error() {
    let mut records = decided(&pod("p", 2));
    let request = bind::Request {
        namespace: "ns".to_owned(),
        name: "p".to_owned(),
        uid: "u-p".into(),
        node: "b".to_owned(),
    };
    let error = Err(bind::Error::Rejected("no".to_owned()));
    let bound = Bound::of(&request, Some("{}".to_owned()), &error);
    records.bound(&request, "later".to_owned(), None, bound);
    let told = explained(&records, None).bind.unwrap();
    assert_eq!(
        told.error.as_deref(),
        Some("the API server refused the binding: no")
    );
    records.bound(
        &request,
        "at last".to_owned(),
        None,
        Bound::of(&request, None, &Ok(())),
    );
    let all = explained(&records, Some("a"));
    assert_eq!(all.bind.unwrap().at, "at last");
    let sentences = all.why_not.unwrap().sentences;
    assert!(
        sentences.iter().any(|one| one.contains("was bound to b")),
        "{sentences:?}"
    );
}

#[test]
fn what_the_kubelet_will_do_is_told_of_each_node_and_of_the_bind() {
    let mut index = cluster(&["a", "b"]);
    let mut strict = NodeTopology::new("a", exact("a", "single-numa-node"));
    strict.status.as_mut().unwrap().gpus[0].health.state = HealthState::Failed;
    index.apply_topology(&strict);
    let pod = pod("p", 2);
    let (snapshot, ask) = (snapshot(&mut index), ask(&pod));
    let (names, mut records) = (["a", "b"], Records::default());
    let verdicts = decide::filter(&snapshot, &ask, &names);
    let inputs = Inputs::of(&snapshot, &ask, &verdicts.offered, Preference::Pack);
    records.filtered(&Asked::of(&pod), "then".to_owned(), inputs, &verdicts);
    let request = bind::Request {
        namespace: "ns".to_owned(),
        name: "p".to_owned(),
        uid: "u-p".into(),
        node: "b".to_owned(),
    };
    let (text, _, placed) = bind::choose(&snapshot, &ask, "b").unwrap();
    let bound = Bound::of(&request, Some(text), &Ok(())).doubted(placed.inexact);
    records.bound(&request, "later".to_owned(), None, bound);

    let all = explained(&records, Some("b"));
    let story = |name: &str| all.nodes.iter().find(|story| story.node == name).unwrap();
    assert_eq!((story("a").exact, &story("a").inexact), (Some(true), &None));
    // Alone the kubelet decides on the lowest node with room, whatever is left behind.
    assert_eq!(story("a").containers[0].given, [1, 2]);
    assert_eq!(story("a").containers[0].numa_nodes, Some(vec![NumaId(0)]));
    assert_eq!(story("b").exact, Some(false));
    assert_eq!(story("b").inexact.as_deref(), Some("PluginNotOurs"));
    let bind = all.bind.clone().unwrap();
    assert_eq!(
        (bind.exact, bind.inexact),
        (Some(false), story("b").inexact.clone())
    );
    let sentences = all.why_not.unwrap().sentences;
    let doubt = "on b the kubelet may give others: PluginNotOurs";
    assert!(sentences.iter().any(|one| one == doubt), "{sentences:?}");
}

#[test]
fn a_pod_that_was_never_asked_about_is_not_explained() {
    assert_eq!(explain(&[], RESOURCE, None), None);
}

/// kube-scheduler counts nodes by the text of their reasons: a number or a name of a node in one would
/// make each node a reason of its own.
#[test]
fn refusals_of_one_kind_read_the_same_on_every_node() {
    let all = explained(
        &decided(&annotated(pod("p", 8), "berth.dev/numa", "single")),
        None,
    );
    for (kind, refused) in &all.refused {
        let has_digit = refused.message.chars().any(|c| c.is_ascii_digit());
        assert!(!has_digit, "{kind}: {}", refused.message);
        let names = ["a", "b", "c", "d"].map(|name| format!(" {name} "));
        assert!(
            !names
                .iter()
                .any(|name| refused.message.contains(name.as_str()))
        );
    }
    assert_eq!(all.refused.values().map(|one| one.count).sum::<usize>(), 4);
}

#[test]
fn a_preemption_is_told_with_its_victims_and_why_other_nodes_were_left_out() {
    let mut index = cluster(&["a", "b"]);
    index.apply_pod(&ranked(bound(pod("low", 4), "a", &[0, 1, 2, 3]), 1));
    index.apply_pod(&ranked(bound(pod("peer", 4), "a", &[4, 5, 6, 7]), 10));
    index.apply_pod(&ranked(
        bound(pod("whole", 8), "b", &[0, 1, 2, 3, 4, 5, 6, 7]),
        10,
    ));
    let pod = ranked(pod("p", 4), 10);
    let (snapshot, ask) = (snapshot(&mut index), ask(&pod));
    let (names, mut records) = (["a", "b"], Records::default());
    let verdicts = decide::filter(&snapshot, &ask, &names);
    let inputs = Inputs::of(&snapshot, &ask, &verdicts.offered, Preference::Pack);
    records.filtered(&Asked::of(&pod), "then".to_owned(), inputs, &verdicts);
    let offered = |victims: &[&str]| Offer {
        victims: victims.iter().map(|uid| PodUid::from(*uid)).collect(),
        violation_count: 0,
    };
    let offers = [
        ("a".to_owned(), offered(&["u-low", "u-plain"])),
        ("b".to_owned(), offered(&[])),
        ("c".to_owned(), offered(&["u-low"])),
    ];
    let offers = offers.into();
    let answer = preempt(&snapshot, &ask, &offers);
    let inputs = Inputs::of_preempt(&snapshot, &ask, &offers);
    records.preempted(&Asked::of(&pod), "later".to_owned(), inputs, &answer);

    let all = explained(&records, Some("b"));
    let told = all.preemption.unwrap();
    assert_eq!(told.at, "later");
    let [on_a] = &told.nodes[..] else {
        panic!("{told:?}");
    };
    let victims = on_a
        .victims
        .iter()
        .map(|one| (one.name(), one.priority, &*one.gpus));
    let low: (&str, _, &[u32]) = ("ns/low", Some(1), &[0, 1, 2, 3]);
    let victims: Vec<_> = victims.collect();
    assert_eq!(victims, [low, ("u-plain", None, &[])]);
    let reasons: Vec<_> = told
        .left_out
        .values()
        .map(|one| (&*one.message, &*one.nodes))
        .collect();
    let no_help = "would not fit without any pod of lower priority: not enough free GPUs";
    let expected = [
        ("no such node is known", &["c".to_owned()][..]),
        (no_help, &["b".to_owned()]),
    ];
    assert_eq!(reasons, expected);
    let sentences = all.why_not.unwrap().sentences;
    let left_out = format!("preemption left b out: {no_help}");
    assert_eq!(sentences.last(), Some(&left_out), "{sentences:?}");
}
