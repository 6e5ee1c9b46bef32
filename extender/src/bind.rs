//! Binds pods: reads one where the index does not know it, sends the one POST, hears what became of it.
//!
//! What is decided lies in `berth_extender_core::bind`; here are the client and its time limits.

use std::error::Error as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_extender_core::bind::{
    Error, Placed, Prepared, Request, already_bound, binding, placed, prepare, settle,
};
use berth_extender_core::index::Index;
use berth_extender_core::leader::{COMMIT_MAX, POST_MAX, READ_MAX, Tenure};
use berth_extender_core::pod::PodRecord;
use berth_extender_core::record::Inputs;
use berth_extender_core::sent::Sent;
use berth_placement::Inexact;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::leadership::Leadership;
use crate::lock;
use crate::metrics::Metrics;
use turns::{TURN_MAX, Turns};

mod turns;

// A turn, one POST and two reads stay below kube-scheduler's `httpTimeout` of 5 s, so that it hears the truth.
const _: () =
    assert!(TURN_MAX.as_millis() + POST_MAX.as_millis() + 2 * READ_MAX.as_millis() < 5_000);
/// Bindings at once. kube-scheduler has no bound of its own: a large group binds all its pods together.
const AT_ONCE_MAX: usize = 256;

/// Binds pods. Cheap to clone.
#[derive(Clone)]
pub struct Binder {
    index: Arc<Mutex<Index>>,
    client: kube::Client,
    metrics: Arc<Metrics>,
    /// Where there is one, nothing is sent that it does not allow.
    leadership: Option<Arc<Leadership>>,
    at_once: Arc<Semaphore>,
    sent: Arc<Mutex<Sent>>,
    turns: Arc<Turns>,
}

/// What a bind was decided from, and what it was to write.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// Whether the pod asks for the resource.
    pub is_ours: bool,
    /// Absent where nothing was chosen.
    pub inputs: Option<Inputs>,
    /// The assignment.
    pub annotation: Option<String>,
    /// Why the kubelet may give other GPUs.
    pub inexact: Option<Inexact>,
}

// === impl Binder ===

impl std::fmt::Debug for Binder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Binder").finish_non_exhaustive()
    }
}

impl Binder {
    /// Binds through that client what `index` says is free. The client must not repeat a request by
    /// itself: the API server would count its time limit from there.
    #[must_use]
    pub fn new(index: Arc<Mutex<Index>>, client: kube::Client, metrics: Arc<Metrics>) -> Self {
        Self {
            index,
            client,
            metrics,
            leadership: None,
            at_once: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            sent: Arc::default(),
            turns: Arc::default(),
        }
    }

    /// Sends nothing unless that allows it.
    #[must_use]
    pub fn while_leading(self, leadership: Arc<Leadership>) -> Self {
        Self {
            leadership: Some(leadership),
            ..self
        }
    }

    /// Resolves when no binding is under way. Others are refused from now on.
    pub async fn drain(&self) {
        let all = u32::try_from(AT_ONCE_MAX).unwrap_or(u32::MAX);
        // It fails where it was called before.
        let _ = self.at_once.acquire_many(all).await;
        self.at_once.close();
    }

    /// Whether nothing that was sent may still take effect.
    #[must_use]
    pub fn is_over(&self) -> bool {
        lock(&self.sent).is_over(Instant::now())
    }

    /// Binds one pod, with the GPUs chosen now.
    ///
    /// # Errors
    /// When it is not bound, or not known to be.
    pub async fn bind(&self, request: &Request) -> Result<(), Error> {
        self.bind_noting(request, &mut Chosen::default()).await
    }

