//! Decisions made, written down as JSON, read again and made again.

use std::collections::BTreeMap;
use std::time::Instant;

use berth_topology::ids::PodUid;
use berth_topology::node::NodeTopology;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;

use super::*;
use crate::bind::Prepared;
use crate::decide::Preference;
use crate::fixtures::*;
use crate::index::Index;
use crate::preempt::Offer;
use crate::record::archive::{Archive, Now, Opened, Replica};
use crate::record::{Asked, Bound, Records};
use crate::snapshot::Snapshot;

const NODES: [&str; 4] = ["a", "b", "c", "nowhere"];

/// An extender's answers, recorded as its server records them.
struct Recorder {
    resource: &'static str,
    index: Index,
    records: Records,
}

// === impl Recorder ===

impl Recorder {
    fn new(index: Index) -> Self {
        Self::of_resource(RESOURCE, index)
    }

    fn of_resource(resource: &'static str, index: Index) -> Self {
        Self {
            resource,
            index,
            records: Records::default(),
        }
    }

    fn asked(&mut self, pod: &Pod) -> (Snapshot, Ask) {
        (snapshot(&mut self.index), Ask::of_pod(pod, self.resource))
    }

    fn filter(&mut self, pod: &Pod, names: &[&str]) {
        let (snapshot, ask) = self.asked(pod);
        let verdicts = decide::filter(&snapshot, &ask, names);
        let inputs = Inputs::of(&snapshot, &ask, &verdicts.offered, Preference::Pack);
        self.records
            .filtered(&Asked::of(pod), String::new(), inputs, &verdicts);
    }

    fn prioritize(&mut self, pod: &Pod, names: &[&str], preference: Preference) {
        let (snapshot, ask) = self.asked(pod);
        let offered = snapshot.named(names.iter().copied());
        let scores = decide::prioritize(&snapshot, &ask, &offered, preference);
        let hint = decide::hint(&snapshot, &ask, &scores);
        self.index.hint(&ask.uid, hint, Instant::now());
        let inputs = Inputs::of(&snapshot, &ask, &offered, preference);
        self.records
            .scored(&Asked::of(pod), String::new(), inputs, &scores);
    }

    fn preempt(&mut self, pod: &Pod, offers: &BTreeMap<String, Offer>) {
        let (snapshot, ask) = self.asked(pod);
        let answer = preempt::preempt(&snapshot, &ask, offers);
        let inputs = Inputs::of_preempt(&snapshot, &ask, offers);
        self.records
            .preempted(&Asked::of(pod), String::new(), inputs, &answer);
    }

    fn bind(&mut self, pod: &Pod, node: &str) {
        let now = Instant::now();
        self.index.apply_pod(pod);
        let request = bind::Request {
            namespace: "ns".to_owned(),
            name: pod.metadata.name.clone().unwrap(),
            uid: pod.metadata.uid.as_deref().unwrap().into(),
            node: node.to_owned(),
        };
        let seen = self.index.snapshot(now);
        let prepared = bind::prepare(&mut self.index, &request, None, now);
        let inputs = Inputs::of_bind(&seen, &request, &prepared);
        let annotation = match &prepared {
            Ok(Prepared::Post { annotation }) => annotation.as_deref().map(str::to_owned),
            _ => None,
        };
        let doubt = bind::placed(&self.index, &request.uid).and_then(|placed| placed.inexact);
        let outcome = prepared.map(|_| ());
        if outcome.is_ok() {
            bind::settle(&mut self.index, &request.uid, &outcome, now);
        }
        let bound = Bound::of(&request, annotation, &outcome).doubted(doubt);
        self.records.bound(&request, String::new(), inputs, bound);
    }

