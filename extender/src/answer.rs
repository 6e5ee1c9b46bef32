//! What each verb answers: from kube-scheduler's request to its answer, through one snapshot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use berth_extender_core::bind;

use crate::bind::{Binder, Chosen};
use crate::lock;
use crate::metrics::{Format, Metrics};
use crate::wire::{self, ExtenderArgs, FilterResult, HostPriority, PreemptionArgs};
use berth_extender_core::decide::{self, Ask, Preference, Verdicts};
use berth_extender_core::explain::{self, Explanation};
use berth_extender_core::gauges::Gauges;
use berth_extender_core::index::Index;
use berth_extender_core::preempt::stranded::Stranded;
use berth_extender_core::preempt::{self, Offer};
use berth_extender_core::record::archive::{self, Archive, Now, Replica};
use berth_extender_core::record::{Asked, Bound, Inputs, Records};
use berth_extender_core::snapshot::Snapshot;
use berth_extender_core::waiting::Waiting;

/// Nodes whose turn has not come by then are refused for now. Less than half of kube-scheduler's
/// `httpTimeout` of 5 s, so that reading a large body and writing the answer fit beside it: what
/// comes later than that is a failed cycle for the pod, whatever it says.
const FILTER_TIME_MAX: Duration = Duration::from_secs(2);

/// Everything behind the verbs.
#[derive(Debug)]
pub struct Service {
    /// What the cluster looks like.
    pub index: Arc<Mutex<Index>>,
    /// Writes bindings.
    pub binder: Binder,
    /// Pods that fitted nowhere.
    pub waiting: Arc<Mutex<Waiting>>,
    /// Pods that only the wiring keeps out; absent unless we may evict for them.
    pub stranded: Option<Arc<Mutex<Stranded>>>,
    /// The last decisions.
    pub decisions: Arc<Mutex<Records>>,
    /// Counters and times.
    pub metrics: Arc<Metrics>,
    /// The extended resource.
    pub resource: String,
    /// Which of equally wired nodes comes first.
    pub preference: Preference,
}

// === impl Service ===

impl Service {
    /// Answers from that index, for its resource, binds through that client, and evicts nobody.
    #[must_use]
    pub fn new(index: Index, client: kube::Client) -> Self {
        let resource = index.resource.clone();
        let index = Arc::new(Mutex::new(index));
        let metrics: Arc<Metrics> = Arc::default();
        Self {
            binder: Binder::new(index.clone(), client, metrics.clone()),
            index,
            waiting: Arc::default(),
            stranded: None,
            decisions: Arc::default(),
            metrics,
            resource,
            preference: Preference::Pack,
        }
    }

