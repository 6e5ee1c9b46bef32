//! Evicts for pods that only the wiring keeps out (`--preempt-for-topology`). Only the leader does.
//!
//! Who is evicted for whom is decided in `berth_extender_core::preempt::stranded`; here are the calls.
//! Each eviction goes through the Eviction API with the victim's uid as precondition, so that disruption
//! budgets are respected and nobody else is met. All of a plan are rehearsed (`dryRun`) before the first is
//! done: what a budget forbids costs nobody anything. The set is kept for the pod before the first victim
//! leaves, and given up when an eviction is refused. A condition of the pod says that it is kept, so that
//! whoever leads next keeps it too; and where the one before was killed between two victims, it evicts the
//! others. What was done is recorded beside what the verbs decided.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_extender_core::index::Index;
use berth_extender_core::leader::Standing;
use berth_extender_core::pod::Holder;
use berth_extender_core::preempt::stranded::{Plan, Stranded};
use berth_extender_core::record::Records;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::time::timeout;

use crate::answer::{Service, timestamp};
use crate::leadership::Leadership;
use crate::lock;
use crate::metrics::Metrics;

mod events;

/// How often it is looked for pods to evict for; they have waited for seconds already.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// One call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// What has to be applied for the calls to be allowed.
const MANIFEST: &str = "scheduler-config/optional/preempt-for-topology.yaml";

/// Evicts, and tells of it.
pub struct Evictor {
    client: kube::Client,
    index: Arc<Mutex<Index>>,
    stranded: Arc<Mutex<Stranded>>,
    decisions: Arc<Mutex<Records>>,
    leadership: Arc<Leadership>,
    metrics: Arc<Metrics>,
    events: events::Events,
    /// That the rights are missing was said.
    has_complained: bool,
}

/// Why a victim stays.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A disruption budget allows no more.
    #[error("a disruption budget forbids it: {0}")]
    Budget(String),
    /// The account may not.
    #[error("the extender may not evict: {0}")]
    Forbidden(String),
    /// It is another pod now, or the API server says no for another reason.
    #[error("the API server refused: {0}")]
    Rejected(String),
    /// Nobody knows whether it was done.
    #[error("the API server did not answer")]
    Unanswered(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another replica leads now.
    #[error("this replica does not lead any more")]
    Deposed,
}

// === impl Evictor ===

impl std::fmt::Debug for Evictor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evictor").finish_non_exhaustive()
    }
}

impl Evictor {
    /// `None` where it is not wanted. The client must not repeat a request by itself: where a budget says
    /// no, that answer is final for a while.
    pub fn new(
        client: kube::Client,
        service: &Service,
        leadership: &Arc<Leadership>,
    ) -> Option<Self> {
        let stranded = service.stranded.clone()?;
        Some(Self {
            events: events::Events::new(client.clone()),
            client,
            index: service.index.clone(),
            stranded,
            decisions: service.decisions.clone(),
            leadership: leadership.clone(),
            metrics: service.metrics.clone(),
            has_complained: false,
        })
    }