    /// Through the JSON that a file would hold.
    fn reopened(&mut self) -> Opened {
        let claims = self.index.claims();
        let snapshot = snapshot(&mut self.index);
        let archive = Archive::of(Now {
            replica: Replica {
                resource: self.resource.to_owned(),
                ..Replica::default()
            },
            snapshot: &snapshot,
            claims,
            records: self.records.iter().cloned().collect(),
        });
        let text = serde_json::to_string(&archive.unwrap()).unwrap();
        let archive: Archive = serde_json::from_str(&text).unwrap();
        archive.open().unwrap()
    }
}

/// A resident of one of the nodes, known by assignment, by allocation, or only by its count.
#[derive(Clone, Copy, Debug)]
enum Known {
    Assigned,
    Allocated,
    Counted,
}

fn any_resident() -> impl Strategy<Value = (usize, u32, u32, Known)> {
    let known = prop_oneof![
        Just(Known::Assigned),
        Just(Known::Allocated),
        Just(Known::Counted)
    ];
    (0_usize..3, 0_u32..8, 1_u32..4, known)
}

fn any_wish() -> impl Strategy<Value = (usize, &'static str, &'static str)> {
    let wishes = prop_oneof![
        Just(("berth.dev/link", "nvlink")),
        Just(("berth.dev/numa", "single")),
        Just(("berth.dev/tensor-parallel-size", "2")),
        Just(("berth.dev/gpu-memory", "8Gi")),
        Just(("berth.dev/link", "bad")),
        Just(("berth.dev/group", "g")),
        Just(("example.com/other", "x")),
    ];
    (1_usize..9, wishes).prop_map(|(count, (key, value))| (count, key, value))
}

