//! When somebody is evicted for a pod that only the wiring keeps out, and when nobody is.

use k8s_openapi::api::core::v1::Pod;

use super::*;
use crate::fixtures::*;

/// Four GPUs are free, two in each quad; a pod of priority 0 holds each of the other four.
fn fragmented() -> Index {
    let mut index = cluster(&["a"]);
    for (name, gpu) in [("p0", 0), ("p1", 1), ("p4", 4), ("p5", 5)] {
        index.apply_pod(&bound(pod(name, 1), "a", &[gpu]));
    }
    index.apply_pod(&high());
    index
}

fn high() -> Pod {
    ranked(nvlinked(pod("high", 4)), 100)
}

struct World {
    index: Index,
    stranded: Stranded,
    start: Instant,
}

impl World {
    fn of(index: Index) -> Self {
        Self {
            index,
            stranded: Stranded::default(),
            start: Instant::now(),
        }
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    /// Filter is asked about node `a` at that second.
    fn filter(&mut self, pod: &Pod, second: u64) {
        let now = self.at(second);
        let (snapshot, ask) = (self.index.snapshot(now), ask(pod));
        let verdicts = decide::filter(&snapshot, &ask, &["a"]);
        self.stranded.filtered(&ask, &verdicts, now);
    }

    /// Who is to be evicted at that second, in order.
    fn due(&mut self, second: u64) -> Option<String> {
        self.plan(second).map(|plan| {
            let names = plan.victims.iter().map(|victim| victim.name.as_str());
            names.collect::<Vec<_>>().join(" ")
        })
    }

    fn plan(&mut self, second: u64) -> Option<Plan> {
        let now = self.at(second);
        self.stranded.prune(&self.index, now);
        let snapshot = self.index.snapshot(now);
        self.stranded.due(&snapshot, now)
    }
}

#[test]
fn a_pod_that_was_refused_for_seconds_in_a_row_gets_the_fewest_victims_that_make_a_set() {
    let mut world = World::of(fragmented());
    world.filter(&high(), 0);
    world.filter(&high(), 3);
    assert_eq!(world.due(4), None, "kube-scheduler is still trying");
    assert_eq!(world.due(5).as_deref(), Some("p0 p1"));
}

#[test]
fn one_that_fitted_meanwhile_begins_to_wait_anew() {
    let mut world = World::of(fragmented());
    world.filter(&high(), 0);
    world.index.delete_pod("u-p0");
    world.index.delete_pod("u-p1");
    world.filter(&high(), 3);
    for (name, gpu) in [("q0", 0), ("q1", 1)] {
        world.index.apply_pod(&bound(pod(name, 1), "a", &[gpu]));
    }
    world.filter(&high(), 4);
    assert_eq!(world.due(6), None);
    assert!(world.due(9).is_some());
}

#[test]
fn nobody_is_evicted_for_a_pod_that_would_fit_now_or_when_those_are_gone_that_leave() {
    let mut world = World::of(fragmented());
    world.filter(&high(), 0);
    for (name, gpu) in [("p0", 0), ("p1", 1)] {
        world
            .index
            .apply_pod(&terminating(bound(pod(name, 1), "a", &[gpu])));
    }
    assert_eq!(world.due(10), None);
    world.index.delete_pod("u-p0");
    world.index.delete_pod("u-p1");
    assert_eq!(world.due(20), None);
}

#[test]
fn nobody_of_equal_priority_is_evicted_and_nobody_by_a_pod_that_never_preempts() {
    let mut world = World::of(fragmented());
    let equal = ranked(high(), 0);
    world.index.apply_pod(&equal);
    world.filter(&equal, 0);
    assert_eq!(world.due(10), None);
    let mut never = high();
    never.spec.as_mut().unwrap().preemption_policy = Some("Never".to_owned());
    world.index.apply_pod(&never);
    world.filter(&never, 10);
    assert!(world.stranded.is_empty());
}

#[test]
fn nobody_is_evicted_against_a_budget() {
    let mut world = World::of(fragmented());
    for (name, gpu) in [("p0", 0), ("p4", 4)] {
        world
            .index
            .apply_pod(&labelled(bound(pod(name, 1), "a", &[gpu]), "app", "web"));
    }
    world.index.reset_budgets(&[budget("web", 0)]);
    world.filter(&high(), 0);
    assert_eq!(world.due(10), None);
    world.index.apply_budget(&budget("web", 1));
    assert!(world.due(20).is_some());
}

#[test]
fn what_is_refused_for_good_is_none_of_its_business() {
    let mut world = World::of(fragmented());
    let impossible = ranked(nvlinked(pod("big", 8)), 100);
    world.index.apply_pod(&impossible);
    world.filter(&impossible, 0);
    assert!(world.stranded.is_empty());
}

#[test]
fn one_plan_at_a_time_for_a_pod_and_on_a_node() {
    let mut world = World::of(fragmented());
    let second = ranked(nvlinked(pod("second", 4)), 50);
    world.index.apply_pod(&second);
    world.filter(&second, 0);
    world.filter(&high(), 1);
    let plan = world.plan(10).unwrap();
    assert_eq!(plan.pod.name, "high", "the higher priority comes first");
    let now = world.at(10);
    world.index.hold(&plan.pod.uid, plan.note().hold(now));
    world.stranded.served(&plan);
    assert_eq!(
        world.due(12),
        None,
        "one has its plan, the other's node is taken"
    );
}

#[test]
fn after_a_refusal_the_node_is_left_alone_for_a_while() {
    let mut world = World::of(fragmented());
    world.filter(&high(), 0);
    let plan = world.plan(10).unwrap();
    let now = world.at(10);
    world.stranded.back_off(&plan, now);
    assert_eq!(world.due(39), None);
    assert!(world.due(40).is_some());
}

#[test]
fn a_pod_that_kube_scheduler_has_evicted_for_waits_for_its_victims() {
    let mut world = World::of(fragmented());
    world.filter(&high(), 0);
    world.index.apply_pod(&nominated(high(), "a"));
    assert_eq!(world.due(10), None);
}

#[test]
fn a_bound_or_deleted_pod_is_forgotten() {
    for end in [
        |index: &mut Index| index.delete_pod("u-high"),
        |index: &mut Index| {
            index.apply_pod(&bound(high(), "a", &[2, 3, 6, 7]));
        },
    ] {
        let mut world = World::of(fragmented());
        world.filter(&high(), 0);
        end(&mut world.index);
        assert_eq!(world.due(10), None);
        assert!(world.stranded.is_empty());
    }
}

#[test]
fn the_set_is_kept_for_the_victims_grace_and_a_minute() {
    let mut world = World::of(fragmented());
    world.filter(&high(), 0);
    assert_eq!(
        world.plan(10).unwrap().hold_for,
        Duration::from_secs(30 + 60)
    );
}

/// Another process said that it keeps a set, evicted `p0`, and was killed.
fn cut_off() -> World {
    let mut world = World::of(fragmented());
    let note = Note {
        node: "a".to_owned(),
        victims: ["u-p0".into(), "u-p1".into()].into(),
        seconds: 90,
    };
    let start = world.start;
    world.index.hold(&"u-high".into(), note.hold(start));
    world.index.delete_pod("u-p0");
    world
}

#[test]
fn where_another_process_was_killed_between_two_victims_the_rest_is_evicted_there() {
    let mut world = cut_off();
    world.filter(&high(), 0);
    assert_eq!(world.due(4), None);
    let plan = world.plan(6).unwrap();
    assert_eq!((&*plan.node, plan.victims.len()), ("a", 1));
    assert_eq!(plan.victims[0].name, "p1");
    let now = world.at(6);
    world.index.hold(&plan.pod.uid, plan.note().hold(now));
    world.stranded.served(&plan);
    world.filter(&high(), 8);
    assert_eq!(world.due(9), None, "p1 was only not seen to leave yet");
}

#[test]
fn while_a_set_is_kept_on_one_node_nobody_leaves_another() {
    let mut world = World::of(fragmented());
    let note = Note {
        node: "b".to_owned(),
        victims: ["u-q".into()].into(),
        seconds: 90,
    };
    world.index.hold(&"u-high".into(), note.hold(world.start));
    world.filter(&high(), 0);
    assert_eq!(world.due(10), None);
    world.index.let_go(&"u-high".into());
    assert!(world.due(20).is_some());
}
