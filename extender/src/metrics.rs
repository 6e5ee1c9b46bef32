//! What the extender counts and times: kube-scheduler exports nothing per extender. `docs/metrics.md`
//! says what each means.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use berth_extender_core::bind::Placed;
use berth_extender_core::gauges::Gauges;

mod text;

pub(crate) use text::Format;

/// From a tenth of a millisecond to kube-scheduler's patience, in seconds.
const REQUEST_SECONDS: [f64; 13] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];
/// A lock is held for microseconds; one that is waited for longer is worth a look.
const LOCK_SECONDS: [f64; 7] = [0.000_001, 0.000_01, 0.000_1, 0.001, 0.01, 0.1, 1.0];
/// Tenths of the best, as sets are scored.
const QUALITY: [f64; 11] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

type Count = Counter<u64, AtomicU64>;
type Level = Gauge<i64, AtomicI64>;

/// All of them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    request_seconds: Family<Verb, Histogram, fn() -> Histogram>,
    refusals: Family<Reason, Count>,
    bad_requests: Family<Verb, Count>,
    binds: Family<Outcome, Count>,
    bind_conflicts: Count,
    placements: Family<Placement, Count>,
    set_quality: Histogram,
    index_wait_seconds: Histogram,
    pokes: Family<Outcome, Count>,
    evictions: Family<Outcome, Count>,
    watch_failures: Family<Object, Count>,
    objects: Family<Object, Level>,
    snapshot_age_seconds: Family<Object, Gauge<f64, AtomicU64>>,
    stale_nodes: Level,
    hints: Level,
    mismatches: Level,
    leads: Level,
    /// Without TLS there is no sample.
    certificate_expiry: Family<NoLabels, Level>,
}

