//! Bind: the GPUs are chosen again on the newest snapshot, held, and written with the node in one
//! POST. Nothing is written before it and nothing has to be cleaned up after it.
//!
//! Choosing and holding happen under one lock, so that binds at once never give a GPU twice; the
//! POST happens outside it. kube-scheduler may repeat a bind whose answer it did not get: one that
//! has come true is a success.

use std::error::Error as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_placement::Refusal;
use berth_topology::assignment::{Assignment, TEXT_BYTES_MAX};
use berth_topology::claim::PodClaim;
use berth_topology::ids::{NodeName, PodUid};
use berth_topology::names;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use tokio::time::timeout;

use crate::decide;
use crate::index::Index;
use crate::lock;
use crate::pod::{Holder, PodRecord, intent_of};
use crate::reservations::{Reservation, State};
use crate::snapshot::Snapshot;
use crate::wire::BindingArgs;

/// Together with two reads below kube-scheduler's `httpTimeout` of 5 s, so that it hears the truth.
const POST_TIMEOUT: Duration = Duration::from_millis(3_000);
/// One read of the pod.
const READ_TIMEOUT: Duration = Duration::from_millis(700);

/// Why a pod was not bound. kube-scheduler shows the sentence and tries the pod again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod does not exist any more.
    #[error("the pod is gone")]
    Gone,
    /// The name now belongs to another pod.
    #[error("the pod was deleted and created again; this binding is for the old one")]
    Recreated,
    /// Bound to another node.
    #[error("the pod is already bound to node {0}")]
    BoundElsewhere(String),
    /// Bound to this node by somebody else, so that nobody chose its GPUs.
    #[error("the pod is already bound to this node, without an assignment of ours")]
    BoundByOther,
    /// An earlier bind may still come true.
    #[error(
        "an earlier binding of this pod, to node {0}, is not confirmed yet; trying again later"
    )]
    Unconfirmed(String),
    /// No such Node.
    #[error("node {0} does not exist")]
    NoNode(String),
    /// The GPUs that filter saw are taken, or never fitted.
    #[error("the pod does not fit the node any more: {0}")]
    Refused(Refusal),
    /// An annotation so long that no reader would take it.
    #[error("the assignment is longer than {TEXT_BYTES_MAX} bytes; give fewer containers GPUs")]
    TooLong,
    /// The API server said no.
    #[error("the API server refused the binding: {0}")]
    Rejected(String),
    /// It is not known whether the API server did it.
    #[error("the API server did not answer the binding: {0}; trying again later")]
    Unsure(String),
    /// The pod could not be read.
    #[error("reading the pod before binding it: {0}")]
    Read(String),
}

/// Binds pods. Cheap to clone.
#[derive(Clone)]
pub struct Binder {
    index: Arc<Mutex<Index>>,
    client: kube::Client,
}

/// How a bind stands before anything is written.
#[derive(Debug)]
enum Prepared {
    /// It has already come true.
    Done,
    /// To be written; its GPUs are held.
    Post { annotation: Option<Arc<str>> },
}

// === impl Binder ===

impl std::fmt::Debug for Binder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Binder").finish_non_exhaustive()
    }
}

impl Binder {
    /// Binds through that client what `index` says is free.
    #[must_use]
    pub fn new(index: Arc<Mutex<Index>>, client: kube::Client) -> Self {
        Self { index, client }
    }

    /// Binds one pod, with the GPUs chosen now.
    ///
    /// # Errors
    /// When it is not bound, or not known to be.
    pub async fn bind(&self, args: &BindingArgs) -> Result<(), Error> {
        let uid = PodUid::from(args.pod_uid.as_str());
        let (known, is_gone) = {
            let index = lock(&self.index);
            (index.pod(&uid).cloned(), index.is_gone(&uid))
        };
        let record = match known {
            Some(record) => Some(record),
            None if is_gone => return Err(Error::Gone),
            None => self.read_record(args).await?,
        };
        let prepared = prepare(
            &mut lock(&self.index),
            args,
            record.as_ref(),
            Instant::now(),
        )?;
        match prepared {
            Prepared::Done => Ok(()),
            Prepared::Post { annotation } => self.post(args, &uid, annotation.as_deref()).await,
        }
    }

    async fn post(
        &self,
        args: &BindingArgs,
        uid: &PodUid,
        annotation: Option<&str>,
    ) -> Result<(), Error> {
        let binding = binding(args, annotation);
        let parameters = PostParams::default();
        let pods = self.pods(args);
        let post = pods.create_subresource::<Binding, serde_json::Value>(
            "binding",
            &args.pod_name,
            &parameters,
            &binding,
        );
        let outcome = match timeout(POST_TIMEOUT, post).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                self.settle_conflict(args, &status.message).await
            }
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Error::Unsure(format!(
                "no answer within {} s",
                POST_TIMEOUT.as_secs()
            ))),
        };
        self.note(uid, &outcome);
        outcome
    }

    /// A conflict may be our own earlier binding, whose answer was lost.
    async fn settle_conflict(&self, args: &BindingArgs, message: &str) -> Result<(), Error> {
        match self.read_record(args).await? {
            Some(record) if record.node.is_some() => already_bound(&record, &args.node),
            _ => Err(Error::Rejected(message.to_owned())),
        }
    }

    fn note(&self, uid: &PodUid, outcome: &Result<(), Error>) {
        let mut index = lock(&self.index);
        match outcome {
            Ok(()) => index.note(uid, State::Written(Instant::now())),
            Err(Error::Unsure(_) | Error::Read(_)) => {
                index.note(uid, State::Unsure(Instant::now()));
            }
            Err(_) => index.release(uid),
        }
    }

    /// The pod as the API server has it; `None` for one that asks for nothing of ours.
    async fn read_record(&self, args: &BindingArgs) -> Result<Option<PodRecord>, Error> {
        let pod = match timeout(READ_TIMEOUT, self.pods(args).get_opt(&args.pod_name)).await {
            Ok(Ok(pod)) => pod.ok_or(Error::Gone)?,
            Ok(Err(error)) => return Err(Error::Read(error.to_string())),
            Err(_) => {
                return Err(Error::Read(format!(
                    "no answer within {} ms",
                    READ_TIMEOUT.as_millis()
                )));
            }
        };
        if pod.metadata.uid.as_deref() != Some(&args.pod_uid) {
            return Err(Error::Recreated);
        }
        let resource = lock(&self.index).resource.clone();
        Ok(PodRecord::read(&pod, &resource))
    }

    fn pods(&self, args: &BindingArgs) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &args.pod_namespace)
    }
}

