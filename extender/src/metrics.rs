//! What the extender counts and times: kube-scheduler exports nothing per extender.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use berth_extender_core::index::Sizes;

/// From a tenth of a millisecond to kube-scheduler's patience, in seconds.
const SECONDS: [f64; 13] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];

/// All of them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    request_seconds: Family<Verb, Histogram, fn() -> Histogram>,
    refusals: Family<Reason, Counter<u64, AtomicU64>>,
    bad_requests: Family<Verb, Counter<u64, AtomicU64>>,
    binds: Family<Outcome, Counter<u64, AtomicU64>>,
    pokes: Family<Outcome, Counter<u64, AtomicU64>>,
    watch_failures: Family<Object, Counter<u64, AtomicU64>>,
    objects: Family<Object, Gauge<i64, AtomicI64>>,
    leads: Gauge<i64, AtomicI64>,
}

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

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let mut metrics = Self {
            registry: Registry::with_prefix("berth_extender"),
            request_seconds: Family::new_with_constructor(histogram),
            refusals: Family::default(),
            bad_requests: Family::default(),
            binds: Family::default(),
            pokes: Family::default(),
            watch_failures: Family::default(),
            objects: Family::default(),
            leads: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        let seconds = self.request_seconds.clone();
        registry.register_with_unit("request", "Time to answer", Unit::Seconds, seconds);
        registry.register(
            "refusals",
            "Nodes refused by filter, by reason",
            self.refusals.clone(),
        );
        registry.register(
            "bad_requests",
            "Bodies that could not be read",
            self.bad_requests.clone(),
        );
        registry.register("binds", "Binds by outcome", self.binds.clone());
        registry.register(
            "pokes",
            "Annotations that make kube-scheduler try again",
            self.pokes.clone(),
        );
        registry.register(
            "watch_failures",
            "Watches that broke",
            self.watch_failures.clone(),
        );
        registry.register("objects", "Objects in the index", self.objects.clone());
        registry.register("leads", "Whether this replica answers", self.leads.clone());
    }

    pub(crate) fn request(&self, verb: &'static str, took: Duration) {
        self.request_seconds
            .get_or_create(&Verb { verb })
            .observe(took.as_secs_f64());
    }

    pub(crate) fn refused(&self, reason: &'static str, node_count: usize) {
        self.refusals
            .get_or_create(&Reason { reason })
            .inc_by(node_count as u64);
    }

    pub(crate) fn bad_request(&self, verb: &'static str) {
        self.bad_requests.get_or_create(&Verb { verb }).inc();
    }

    pub(crate) fn bound(&self, outcome: &'static str) {
        self.binds.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn poked(&self, outcome: &'static str) {
        self.pokes.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn watch_failed(&self, kind: &'static str) {
        self.watch_failures.get_or_create(&Object { kind }).inc();
    }

    /// The text for `/metrics`.
    pub(crate) fn text(&self, sizes: Sizes, leads: bool) -> String {
        let counts = [
            ("nodes", sizes.nodes),
            ("topologies", sizes.topologies),
            ("pods", sizes.pods),
            ("unconfirmed_binds", sizes.reservations),
        ];
        for (kind, count) in counts {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.objects.get_or_create(&Object { kind }).set(count);
        }
        self.leads.set(i64::from(leads));
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            let _ = write!(text, "# EOF");
        }
        text
    }
}