    /// As [`Self::bind`]; says in `chosen` what was decided, however it ends.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub async fn bind_noting(&self, request: &Request, chosen: &mut Chosen) -> Result<(), Error> {
        let _one = self.at_once.try_acquire().map_err(|_| Error::TooMany)?;
        // Before the tenure is read: waiting is no part of a binding.
        let _turn = self.turns.take(&request.node).await;
        let tenure = self.tenure()?;
        let (known, is_gone) = {
            let index = lock(&self.index);
            (
                index.pod(&request.uid).cloned(),
                index.is_gone(&request.uid),
            )
        };
        let record = match known {
            Some(record) => Some(record),
            None if is_gone => return Err(Error::Gone),
            None => self.read_record(request).await?,
        };
        let (prepared, placed) = self.prepare(request, record.as_ref(), chosen)?;
        match prepared {
            Prepared::Done => Ok(()),
            Prepared::Post { annotation } => {
                self.post(tenure, request, annotation.as_deref()).await?;
                placed.into_iter().for_each(|one| self.metrics.placed(one));
                Ok(())
            }
        }
    }

    /// Holds the GPUs, and says how good they are.
    fn prepare(
        &self,
        request: &Request,
        record: Option<&PodRecord>,
        chosen: &mut Chosen,
    ) -> Result<(Prepared, Option<Placed>), Error> {
        let asked = Instant::now();
        let mut index = lock(&self.index);
        self.metrics.waited(asked.elapsed());
        let now = Instant::now();
        let seen = index.snapshot(now);
        let prepared = prepare(&mut index, request, record, now);
        chosen.is_ours = record.is_some();
        chosen.inputs = Inputs::of_bind(&seen, request, &prepared);
        let prepared = prepared?;
        if let Prepared::Post { annotation } = &prepared {
            chosen.annotation = annotation.as_deref().map(str::to_owned);
        }
        let placed = placed(&index, &request.uid);
        chosen.inexact = placed.and_then(|placed| placed.inexact);
        Ok((prepared, placed))
    }

    async fn post(
        &self,
        tenure: Tenure,
        request: &Request,
        annotation: Option<&str>,
    ) -> Result<(), Error> {
        lock(&self.sent).begin();
        let limit = self.may_take(tenure);
        let until = Instant::now() + limit.unwrap_or_default() + COMMIT_MAX;
        let outcome = match limit {
            None => Err(Error::NotLeading),
            Some(limit) => self.send_within(limit, request, annotation).await,
        };
        let is_unsure = matches!(outcome, Err(Error::Unsure(_)));
        lock(&self.sent).end(is_unsure.then_some(until));
        settle(
            &mut lock(&self.index),
            &request.uid,
            &outcome,
            Instant::now(),
        );
        outcome
    }

    async fn send_within(
        &self,
        limit: Duration,
        request: &Request,
        annotation: Option<&str>,
    ) -> Result<(), Error> {
        match timeout(limit, self.send(request, annotation, limit)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                self.metrics.conflict();
                self.settle_conflict(request, &status.message).await
            }
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Error::Unsure(format!(
                "no answer within {} ms",
                limit.as_millis()
            ))),
        }
    }

    /// In which tenure a binding begins now.
    fn tenure(&self) -> Result<Tenure, Error> {
        match &self.leadership {
            Some(leadership) => leadership.serving().ok_or(Error::NotLeading),
            None => Ok(Tenure::default()),
        }
    }

    /// How long a binding that is sent now may take; `None`: it must not be sent.
    fn may_take(&self, tenure: Tenure) -> Option<Duration> {
        match &self.leadership {
            Some(leadership) => lock(&leadership.leader).bind_within(tenure, Instant::now()),
            None => Some(POST_MAX),
        }
    }

    /// The POST. The API server gives it up after `limit`, too: none takes effect later than that
    /// (`WithRequestDeadline` in k8s.io/apiserver reads the parameter `timeout`).
    async fn send(
        &self,
        request: &Request,
        annotation: Option<&str>,
        limit: Duration,
    ) -> kube::Result<serde_json::Value> {
        let body =
            serde_json::to_vec(&binding(request, annotation)).map_err(kube::Error::SerdeError)?;
        let uri = format!(
            "/api/v1/namespaces/{}/pods/{}/binding?timeout={}ms",
            request.namespace,
            request.name,
            limit.as_millis()
        );
        let post = http::Request::post(uri)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(kube::Error::HttpError)?;
        self.client.request(post).await
    }

    /// A conflict may be our own earlier binding, whose answer was lost.
    async fn settle_conflict(&self, request: &Request, message: &str) -> Result<(), Error> {
        match self.read_record(request).await? {
            Some(record) if record.node.is_some() => already_bound(&record, &request.node),
            _ => Err(Error::Rejected(message.to_owned())),
        }
    }

    /// The pod as the API server has it; `None` for one that asks for nothing of ours.
    async fn read_record(&self, request: &Request) -> Result<Option<PodRecord>, Error> {
        let pod = match timeout(READ_MAX, self.pods(request).get_opt(&request.name)).await {
            Ok(Ok(pod)) => pod.ok_or(Error::Gone)?,
            Ok(Err(error)) => return Err(Error::Read(error.to_string())),
            Err(_) => {
                return Err(Error::Read(format!(
                    "no answer within {} ms",
                    READ_MAX.as_millis()
                )));
            }
        };
        if pod.metadata.uid.as_deref() != Some(request.uid.as_str()) {
            return Err(Error::Recreated);
        }
        let resource = lock(&self.index).resource.clone();
        Ok(PodRecord::read(&pod, &resource))
    }

    fn pods(&self, request: &Request) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &request.namespace)
    }
}

/// What a failed POST means. Only an answer below 500, or no connection, says that nothing was done.
fn failure(error: &kube::Error) -> Error {
    match error {
        kube::Error::Api(status) if status.code == 404 => Error::Gone,
        kube::Error::Api(status) if (400..500).contains(&status.code) => {
            Error::Rejected(status.message.clone())
        }
        other if is_refused(other) => Error::Rejected("it cannot be reached".to_owned()),
        other => Error::Unsure(other.to_string()),
    }
}

/// Whether no connection was made at all.
fn is_refused(error: &kube::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests;