    /// Which nodes fit the pod.
    #[must_use]
    pub fn filter<'a>(&self, args: &'a ExtenderArgs) -> FilterResult<'a> {
        let Some(pod) = &args.pod else {
            self.metrics.bad_request("filter");
            return FilterResult::failure(wire::Error::NoPod("filter").to_string());
        };
        let ask = Ask::of_pod(pod, &self.resource);
        let now = Instant::now();
        let snapshot = self.snapshot(now);
        let is_over = || now.elapsed() > FILTER_TIME_MAX;
        let offered = snapshot.named(args.names());
        let verdicts = decide::filter_until(&snapshot, &ask, offered, is_over);
        if ask.wants_gpus() {
            self.hint_after_filter(&ask, &snapshot, &verdicts);
            self.remember(&ask, &verdicts, &snapshot);
            let inputs = Inputs::of(&snapshot, &ask, &verdicts.offered, self.preference);
            lock(&self.decisions).filtered(&Asked::of(pod), timestamp(), inputs, &verdicts);
        }
        FilterResult::of(args, &verdicts)
    }

    /// How well each node fits.
    #[must_use]
    pub fn prioritize<'a>(&self, args: &'a ExtenderArgs) -> Vec<HostPriority<'a>> {
        let Some(pod) = &args.pod else {
            self.metrics.bad_request("prioritize");
            return Vec::new();
        };
        let ask = Ask::of_pod(pod, &self.resource);
        let snapshot = self.snapshot(Instant::now());
        let names = args.names();
        let offered = snapshot.named(names.iter().copied());
        let scores = decide::prioritize(&snapshot, &ask, &offered, self.preference);
        let hint = decide::hint(&snapshot, &ask, &scores);
        self.index().hint(&ask.uid, hint, Instant::now());
        if ask.wants_gpus() {
            let inputs = Inputs::of(&snapshot, &ask, &offered, self.preference);
            lock(&self.decisions).scored(&Asked::of(pod), timestamp(), inputs, &scores);
        }
        let priority = |(host, score)| HostPriority {
            host,
            score: i64::from(score).clamp(wire::SCORE_MIN, wire::SCORE_MAX),
        };
        let levels = scores.iter().map(|(_, score)| *score);
        names.into_iter().zip(levels).map(priority).collect()
    }

    /// The nodes offered that fit once their victims are gone, each with its best victims.
    #[must_use]
    pub fn preempt(&self, args: &PreemptionArgs) -> wire::PreemptionResult {
        let Some(pod) = &args.pod else {
            self.metrics.bad_request("preempt");
            return wire::PreemptionResult::default();
        };
        let ask = Ask::of_pod(pod, &self.resource);
        let snapshot = self.snapshot(Instant::now());
        let offers = args.victims().into_iter();
        let offers: BTreeMap<String, Offer> = offers
            .map(|(node, victims)| (node, victims.offer()))
            .collect();
        let answer = preempt::preempt(&snapshot, &ask, &offers);
        if ask.wants_gpus() {
            let inputs = Inputs::of_preempt(&snapshot, &ask, &offers);
            lock(&self.decisions).preempted(&Asked::of(pod), timestamp(), inputs, &answer);
        }
        wire::PreemptionResult {
            node_name_to_meta_victims: answer
                .kept
                .into_iter()
                .map(|(node, one)| (node, one.into()))
                .collect(),
        }
    }

    /// Binds the pod.
    pub async fn bind(&self, request: &bind::Request) -> wire::BindingResult {
        let mut chosen = Chosen::default();
        let outcome = self.binder.bind_noting(request, &mut chosen).await;
        self.metrics.bound(
            outcome
                .as_ref()
                .map_or_else(|error| error.outcome(), |()| "bound"),
        );
        let bound = Bound::of(request, chosen.annotation, &outcome).doubted(chosen.inexact);
        let error = bound.error.clone();
        match &error {
            None => tracing::info!(
                namespace = request.namespace,
                pod = request.name,
                node = request.node,
                "bound"
            ),
            Some(error) => tracing::warn!(
                namespace = request.namespace,
                pod = request.name,
                node = request.node,
                error,
                "not bound"
            ),
        }
        if chosen.is_ours {
            lock(&self.decisions).bound(request, timestamp(), chosen.inputs, bound);
        }
        wire::BindingResult {
            error: error.unwrap_or_default(),
        }
    }

    /// Whether the whole cluster was listed.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        lock(&self.index).is_synced()
    }

    /// The text of `/metrics`.
    #[must_use]
    pub(crate) fn metrics_text(&self, leads: bool, format: Format) -> String {
        let gauges = Gauges::read(&mut lock(&self.index), Instant::now());
        self.metrics.text(&gauges, leads, format)
    }

    /// Why the pod was placed as it was, or nowhere, as far as it is remembered.
    #[must_use]
    pub fn explain(
        &self,
        namespace: &str,
        pod: &str,
        why_not: Option<&str>,
    ) -> Option<Explanation> {
        let records = lock(&self.decisions).of_pod(namespace, pod);
        explain::explain(&records, &self.resource, why_not)
    }

    /// Everything that decisions depend on.
    ///
    /// # Errors
    /// When what was kept of a topology cannot be read again.
    pub fn archive(&self, leads: bool) -> Result<Archive, archive::Error> {
        let (snapshot, claims, is_synced) = {
            let mut index = lock(&self.index);
            let snapshot = index.snapshot(Instant::now());
            (snapshot, index.claims(), index.is_synced())
        };
        let records = lock(&self.decisions).iter().cloned().collect();
        Archive::of(Now {
            replica: Replica {
                taken_at: timestamp(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                resource: self.resource.clone(),
                preference: self.preference,
                leads,
                is_synced,
            },
            snapshot: &snapshot,
            claims,
            records,
        })
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        self.index().snapshot(now)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        let asked = Instant::now();
        let index = lock(&self.index);
        self.metrics.waited(asked.elapsed());
        index
    }

    /// A single node is not prioritized; what was shown before is out of date.
    fn hint_after_filter(&self, ask: &Ask, snapshot: &Snapshot, verdicts: &Verdicts<'_>) {
        let first: Vec<_> = verdicts.feasible().take(2).collect();
        let hint = match first.as_slice() {
            only @ [_] => decide::hint(snapshot, ask, only),
            _ => None,
        };
        self.index().hint(&ask.uid, hint, Instant::now());
    }

    fn remember(&self, ask: &Ask, verdicts: &Verdicts<'_>, snapshot: &Snapshot) {
        let mut by_kind: BTreeMap<&'static str, usize> = BTreeMap::new();
        for (_, no) in verdicts.refused() {
            *by_kind.entry(no.kind()).or_default() += 1;
        }
        for (kind, count) in by_kind {
            self.metrics.refused(kind, count);
        }
        if let Some(stranded) = &self.stranded {
            lock(stranded).filtered(ask, verdicts, Instant::now());
        }
        if !verdicts.is_complete() && verdicts.is_nowhere() {
            lock(&self.waiting).refused_early(ask, Instant::now());
        } else if verdicts.is_nowhere() {
            lock(&self.waiting).refused(ask, snapshot, Instant::now());
        } else {
            lock(&self.waiting).accepted(&ask.uid);
        }
    }
}

/// Now, as records say it.
pub(crate) fn timestamp() -> String {
    jiff::Timestamp::now().to_string()
}
