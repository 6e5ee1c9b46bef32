//! Evictions against an API server that does them, forbids them, or knows of no such right.

use berth_extender_core::decide::{self, Ask, Preference};
use berth_extender_core::explain;
use berth_extender_core::fixtures::*;
use berth_extender_core::gauges::Gauges;
use berth_extender_core::record::{Asked, Inputs};
use berth_extender_core::replay::{Replayed, replay};
use berth_extender_core::snapshot::Snapshot;
use k8s_openapi::api::core::v1::Pod as KubePod;

use super::*;
use crate::fake_api::FakeApi;
use crate::metrics::Format;

struct World {
    api: FakeApi,
    evictor: Evictor,
    start: Instant,
}

/// Node `a`: two pods hold one GPU of each quad, `high` needs four of one.
fn world() -> World {
    let api = FakeApi::start();
    let mut index = cluster(&["a"]);
    for (name, gpu) in [("p0", 0), ("p1", 1), ("p4", 4), ("p5", 5)] {
        let resident = bound(pod(name, 1), "a", &[gpu]);
        index.apply_pod(&resident);
        api.create(resident);
    }
    index.apply_pod(&high());
    api.create(high());
    let mut stranded = Stranded::default();
    let start = Instant::now();
    let (snapshot, ask) = (index.snapshot(start), Ask::of_pod(&high(), RESOURCE));
    stranded.filtered(&ask, &decide::filter(&snapshot, &ask, &["a"]), start);
    let evictor = Evictor {
        client: api.client.clone(),
        index: Arc::new(Mutex::new(index)),
        stranded: Arc::new(Mutex::new(stranded)),
        decisions: filtered_records(&snapshot, &ask),
        leadership: leading(),
        metrics: Arc::default(),
        events: events::Events::new(api.client.clone()),
        has_complained: false,
    };
    World {
        api,
        evictor,
        start,
    }
}

/// What filter recorded of the refusal.
fn filtered_records(snapshot: &Snapshot, ask: &Ask) -> Arc<Mutex<Records>> {
    let mut records = Records::default();
    let verdicts = decide::filter(snapshot, ask, &["a"]);
    let inputs = Inputs::of(snapshot, ask, &verdicts.offered, Preference::Pack);
    records.filtered(&Asked::of(&high()), String::new(), inputs, &verdicts);
    Arc::new(Mutex::new(records))
}

fn leading() -> Arc<Leadership> {
    let leadership = Arc::new(crate::http::tests::leadership(None));
    lock(&leadership.fence).begin(Instant::now());
    lock(&leadership.fence).end();
    leadership
}

fn high() -> KubePod {
    ranked(nvlinked(pod("high", 4)), 100)
}

// === impl World ===

impl World {
    /// Looks at that second.
    async fn look(&mut self, second: u64) {
        self.evictor
            .look(self.start + Duration::from_secs(second))
            .await;
    }

    fn evicted(&self) -> Vec<String> {
        lock(&self.api.state).evicted.clone()
    }

    fn holds(&self) -> bool {
        lock(&self.evictor.index)
            .hold_of(&"u-high".into())
            .is_some()
    }

    fn refuse(&self, code: u16) {
        let mut state = lock(&self.api.state);
        for name in ["p0", "p1", "p4", "p5"] {
            state.refused_evictions.insert(name.to_owned(), code);
        }
    }

    fn count(&self, outcome: &str) -> bool {
        let metrics = &self.evictor.metrics;
        let text = metrics.text(&Gauges::default(), true, Format::OpenMetrics);
        text.contains(&format!(
            "topology_evictions_total{{outcome=\"{outcome}\"}}"
        ))
    }
}

#[actix_web::test]
async fn the_victims_are_evicted_once_and_the_set_is_kept() {
    let mut world = world();
    world.look(1).await;
    assert!(world.evicted().is_empty(), "it has not waited long enough");
    world.look(10).await;
    assert_eq!(world.evicted().len(), 2);
    assert!(world.holds() && world.count("evicted"));
    world.look(20).await;
    assert_eq!(world.evicted().len(), 2, "once");
}

/// What a process that starts now would keep.
fn kept_by_another(world: &World) -> bool {
    let mut index = cluster(&["a"]);
    index.apply_pod(&world.api.pod("high"));
    index.snapshot(Instant::now());
    index.hold_of(&"u-high".into()).is_some()
}