fn populated(residents: &[(usize, u32, u32, Known)], silent: Option<usize>) -> Index {
    let mut index = cluster(&NODES[..3]);
    let mut truths: [Vec<_>; 3] = Default::default();
    for (number, (node, first, count, known)) in residents.iter().enumerate() {
        let name = format!("r{number}");
        let gpus: Vec<u32> = (*first..8).take(*count as usize).collect();
        let resident = pod(&name, gpus.len());
        match known {
            Known::Assigned => index.apply_pod(&bound(resident, NODES[*node], &gpus)),
            Known::Counted => index.apply_pod(&bound_by_other(resident, NODES[*node])),
            Known::Allocated => {
                index.apply_pod(&bound_by_other(resident, NODES[*node]));
                truths[*node].push(allocation(&name, NODES[*node], &gpus));
            }
        }
    }
    for (node, truths) in truths.into_iter().enumerate() {
        let mut told = topology(NODES[node]);
        told.status.as_mut().unwrap().allocations = truths;
        index.apply_topology(&told);
    }
    if let Some(node) = silent {
        index.delete_lease(NODES[node]);
    }
    index
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Every decision, made again from what was written down, is bit for bit the same.
    #[test]
    fn a_snapshot_replays(
        residents in proptest::collection::vec(any_resident(), 0..8),
        wishes in proptest::collection::vec(any_wish(), 1..6),
        silent in proptest::option::of(0_usize..3),
        order in Just(NODES.to_vec()).prop_shuffle(),
    ) {
        let mut recorder = Recorder::new(populated(&residents, silent));
        for (number, (count, key, value)) in wishes.iter().enumerate() {
            let pod = annotated(pod(&format!("p{number}"), *count), key, value);
            recorder.filter(&pod, &order);
            recorder.prioritize(&pod, &order[number % 3..], Preference::Spread);
            recorder.bind(&pod, order[number % order.len()]);
        }
        let opened = recorder.reopened();
        prop_assert_eq!(opened.records.len(), 3 * wishes.len());
        for record in &opened.records {
            prop_assert_eq!(replay(record, RESOURCE).unwrap(), Replayed::Same, "{:?}", record);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// So is where pods of a group are drawn to, though it depends on nodes that are not asked about.
    #[test]
    fn a_snapshot_of_groups_replays(
        residents in proptest::collection::vec(any_resident(), 0..6),
        places in proptest::collection::vec((0_u32..3, 0_usize..3), 3),
        waiting in proptest::collection::vec((1_usize..9, any::<bool>()), 1..5),
        asked in proptest::sample::subsequence(NODES.to_vec(), 1..4),
    ) {
        let mut index = populated(&residents, None);
        for (node, (clique, rack)) in NODES.iter().zip(places) {
            if clique > 0 {
                in_clique(&mut index, node, clique, "completed");
            }
            if rack > 0 {
                index.apply_node(&in_rack(node, ["r1", "r2"][rack - 1]));
            }
        }
        let of_group = |number: usize, count: usize| {
            annotated(pod(&format!("p{number}"), count), "berth.dev/group", "g")
        };
        let pods = waiting.iter().enumerate();
        for (number, (count, _)) in pods.clone() {
            index.apply_pod(&of_group(number, *count));
        }
        let mut recorder = Recorder::new(index);
        for (number, (count, is_bound)) in pods {
            let pod = of_group(number, *count);
            recorder.prioritize(&pod, &asked, Preference::Pack);
            if *is_bound {
                recorder.bind(&pod, asked[0]);
            }
        }
        let opened = recorder.reopened();
        for (record, kept) in opened.records.iter().zip(recorder.records.iter()) {
            let again = replay(record, RESOURCE).unwrap();
            let is_same = again == Replayed::Same || record.inputs().is_none();
            prop_assert!(is_same, "{:?} {:?}", again, record);
            prop_assert_eq!(record.inputs_hash(), kept.inputs_hash());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// So is every decision about MIG instances.
    #[test]
    fn a_snapshot_of_partitioned_machines_replays(
        wishes in proptest::collection::vec(any_wish(), 1..6),
        parted in proptest::sample::subsequence((0..8).collect::<Vec<usize>>(), 1..4),
    ) {
        let machines = NODES[..3].iter().map(|name| NodeTopology::new(name, partitioned(name, &parted)));
        let machines: Vec<NodeTopology> = machines.collect();
        let mut recorder = Recorder::of_resource(MIG_RESOURCE, cluster_of(MIG_RESOURCE, &machines));
        // The first fits in any case.
        let first = (1, "example.com/other", "x");
        for (number, (count, key, value)) in [first].iter().chain(&wishes).enumerate() {
            let pod = pod_of(MIG_RESOURCE, &format!("p{number}"), *count);
            let pod = annotated(pod, key, value);
            recorder.filter(&pod, &NODES);
            recorder.prioritize(&pod, &NODES, Preference::Pack);
            recorder.bind(&pod, NODES[number % NODES.len()]);
        }
        let opened = recorder.reopened();
        for record in &opened.records {
            let again = replay(record, MIG_RESOURCE).unwrap();
            prop_assert_eq!(again, Replayed::Same, "{:?}", record);
        }
        let Decided::Bind { annotation: Some(text), .. } = &opened.records[2].decided else {
            return Err(TestCaseError::fail("the first pod was not bound"));
        };
        prop_assert!(text.contains("MIG-a-"), "{}", text);
    }
}

/// A pod on one of three nodes: its GPUs, its priority, whether it is leaving, its budget.
fn any_victim() -> impl Strategy<Value = (usize, u32, u32, i32, bool, usize)> {
    (
        0_usize..3,
        0_u32..8,
        1_u32..5,
        0..4,
        any::<bool>(),
        0_usize..2,
    )
}

fn crowded(victims: &[(usize, u32, u32, i32, bool, usize)], allowed: i32) -> Index {
    let mut index = cluster(&NODES[..3]);
    for (number, (node, first, count, priority, is_leaving, app)) in victims.iter().enumerate() {
        let gpus: Vec<u32> = (*first..8).take(*count as usize).collect();
        let victim = ranked(pod(&format!("r{number}"), gpus.len()), *priority);
        let victim = labelled(victim, "app", ["web", "batch"][*app]);
        let victim = bound(victim, NODES[*node], &gpus);
        index.apply_pod(&if *is_leaving {
            terminating(victim)
        } else {
            victim
        });
    }
    index.reset_budgets(&[
        budget("web", allowed),
        budget("batch", 1),
        budget("other", 0),
    ]);
    index
}

/// One that asks for what only the whole Pod says: a port of the host.
fn with_host_port(mut pod: Pod) -> Pod {
    let port = serde_json::from_str(r#"[{"containerPort": 80, "hostPort": 80}]"#);
    pod.spec.as_mut().unwrap().containers[0].ports = port.unwrap();
    pod
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// So is whom to evict, beside pods that are nominated, and by which budgets that is counted.
    #[test]
    fn a_snapshot_of_preemptions_replays(
        victims in proptest::collection::vec(any_victim(), 1..12),
        wishes in proptest::collection::vec((any_wish(), 0..6, any::<bool>()), 1..5),
        offered in proptest::collection::vec(any::<bool>(), 12),
        allowed in 0..2,
    ) {
        let mut recorder = Recorder::new(crowded(&victims, allowed));
        recorder.index.apply_pod(&nominated(ranked(pod("waits", 2), 3), "b"));
        let uids = |node: usize| {
            let here = victims.iter().enumerate().filter(move |(_, victim)| victim.0 == node);
            let here = here.filter(|(number, _)| offered[*number]);
            here.map(|(number, _)| PodUid(format!("u-r{number}"))).chain([PodUid::from("u-plain")])
        };
        let offers = NODES.iter().enumerate().map(|(position, node)| {
            let victims = uids(position).collect();
            ((*node).to_owned(), Offer { victims, violation_count: position })
        });
        let offers: BTreeMap<String, Offer> = offers.collect();
        for (number, ((count, key, value), priority, has_port)) in wishes.iter().enumerate() {
            let pod = ranked(pod(&format!("p{number}"), *count), *priority);
            let pod = annotated(pod, key, value);
            recorder.preempt(&if *has_port { with_host_port(pod) } else { pod }, &offers);
        }
        let opened = recorder.reopened();
        prop_assert_eq!(opened.records.len(), wishes.len());
        for (record, kept) in opened.records.iter().zip(recorder.records.iter()) {
            prop_assert_eq!(replay(record, RESOURCE).unwrap(), Replayed::Same, "{:?}", record);
            prop_assert_eq!(record.inputs_hash(), kept.inputs_hash());
        }
    }
}

#[test]
fn another_budget_or_another_offer_is_another_input_and_another_answer_is_told() {
    let victims = [(0, 0, 4, 0, false, 0), (0, 4, 4, 0, false, 1)];
    let offer = |victims: &[&str]| {
        let victims = victims.iter().map(|uid| PodUid::from(*uid)).collect();
        [(
            "a".to_owned(),
            Offer {
                victims,
                violation_count: 0,
            },
        )]
        .into()
    };
    let mut recorder = Recorder::new(crowded(&victims, 1));
    let asking = ranked(pod("p", 4), 10);
    recorder.preempt(&asking, &offer(&["u-r0"]));
    recorder.preempt(&asking, &offer(&["u-r0"]));
    recorder.preempt(&asking, &offer(&["u-r1"]));
    recorder.index.reset_budgets(&[budget("web", 0)]);
    recorder.preempt(&asking, &offer(&["u-r0"]));
    let mut records = recorder.reopened().records;
    let hashes: Vec<String> = records.iter().map(|record| record.inputs_hash()).collect();
    assert_eq!(hashes[0], hashes[1]);
    assert_ne!(hashes[0], hashes[2]);
    assert_ne!(hashes[0], hashes[3]);
    if let Decided::Preempt { evictions, .. } = &mut records[3].decided {
        let [r1] = &mut evictions.get_mut("a").unwrap().victims[..] else {
            panic!("{evictions:?}");
        };
        assert_eq!(r1.as_str(), "u-r1", "the other one's budget allows nothing");
        *r1 = PodUid::from("u-r0");
    }
    let replayed = replay(&records[3], RESOURCE).unwrap();
    assert!(matches!(replayed, Replayed::Differs { .. }), "{replayed:?}");
}

/// CPUs of pods without GPUs decide too where the kubelet's CPU manager is static.
#[test]
fn what_pods_without_gpus_hold_of_the_cpus_is_kept() {
    let mut told = NodeTopology::new("a", exact("a", "single-numa-node"));
    let mut plain = allocation("plain", "a", &[]);
    plain.resource = String::new();
    plain.cpus = Some("0-3".parse().unwrap());
    let status = told.status.as_mut().unwrap();
    status.allocations = vec![plain.clone(), allocation("r", "a", &[0])];
    let mut recorder = Recorder::new(cluster_of(RESOURCE, &[told]));
    let opened = recorder.reopened();
    let topology = opened.snapshot.node("a").unwrap().topology.clone().unwrap();
    assert_eq!(topology.exclusive_cpus, [plain]);
    assert_eq!(topology.allocations, [allocation("r", "a", &[0])]);
}

#[test]
fn another_answer_is_told() {
    let mut recorder = Recorder::new(populated(&[], None));
    recorder.filter(&pod("p", 2), &NODES);
    let mut record = recorder.reopened().records.remove(0);
    if let Decided::Filter { outcomes, .. } = &mut record.decided {
        outcomes[0] = Outcome::Fits(3);
    }
    let replayed = replay(&record, RESOURCE).unwrap();
    assert!(matches!(replayed, Replayed::Differs { .. }), "{replayed:?}");
}

#[test]
fn what_was_not_kept_or_not_decided_says_so() {
    let mut recorder = Recorder::new(populated(&[], None));
    recorder.bind(&pod("never-filtered", 2), "a");
    recorder.bind(&pod("never-filtered", 2), "a");
    for record in recorder.reopened().records {
        assert_eq!(replay(&record, RESOURCE).unwrap(), Replayed::NotKept);
    }
}

#[test]
fn a_document_of_another_schema_or_one_that_contradicts_itself_is_refused() {
    let mut recorder = Recorder::new(populated(&[], None));
    recorder.filter(&pod("p", 2), &NODES);
    let claims = recorder.index.claims();
    let archive = Archive::of(Now {
        replica: Replica::default(),
        snapshot: &snapshot(&mut recorder.index),
        claims,
        records: recorder.records.iter().cloned().collect(),
    });
    let text = serde_json::to_string(&archive.unwrap()).unwrap();
    let open = |text: &str| {
        let archive: Archive = serde_json::from_str(text).unwrap();
        archive.open().unwrap_err().to_string()
    };
    let other = text.replacen("berth.dev/v1alpha1", "berth.dev/v9", 1);
    assert!(
        open(&other).contains("this build reads Snapshot"),
        "{}",
        open(&other)
    );
    let broken = text.replace("\"candidates\":[0", "\"candidates\":[77");
    assert!(broken != text && open(&broken).contains("names a node"));
}

#[test]
fn an_answer_that_was_cut_short_replays_as_it_was() {
    let mut recorder = Recorder::new(populated(&[], None));
    let names: Vec<&str> = NODES.into_iter().cycle().take(40).collect();
    let (pod, snapshot) = (pod("p", 2), snapshot(&mut recorder.index));
    let mut looks = 0;
    let is_over = || {
        looks += 1;
        looks > 2
    };
    let offered = snapshot.named(names.iter().copied());
    let verdicts = decide::filter_until(&snapshot, &ask(&pod), offered, is_over);
    assert!(!verdicts.is_complete() && !verdicts.is_nowhere());
    let inputs = Inputs::of(&snapshot, &ask(&pod), &verdicts.offered, Preference::Pack);
    recorder
        .records
        .filtered(&Asked::of(&pod), String::new(), inputs, &verdicts);
    let record = recorder.reopened().records.remove(0);
    assert_eq!(replay(&record, RESOURCE).unwrap(), Replayed::Same);
}
