//! Whom preemption takes: rules one by one, and everything against brute force on random nodes.

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fixtures::*;
use crate::index::Index;

fn offer(victims: &[&str]) -> Offer {
    Offer {
        victims: victims.iter().map(|uid| PodUid::from(*uid)).collect(),
        violation_count: 0,
    }
}

/// Whom `pod` takes on node `a` when those are offered; `-` where the node is left out.
fn victims(index: &mut Index, pod: &Pod, offered: &[&str]) -> String {
    let offers = [("a".to_owned(), offer(offered))].into();
    let kept = preempt(&snapshot(index), &ask(pod), &offers).kept;
    let Some(eviction) = kept.get("a") else {
        return "-".to_owned();
    };
    let names = eviction
        .victims
        .iter()
        .map(|uid| uid.as_str().trim_start_matches("u-"));
    names.collect::<Vec<_>>().join(" ")
}

fn high(gpu_count: usize) -> Pod {
    ranked(nvlinked(pod("high", gpu_count)), 100)
}

/// Node `a` with one pod of priority 0 for each GPU list.
fn full_of(residents: &[(&str, &[u32])]) -> Index {
    let mut index = cluster(&["a"]);
    for (name, gpus) in residents {
        index.apply_pod(&bound(pod(name, gpus.len()), "a", gpus));
    }
    index
}

#[test]
fn the_victims_are_those_whose_leaving_makes_a_set_not_a_count() {
    let mut index = full_of(&[
        ("a", &[0, 1]),
        ("b", &[4, 5]),
        ("c", &[2, 3]),
        ("d", &[6, 7]),
    ]);
    index.apply_pod(&ranked(bound(pod("d", 2), "a", &[6, 7]), 50));
    assert_eq!(victims(&mut index, &high(4), &["u-a", "u-b"]), "a c");
}

#[test]
fn the_fewest_leave_and_of_equals_the_lowest() {
    let mut index = full_of(&[("a", &[0, 1]), ("b", &[2, 3]), ("quad", &[4, 5, 6, 7])]);
    assert_eq!(victims(&mut index, &high(4), &["u-a", "u-b"]), "quad");
    index.apply_pod(&ranked(bound(pod("quad", 4), "a", &[4, 5, 6, 7]), 1));
    assert_eq!(victims(&mut index, &high(4), &["u-quad"]), "a b");
}

#[test]
fn nobody_of_equal_or_higher_priority_leaves_and_nobody_where_it_would_not_help() {
    let mut index = full_of(&[("a", &[0, 1, 2]), ("b", &[4, 5, 6])]);
    index.apply_pod(&ranked(bound(pod("c", 1), "a", &[3]), 100));
    index.apply_pod(&ranked(bound(pod("d", 1), "a", &[7]), 101));
    assert_eq!(victims(&mut index, &high(4), &["u-a"]), "-");
    assert_eq!(victims(&mut index, &high(3), &["u-a"]), "a");
    assert_eq!(victims(&mut index, &ranked(high(3), 0), &["u-a"]), "-");
    assert_eq!(
        victims(&mut index, &high(3), &["u-a", "u-c"]),
        "-",
        "what we know is behind"
    );
}

#[test]
fn a_pod_that_never_preempts_takes_nobody() {
    let mut index = full_of(&[("a", &[0, 1, 2, 3]), ("b", &[4, 5, 6, 7])]);
    let mut never = high(4);
    never.spec.as_mut().unwrap().preemption_policy = Some("Never".to_owned());
    assert_eq!(victims(&mut index, &never, &["u-a"]), "-");
}

#[test]
fn a_pod_of_a_scheduling_group_leaves_only_where_it_was_offered() {
    let mut index = full_of(&[("b", &[4, 5, 6, 7])]);
    let mut grouped = bound(pod("a", 4), "a", &[0, 1, 2, 3]);
    grouped.spec.as_mut().unwrap().scheduling_group = Some(Default::default());
    index.apply_pod(&grouped);
    assert_eq!(victims(&mut index, &high(4), &["u-b"]), "b");
    assert_eq!(victims(&mut index, &high(4), &["u-a"]), "a");
}