#[actix_web::test]
async fn the_next_process_keeps_the_set_too() {
    let mut world = world();
    assert!(!kept_by_another(&world));
    world.look(10).await;
    assert!(kept_by_another(&world));
}

#[actix_web::test]
async fn what_is_refused_after_it_was_rehearsed_is_not_kept_by_anybody() {
    let mut world = world();
    lock(&world.api.state).refuses_after_rehearsal = true;
    world.look(10).await;
    assert!(!world.holds() && !kept_by_another(&world));
    let status = world.api.pod("high").status.unwrap();
    let conditions = status.conditions.unwrap();
    assert_eq!(conditions[0].status, "False", "it had been said");
}

#[actix_web::test]
async fn nobody_is_evicted_for_a_pod_that_cannot_be_told() {
    let mut world = world();
    lock(&world.api.state).pods.remove("high");
    world.look(10).await;
    assert!(world.evicted().is_empty() && !world.holds());
}

#[actix_web::test]
async fn victims_and_the_pod_are_told() {
    let mut world = world();
    world.look(10).await;
    let events = lock(&world.api.state).events.clone();
    let reasons: Vec<_> = events.iter().map(|event| event["reason"].clone()).collect();
    assert_eq!(reasons, ["Preempted", "Preempted", "PreemptedForTopology"]);
    let last = &events[2];
    assert_eq!(last["regarding"]["name"], "high");
    assert!(
        last["note"]
            .as_str()
            .unwrap()
            .contains("not linked as required"),
        "{last}"
    );
    assert_eq!(events[0]["related"]["name"], "high");
}

#[actix_web::test]
async fn a_budget_that_forbids_one_saves_all_and_the_node_is_left_alone() {
    let mut world = world();
    world.refuse(429);
    lock(&world.api.state).refused_evictions.remove("p0");
    lock(&world.api.state).refused_evictions.remove("p4");
    world.look(10).await;
    assert!(world.evicted().is_empty() && !world.holds() && world.count("budget"));
    lock(&world.api.state).refused_evictions.clear();
    world.look(20).await;
    assert!(world.evicted().is_empty(), "it backs off");
    world.look(50).await;
    assert_eq!(world.evicted().len(), 2);
}

#[actix_web::test]
async fn missing_rights_are_said_once() {
    let mut world = world();
    world.refuse(403);
    world.look(10).await;
    assert!(world.evictor.has_complained && world.count("forbidden") && !world.holds());
}

#[actix_web::test]
async fn a_pod_of_the_same_name_that_is_another_one_is_not_met() {
    let mut world = world();
    for name in ["p0", "p1", "p4", "p5"] {
        let mut another = lock(&world.api.state).pods[name].clone();
        another.metadata.uid = Some("another".to_owned());
        world.api.create(another);
    }
    world.look(10).await;
    assert!(world.evicted().is_empty() && world.count("rejected"));
}

#[actix_web::test]
async fn a_replica_that_does_not_lead_evicts_nobody() {
    let mut world = world();
    world.evictor.leadership = Arc::new(crate::http::tests::leadership(Some("me")));
    world.look(10).await;
    assert!(world.evicted().is_empty());
    assert!(lock(&world.evictor.stranded).is_empty());
}

#[actix_web::test]
async fn what_was_done_is_recorded_told_and_decided_the_same_offline() {
    let mut world = world();
    world.refuse(429);
    world.look(10).await;
    lock(&world.api.state).refused_evictions.clear();
    world.look(50).await;
    let records = lock(&world.evictor.decisions).of_pod("ns", "high");
    let verbs: Vec<&str> = records.iter().map(|one| one.decided.verb()).collect();
    assert_eq!(verbs, ["filter", "evict", "evict"]);
    for record in &records {
        assert_eq!(replay(record, RESOURCE).unwrap(), Replayed::Same);
    }
    let told = |records: &[_]| explain::explain(records, RESOURCE, None).unwrap().eviction;
    let refused = told(&records[..2]).unwrap().error.unwrap();
    assert!(refused.contains("budget"), "{refused}");
    let done = told(&records).unwrap();
    let victims: Vec<&str> = done.on.victims.iter().map(|one| one.name()).collect();
    assert_eq!((&*done.on.node, victims.len(), done.error), ("a", 2, None));
    assert!(
        victims.iter().all(|name| name.starts_with("ns/p")),
        "{victims:?}"
    );
}