type NoLabels = [(&'static str, &'static str); 0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verb {
    verb: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Object {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Placement {
    link: &'static str,
    exact: &'static str,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let request_seconds: fn() -> Histogram = || Histogram::new(REQUEST_SECONDS);
        let mut metrics = Self {
            registry: Registry::with_prefix("berth_extender"),
            request_seconds: Family::new_with_constructor(request_seconds),
            refusals: Family::default(),
            bad_requests: Family::default(),
            binds: Family::default(),
            bind_conflicts: Counter::default(),
            placements: Family::default(),
            set_quality: Histogram::new(QUALITY),
            index_wait_seconds: Histogram::new(LOCK_SECONDS),
            pokes: Family::default(),
            evictions: Family::default(),
            watch_failures: Family::default(),
            objects: Family::default(),
            snapshot_age_seconds: Family::default(),
            stale_nodes: Gauge::default(),
            hints: Gauge::default(),
            mismatches: Gauge::default(),
            leads: Gauge::default(),
            certificate_expiry: Family::default(),
        };
        metrics.register_requests();
        metrics.register_placements();
        metrics.register_view();
        metrics
    }
}

impl Metrics {
    fn register_requests(&mut self) {
        let all = &mut self.registry;
        let seconds = self.request_seconds.clone();
        all.register_with_unit("request", "Time to answer", Unit::Seconds, seconds);
        let refusals = self.refusals.clone();
        all.register("refusals", "Nodes refused by filter, by reason", refusals);
        let bad = self.bad_requests.clone();
        all.register("bad_requests", "Bodies that could not be read", bad);
        let wait = self.index_wait_seconds.clone();
        let help = "Time that a request waited for the index's lock";
        all.register_with_unit("index_wait", help, Unit::Seconds, wait);
    }

    fn register_placements(&mut self) {
        let all = &mut self.registry;
        all.register("binds", "Binds by outcome", self.binds.clone());
        let help = "Bindings that the API server refused as conflicting";
        all.register("bind_conflicts", help, self.bind_conflicts.clone());
        let help = "Pods bound with GPUs, by the worst link between two of a group";
        all.register("placements", help, self.placements.clone());
        let help = "Bandwidth of each bound set over the best of its machine";
        let quality = self.set_quality.clone();
        all.register_with_unit(
            "set_quality",
            help,
            Unit::Other("ratio".to_owned()),
            quality,
        );
        let help = "Containers whose GPUs the kubelet gave otherwise than assigned";
        all.register("promise_mismatches", help, self.mismatches.clone());
        let help = "Pods that were shown a best node and that no bind came for yet";
        all.register("hints", help, self.hints.clone());
    }

    fn register_view(&mut self) {
        let all = &mut self.registry;
        let help = "Annotations that make kube-scheduler try again";
        all.register("pokes", help, self.pokes.clone());
        let help = "Evictions for pods that only the wiring kept out, by outcome";
        all.register("topology_evictions", help, self.evictions.clone());
        all.register(
            "watch_failures",
            "Watches that broke",
            self.watch_failures.clone(),
        );
        all.register("objects", "Objects in the index", self.objects.clone());
        let ages = self.snapshot_age_seconds.clone();
        let help = "Time since the watch of this kind broke, 0 while it is live";
        all.register_with_unit("snapshot_age", help, Unit::Seconds, ages);
        let help = "Nodes with a topology whose agent is silent";
        all.register("stale_nodes", help, self.stale_nodes.clone());
        all.register("leads", "Whether this replica answers", self.leads.clone());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        all.register("build", "The program", build);
        let expiry = self.certificate_expiry.clone();
        let help = "When the certificate that is served with expires, in Unix time";
        all.register_with_unit("certificate_expiry_timestamp", help, Unit::Seconds, expiry);
    }

    /// The certificate that is served with expires then.
    pub(crate) fn certificate_expires(&self, at_seconds: Option<i64>) {
        if let Some(at_seconds) = at_seconds {
            self.certificate_expiry.get_or_create(&[]).set(at_seconds);
        }
    }

    pub(crate) fn request(&self, verb: &'static str, took: Duration) {
        let seconds = self.request_seconds.get_or_create(&Verb { verb });
        seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn refused(&self, reason: &'static str, node_count: usize) {
        let refusals = self.refusals.get_or_create(&Reason { reason });
        refusals.inc_by(node_count as u64);
    }

    pub(crate) fn bad_request(&self, verb: &'static str) {
        self.bad_requests.get_or_create(&Verb { verb }).inc();
    }

    pub(crate) fn bound(&self, outcome: &'static str) {
        self.binds.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn conflict(&self) {
        self.bind_conflicts.inc();
    }

    /// A pod was bound with those GPUs.
    pub(crate) fn placed(&self, placed: Placed) {
        let link = placed.link.map_or("none", |link| link.as_str());
        let exact = if placed.inexact.is_none() {
            "true"
        } else {
            "false"
        };
        let placements = self.placements.get_or_create(&Placement { link, exact });
        placements.inc();
        self.set_quality.observe(f64::from(placed.score) / 10.0);
    }

    pub(crate) fn waited(&self, took: Duration) {
        self.index_wait_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn poked(&self, outcome: &'static str) {
        self.pokes.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn evicted(&self, outcome: &'static str) {
        self.evictions.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn watch_failed(&self, kind: &'static str) {
        self.watch_failures.get_or_create(&Object { kind }).inc();
    }

    /// The text for `/metrics`.
    pub(crate) fn text(&self, gauges: &Gauges, leads: bool, format: Format) -> String {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let sizes = [
            ("nodes", gauges.sizes.nodes),
            ("topologies", gauges.sizes.topologies),
            ("pods", gauges.sizes.pods),
            ("unconfirmed_binds", gauges.sizes.reservations),
        ];
        for (kind, size) in sizes {
            self.objects
                .get_or_create(&Object { kind })
                .set(count(size));
        }
        for (kind, age) in &gauges.ages {
            let ages = self.snapshot_age_seconds.get_or_create(&Object { kind });
            ages.set(age.as_secs_f64());
        }
        self.stale_nodes.set(count(gauges.stale_nodes));
        self.hints.set(count(gauges.sizes.hints));
        self.mismatches.set(count(gauges.mismatches));
        self.leads.set(i64::from(leads));
        text::write(&self.registry, format)
    }
}

#[cfg(test)]
mod tests;