    /// Looks for pods to evict for, for ever.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(Instant::now()).await;
        }
    }

    async fn look(&mut self, now: Instant) {
        let Some(plan) = self.next(now) else {
            return;
        };
        lock(&self.index).hold(&plan.pod.uid, plan.note().hold(now));
        let outcome = self.carry_out(&plan).await;
        let error = outcome.as_ref().err().map(ToString::to_string);
        lock(&self.decisions).evicted(&plan, timestamp(), error);
        match outcome {
            Ok(()) => {
                lock(&self.stranded).served(&plan);
                self.events.waits(&plan).await;
            }
            Err(error) => {
                // Whoever leads now keeps what the pod says, and so does this replica.
                if !matches!(error, Error::Deposed) {
                    lock(&self.index).let_go(&plan.pod.uid);
                }
                lock(&self.stranded).back_off(&plan, Instant::now());
                self.metrics.evicted(error.outcome());
                self.complain(&plan, &error);
            }
        }
    }

    /// Decided on a snapshot: binds do not wait for it.
    fn next(&self, now: Instant) -> Option<Plan> {
        let mut stranded = lock(&self.stranded);
        if !self.leads() {
            stranded.clear();
            lock(&self.index).let_unsaid_go();
        }
        if stranded.is_empty() {
            return None;
        }
        let snapshot = {
            let mut index = lock(&self.index);
            stranded.prune(&index, now);
            index.snapshot(now)
        };
        stranded.due(&snapshot, now)
    }

    async fn carry_out(&self, plan: &Plan) -> Result<(), Error> {
        for victim in &plan.victims {
            self.evict(victim, true).await?;
        }
        self.say(plan, true).await?;
        let evicted = self.evict_all(plan).await;
        if let Err(error) = &evicted
            && !matches!(error, Error::Deposed)
            && let Err(error) = self.say(plan, false).await
        {
            tracing::warn!(pod = plan.pod.name, error = %chain(&error), "saying that no GPUs are kept for a pod");
        }
        evicted
    }

    async fn evict_all(&self, plan: &Plan) -> Result<(), Error> {
        for victim in &plan.victims {
            self.evict(victim, false).await?;
            self.metrics.evicted("evicted");
            let (node, pod) = (&plan.node, &plan.pod.name);
            tracing::info!(%node, pod, victim = victim.name, "evicted for a pod that only the wiring kept out");
            self.events.evicted(plan, victim).await;
        }
        Ok(())
    }

    /// Writes into the pod's status that a set is kept for it, or no more.
    async fn say(&self, plan: &Plan, is_kept: bool) -> Result<(), Error> {
        if !self.leads() {
            return Err(Error::Deposed);
        }
        let pod = &plan.pod;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let at = jiff::Timestamp::now();
        let patch = Patch::Strategic(plan.note().patch(&pod.uid, is_kept, at));
        let parameters = PatchParams::default();
        match timeout(
            CALL_TIMEOUT,
            pods.patch_status(&pod.name, &parameters, &patch),
        )
        .await
        {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Error::of(error)),
            Err(elapsed) => Err(Error::Unanswered(Box::new(elapsed))),
        }
    }

    async fn evict(&self, victim: &Holder, is_rehearsal: bool) -> Result<(), Error> {
        if !self.leads() {
            return Err(Error::Deposed);
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &victim.namespace);
        let parameters = PostParams {
            dry_run: is_rehearsal,
            ..PostParams::default()
        };
        let eviction = eviction(victim);
        let post = pods.create_subresource::<Eviction, serde_json::Value>(
            "eviction",
            &victim.name,
            &parameters,
            &eviction,
        );
        match timeout(CALL_TIMEOUT, post).await {
            Ok(Ok(_)) => Ok(()),
            // It is gone already.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Ok(Err(error)) => Err(Error::of(error)),
            Err(elapsed) => Err(Error::Unanswered(Box::new(elapsed))),
        }
    }

    fn leads(&self) -> bool {
        self.leadership.standing() == Standing::Serves
    }

    /// Missing rights are said once; they do not come back by themselves.
    fn complain(&mut self, plan: &Plan, error: &Error) {
        let (node, pod) = (&plan.node, &plan.pod.name);
        match error {
            Error::Forbidden(_) if self.has_complained => {}
            Error::Forbidden(why) => {
                self.has_complained = true;
                tracing::error!(
                    why,
                    "--preempt-for-topology needs the right to evict: apply {MANIFEST}"
                );
            }
            error => {
                tracing::warn!(%node, pod, error = %chain(error), "evicting; leaving the node alone for a while");
            }
        }
    }
}

/// The API server deletes the pod of that uid only.
fn eviction(victim: &Holder) -> Eviction {
    let preconditions = Preconditions {
        uid: Some(victim.uid.as_str().to_owned()),
        ..Preconditions::default()
    };
    Eviction {
        metadata: ObjectMeta {
            name: Some(victim.name.clone()),
            namespace: Some(victim.namespace.clone()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(preconditions),
            ..DeleteOptions::default()
        }),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

// === impl Error ===

impl Error {
    fn of(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                429 => Self::Budget(status.message),
                401 | 403 => Self::Forbidden(status.message),
                _ => Self::Rejected(status.message),
            },
            other => Self::Unanswered(Box::new(other)),
        }
    }

    /// The outcome's name in metrics.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Budget(_) => "budget",
            Self::Forbidden(_) => "forbidden",
            Self::Rejected(_) => "rejected",
            Self::Unanswered(_) => "unanswered",
            Self::Deposed => "deposed",
        }
    }
}

#[cfg(test)]
mod tests;