#[test]
fn a_pod_without_gpus_that_others_need_gone_stays_in_the_list() {
    let mut index = full_of(&[("a", &[0, 1, 2, 3]), ("b", &[4, 5, 6, 7])]);
    assert_eq!(
        victims(&mut index, &high(4), &["u-a", "u-plain"]),
        "a plain"
    );
    index.delete_pod("u-a");
    assert_eq!(victims(&mut index, &high(4), &["u-plain"]), "plain");
    let whole = ranked(pod("high", 8), 100);
    assert_eq!(victims(&mut index, &whole, &["u-plain"]), "plain b");
}

#[test]
fn a_node_is_answered_with_victims_unless_it_came_without() {
    let mut index = full_of(&[("a", &[0, 4])]);
    assert_eq!(victims(&mut index, &high(2), &[]), "", "it fits already");
    assert_eq!(
        victims(&mut index, &high(4), &[]),
        "a",
        "victims are proposed"
    );
    assert_eq!(victims(&mut index, &high(9), &[]), "-", "it cannot fit");
    // Up to 1.37 none would be an error: who was offered stays.
    assert_eq!(victims(&mut index, &high(2), &["u-a"]), "a");
}

#[test]
fn a_node_that_was_not_offered_is_not_answered_and_one_unknown_is_left_out() {
    let mut index = cluster(&["a", "b"]);
    index.apply_pod(&bound(pod("p", 8), "b", &[0, 1, 2, 3, 4, 5, 6, 7]));
    let offers = [
        ("b".to_owned(), offer(&["u-p"])),
        ("x".to_owned(), offer(&["u-q"])),
    ]
    .into();
    let kept = preempt(&snapshot(&mut index), &ask(&high(4)), &offers).kept;
    assert_eq!(kept.keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn kube_schedulers_count_of_the_node_has_to_hold_too() {
    let mut index = full_of(&[("a", &[0, 1, 2, 3]), ("b", &[4, 5])]);
    index.apply_pod(&ranked(bound(pod("a", 4), "a", &[0, 1, 2, 3]), 1));
    let mut two_withheld = node("a");
    two_withheld.status.as_mut().unwrap().allocatable =
        serde_json::from_value(json!({RESOURCE: "6"})).unwrap();
    index.apply_node(&two_withheld);
    // By the set 6 and 7 are free; by the count nothing is.
    assert_eq!(victims(&mut index, &high(2), &["u-b"]), "b");
}

fn requesting(mut pod: Pod, cpu: &str) -> Pod {
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    let requests = json!({"cpu": cpu, RESOURCE: "0"});
    container.resources.as_mut().unwrap().requests = serde_json::from_value(requests).unwrap();
    pod
}

#[test]
fn what_other_filters_gained_from_those_offered_is_not_given_back() {
    let with_cpu = |big: &str, small: &str| {
        let mut index = cluster(&["a"]);
        index.apply_pod(&requesting(
            ranked(bound(pod("big", 4), "a", &[0, 1, 2, 3]), 5),
            big,
        ));
        index.apply_pod(&requesting(
            bound(pod("small", 4), "a", &[4, 5, 6, 7]),
            small,
        ));
        index
    };
    let wants = requesting(high(4), "16");
    assert_eq!(victims(&mut with_cpu("16", "2"), &wants, &["u-big"]), "big");
    assert_eq!(
        victims(&mut with_cpu("64", "16"), &wants, &["u-big"]),
        "small"
    );
    assert_eq!(
        victims(&mut with_cpu("16", "2"), &high(4), &["u-big"]),
        "small"
    );
}

#[test]
fn one_that_may_be_in_the_way_of_other_filters_has_to_leave() {
    let with_port = |mut pod: Pod| {
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        let ports = json!([{"containerPort": 8000, "hostPort": 8000}]);
        container.ports = serde_json::from_value(ports).unwrap();
        pod
    };
    let mut index = full_of(&[("low", &[4, 5, 6, 7])]);
    index.apply_pod(&with_port(ranked(
        bound(pod("p", 4), "a", &[0, 1, 2, 3]),
        5,
    )));
    assert_eq!(victims(&mut index, &high(4), &["u-p"]), "low");
    assert_eq!(victims(&mut index, &with_port(high(4)), &["u-p"]), "p");
}

#[test]
fn budgets_are_counted_and_the_unprotected_leave_first() {
    let mut index = cluster(&["a"]);
    index.apply_pod(&labelled(
        bound(pod("a", 4), "a", &[0, 1, 2, 3]),
        "app",
        "web",
    ));
    index.apply_pod(&ranked(bound(pod("b", 4), "a", &[4, 5, 6, 7]), 50));
    let counted = |index: &mut Index, gpu_count| {
        let offers = [("a".to_owned(), offer(&["u-a"]))].into();
        let kept = preempt(&snapshot(index), &ask(&high(gpu_count)), &offers).kept;
        let eviction = kept["a"].clone();
        (
            eviction.victims[0].as_str().to_owned(),
            eviction.violation_count,
        )
    };
    index.reset_budgets(&[budget("web", 0)]);
    assert_eq!(counted(&mut index, 4), ("u-b".to_owned(), 0));
    index.reset_budgets(&[budget("web", 1)]);
    assert_eq!(counted(&mut index, 4), ("u-a".to_owned(), 0));
    index.reset_budgets(&[budget("web", 0)]);
    index.apply_pod(&ranked(bound(pod("b", 4), "a", &[4, 5, 6, 7]), 100));
    assert_eq!(counted(&mut index, 4), ("u-a".to_owned(), 1));
}

#[test]
fn violations_of_pods_that_are_not_seen_are_taken_from_the_offer() {
    let mut index = full_of(&[("a", &[0, 1, 2, 3]), ("b", &[4, 5, 6, 7])]);
    let offer = Offer {
        violation_count: 1,
        ..offer(&["u-plain", "u-a"])
    };
    let kept = preempt(
        &snapshot(&mut index),
        &ask(&high(4)),
        &[("a".to_owned(), offer)].into(),
    )
    .kept;
    assert_eq!(kept["a"].violation_count, 1);
    assert_eq!(
        kept["a"].victims[0].as_str(),
        "u-plain",
        "it was offered as the more important"
    );
}

#[test]
fn a_victim_that_leaves_anyway_is_named_before_one_that_stays() {
    let mut index = full_of(&[("a", &[0, 1, 2, 3])]);
    index.apply_pod(&terminating(ranked(
        bound(pod("b", 4), "a", &[4, 5, 6, 7]),
        50,
    )));
    assert_eq!(victims(&mut index, &high(4), &["u-a"]), "b");
}

#[test]
fn a_set_that_is_kept_for_another_is_not_promised_again() {
    let mut index = full_of(&[("a", &[0, 1, 2, 3])]);
    index.apply_pod(&nominated(ranked(nvlinked(pod("first", 4)), 200), "a"));
    assert_eq!(victims(&mut index, &high(4), &["u-a"]), "a");
    index.apply_pod(&ranked(bound(pod("a", 4), "a", &[0, 1, 2, 3]), 100));
    assert_eq!(
        victims(&mut index, &high(4), &[]),
        "-",
        "the other quad is the first one's"
    );
}

#[test]
fn nobody_is_evicted_for_a_pod_whose_bind_may_still_come_true() {
    use crate::bind::{Request, prepare};
    let mut index = full_of(&[("a", &[0, 1, 2, 3])]);
    index.apply_pod(&high(4));
    let request = Request {
        namespace: "ns".to_owned(),
        name: "high".to_owned(),
        uid: "u-high".into(),
        node: "a".to_owned(),
    };
    prepare(&mut index, &request, None, std::time::Instant::now()).unwrap();
    assert_eq!(victims(&mut index, &high(4), &["u-a"]), "-");
}

/// A pod of a random node.
#[derive(Clone, Debug)]
struct Resident {
    gpu_count: usize,
    priority: i32,
    app: usize,
    is_leaving: bool,
}

/// A node of twelve GPUs in three quads, full of residents, and a pod that wants in.
#[derive(Clone, Debug)]
struct Crowd {
    residents: Vec<Resident>,
    /// In which order GPUs are given to residents.
    order: Vec<u32>,
    allowed: [i32; 2],
    wanted: usize,
    is_picky: bool,
    priority: i32,
}

fn crowd() -> impl Strategy<Value = Crowd> {
    let resident = (1_usize..4, 0_i32..4, 0_usize..3, prop::bool::weighted(0.1)).prop_map(
        |(gpu_count, priority, app, is_leaving)| Resident {
            gpu_count,
            priority,
            app,
            is_leaving,
        },
    );
    let order = Just((0..12).collect::<Vec<u32>>()).prop_shuffle();
    (
        prop::collection::vec(resident, 1..13),
        order,
        [0_i32..3, 0_i32..3],
        1_usize..6,
        any::<bool>(),
        1_i32..5,
    )
        .prop_map(
            |(residents, order, allowed, wanted, is_picky, priority)| Crowd {
                residents,
                order,
                allowed,
                wanted,
                is_picky,
                priority,
            },
        )
}

impl Crowd {
    fn index(&self) -> Index {
        let mut index = cluster(&["a"]);
        let mut wide = topology("a");
        wide.status = Some(status("a", 12));
        index.apply_topology(&wide);
        index.reset_budgets(&[
            budget("app-0", self.allowed[0]),
            budget("app-1", self.allowed[1]),
        ]);
        let mut left = self.order.as_slice();
        for (number, resident) in self.residents.iter().enumerate() {
            let count = resident.gpu_count.min(left.len());
            if count == 0 {
                break;
            }
            let (gpus, rest) = left.split_at(count);
            left = rest;
            let pod = ranked(pod(&format!("r{number:02}"), count), resident.priority);
            let pod = labelled(
                bound(pod, "a", gpus),
                "app",
                &format!("app-{}", resident.app),
            );
            index.apply_pod(&if resident.is_leaving {
                terminating(pod)
            } else {
                pod
            });
        }
        index
    }

    fn pod(&self) -> Pod {
        let pod = ranked(pod("high", self.wanted), self.priority);
        if self.is_picky { nvlinked(pod) } else { pod }
    }
}

/// Every set of pods of lower priority, each judged by itself: the least cost of those that will fit.
fn brute_force(snapshot: &Snapshot, ask: &Ask) -> Option<Cost> {
    let offer = Offer::default();
    let scene = Scene::new(snapshot, ask, "a", &offer).unwrap();
    let count = scene.candidates.len();
    let sets = (0..1_u32 << count).map(|mask| {
        (0..count)
            .filter(|position| mask >> position & 1 == 1)
            .collect::<Vec<_>>()
    });
    let fits = |chosen: &Vec<usize>| {
        let leaving = chosen
            .iter()
            .map(|position| scene.candidates[*position].uid.clone());
        decide::judge_without(snapshot, ask, "a", &leaving.collect()).is_ok()
    };
    sets.filter(fits)
        .map(|chosen| scene.pool().cost(&chosen))
        .min()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The victims are the best of all subsets, filter then accepts, and nobody leaves in vain.
    #[test]
    fn it_equals_brute_force_over_all_subsets(crowd in crowd()) {
        let mut index = crowd.index();
        let (snapshot, ask) = (snapshot(&mut index), ask(&crowd.pod()));
        let expected = brute_force(&snapshot, &ask);
        let proposed = propose(&snapshot, &ask, "a");
        prop_assert_eq!(proposed.as_ref().map(|(cost, _)| *cost), expected);
        let Some((_, victims)) = proposed else { return Ok(()) };
        for victim in &victims {
            prop_assert!(victim.terms.priority < crowd.priority);
            index.delete_pod(victim.uid.as_str());
        }
        prop_assert!(decide::judge(&crate::fixtures::snapshot(&mut index), &ask, "a").is_ok());
        let offers = [("a".to_owned(), Offer::default())].into();
        let kept = preempt(&snapshot, &ask, &offers).kept;
        let uids: Vec<_> = victims.iter().map(|victim| victim.uid.clone()).collect();
        prop_assert_eq!(&kept["a"].victims, &uids);
    }
}