/// Chooses the GPUs and holds them. `record` is the pod where the index does not know it; `None` for
/// one that asks for nothing of ours.
fn prepare(
    index: &mut Index,
    args: &BindingArgs,
    record: Option<&PodRecord>,
    now: Instant,
) -> Result<Prepared, Error> {
    let uid = PodUid::from(args.pod_uid.as_str());
    let snapshot = index.snapshot(now);
    if index.is_gone(&uid) {
        return Err(Error::Gone);
    }
    let Some(record) = index.pod(&uid).or(record).cloned() else {
        // The server would bind to a node that does not exist.
        return match snapshot.node(&args.node) {
            Some(_) => Ok(Prepared::Post { annotation: None }),
            None => Err(Error::NoNode(args.node.clone())),
        };
    };
    if record.node.is_some() {
        return already_bound(&record, &args.node).map(|()| Prepared::Done);
    }
    if let Some(prepared) = repeat(index, &uid, &args.node)? {
        return Ok(prepared);
    }
    let reservation = decide(&snapshot, &record, &args.node)?;
    let annotation = reservation.annotation.clone();
    index.reserve(reservation);
    Ok(Prepared::Post { annotation })
}

fn already_bound(record: &PodRecord, node: &str) -> Result<(), Error> {
    match record.node.as_deref() {
        Some(bound) if bound != node => Err(Error::BoundElsewhere(bound.to_owned())),
        _ if record.holder.intent.is_empty() => Err(Error::BoundByOther),
        _ => Ok(()),
    }
}

/// An earlier bind of the same pod: done, or written again with the same GPUs.
fn repeat(index: &mut Index, uid: &PodUid, node: &str) -> Result<Option<Prepared>, Error> {
    let Some(earlier) = index.reservation(uid) else {
        return Ok(None);
    };
    if earlier.node != node || earlier.state == State::Sent {
        return Err(Error::Unconfirmed(earlier.node.clone()));
    }
    if let State::Written(_) = earlier.state {
        return Ok(Some(Prepared::Done));
    }
    let annotation = earlier.annotation.clone();
    index.note(uid, State::Sent);
    Ok(Some(Prepared::Post { annotation }))
}

fn decide(snapshot: &Snapshot, record: &PodRecord, node: &str) -> Result<Reservation, Error> {
    let state = snapshot
        .node(node)
        .ok_or_else(|| Error::NoNode(node.to_owned()))?;
    let claim: &PodClaim = record
        .claim
        .as_ref()
        .as_ref()
        .map_err(|error| Error::Refused(Refusal::BadClaim(error.clone())))?;
    let placement = decide::choose(snapshot, claim, node).map_err(Error::Refused)?;
    let hash = state
        .topology
        .as_ref()
        .map(|topology| topology.hash.clone());
    let assignment = Assignment {
        schema: names::SCHEMA.to_owned(),
        pod_uid: Some(record.holder.uid.clone()),
        node: Some(NodeName::from(node)),
        topology_hash: hash.filter(|hash| !hash.is_empty()),
        containers: placement.containers,
    };
    let text = assignment.encode();
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::TooLong);
    }
    let holder = Holder {
        intent: intent_of(&assignment),
        ..record.holder.as_ref().clone()
    };
    Ok(Reservation {
        node: node.to_owned(),
        holder: Arc::new(holder),
        annotation: Some(text.into()),
        state: State::Sent,
    })
}

/// The one write. Its uid is a precondition: a pod created again under the name is another one.
fn binding(args: &BindingArgs, annotation: Option<&str>) -> Binding {
    let annotations =
        annotation.map(|text| [(names::ASSIGNMENT.to_owned(), text.to_owned())].into());
    let metadata = ObjectMeta {
        name: Some(args.pod_name.clone()),
        namespace: Some(args.pod_namespace.clone()),
        uid: Some(args.pod_uid.clone()),
        annotations,
        ..ObjectMeta::default()
    };
    let target = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(args.node.clone()),
        ..ObjectReference::default()
    };
    Binding { metadata, target }
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

// === impl Error ===

impl Error {
    /// The outcome's name in metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Gone | Self::Recreated => "gone",
            Self::BoundElsewhere(_) | Self::BoundByOther => "bound_by_other",
            Self::Unconfirmed(_) => "unconfirmed",
            Self::NoNode(_) | Self::Refused(_) | Self::TooLong => "refused",
            Self::Rejected(_) => "rejected",
            Self::Unsure(_) | Self::Read(_) => "unsure",
        }
    }
}

#[cfg(test)]
mod tests;
