//! Bind, decided: the GPUs are chosen again on the newest snapshot, held, and written with the node
//! in one POST. Nothing is written before it and nothing has to be cleaned up after it.
//!
//! Choosing and holding happen in one call under the index's lock, so that binds at once never give a
//! GPU twice; who sends the POST does it outside. kube-scheduler may repeat a bind whose answer it
//! did not get: one that has come true is a success.

use std::sync::Arc;
use std::time::Instant;

use berth_placement::Refusal;
use berth_topology::assignment::{Assignment, TEXT_BYTES_MAX};
use berth_topology::ids::{NodeName, PodUid};
use berth_topology::names;
use k8s_openapi::api::core::v1::{Binding, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::decide::{self, Ask};
use crate::index::Index;
use crate::pod::{Holder, Intent, PodRecord, intent_of};
pub use crate::reservations::Placed;
use crate::reservations::{Reservation, State};
use crate::snapshot::Snapshot;

/// What kube-scheduler asks: that pod onto that node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: a pod created again under the name is another one.
    pub uid: PodUid,
    /// The node that was chosen.
    pub node: String,
}

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
    /// This replica leads no more, or not for long enough.
    #[error("this replica does not lead for long enough to bind the pod; trying again later")]
    NotLeading,
    /// So many binds are under way that another would only wait.
    #[error("too many bindings are under way; trying again later")]
    TooMany,
    /// The pod could not be read.
    #[error("reading the pod before binding it: {0}")]
    Read(String),
}

/// How a bind stands before anything is written.
#[derive(Debug)]
pub enum Prepared {
    /// It has already come true.
    Done,
    /// To be written; its GPUs are held.
    Post {
        /// The assignment; `None` for a pod that asks for nothing of ours.
        annotation: Option<Arc<str>>,
    },
}

/// Chooses the GPUs and holds them. `record` is the pod where the index does not know it; `None` for
/// one that asks for nothing of ours.
///
/// # Errors
/// When there is nothing to be written: the bind cannot be, or must not be yet.
pub fn prepare(
    index: &mut Index,
    request: &Request,
    record: Option<&PodRecord>,
    now: Instant,
) -> Result<Prepared, Error> {
    let uid = &request.uid;
    let snapshot = index.snapshot(now);
    if index.is_gone(uid) {
        return Err(Error::Gone);
    }
    let Some(record) = index.pod(uid).or(record).cloned() else {
        // The server would bind to a node that does not exist.
        return match snapshot.node(&request.node) {
            Some(_) => Ok(Prepared::Post { annotation: None }),
            None => Err(Error::NoNode(request.node.clone())),
        };
    };
    if record.node.is_some() {
        return already_bound(&record, &request.node).map(|()| Prepared::Done);
    }
    if let Some(prepared) = repeat(index, uid, &request.node)? {
        return Ok(prepared);
    }
    let reservation = decide(&snapshot, &record, &request.node)?;
    let annotation = reservation.annotation.clone();
    index.reserve(reservation);
    Ok(Prepared::Post { annotation })
}

/// How good the GPUs are that an unconfirmed bind of that pod holds.
#[must_use]
pub fn placed(index: &Index, uid: &PodUid) -> Option<Placed> {
    index.reservation(uid).map(|reservation| reservation.placed)
}

/// Whether a pod that is bound is bound as asked.
///
/// # Errors
/// When it is bound elsewhere, or by somebody else.
pub fn already_bound(record: &PodRecord, node: &str) -> Result<(), Error> {
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
    if earlier.node != node {
        return Err(Error::Unconfirmed(earlier.node.clone()));
    }
    let unsure = match earlier.state {
        State::Sent(_) => return Err(Error::Unconfirmed(earlier.node.clone())),
        State::Written(_) if earlier.holder.intent.is_empty() => return Err(Error::BoundByOther),
        State::Written(_) => return Ok(Some(Prepared::Done)),
        State::Unsure(since) => since,
    };
    let annotation = earlier.annotation.clone();
    index.note(uid, State::Sent(Some(unsure)));
    Ok(Some(Prepared::Post { annotation }))
}

fn decide(snapshot: &Snapshot, record: &PodRecord, node: &str) -> Result<Reservation, Error> {
    let (text, intent, placed) = choose(snapshot, &Ask::of_record(record), node)?;
    let holder = Holder {
        intent,
        ..record.holder.as_ref().clone()
    };
    Ok(Reservation {
        node: node.to_owned(),
        holder: Arc::new(holder),
        annotation: Some(text.into()),
        state: State::Sent(None),
        placed,
        asked: None,
        is_warned: false,
    })
}

/// The assignment that a bind writes, and the GPUs that it then holds. Holds nothing.
///
/// # Errors
/// When the pod does not fit that node, or there is none.
pub fn choose(
    snapshot: &Snapshot,
    ask: &Ask,
    node: &str,
) -> Result<(String, Intent, Placed), Error> {
    let state = snapshot
        .node(node)
        .ok_or_else(|| Error::NoNode(node.to_owned()))?;
    let placement = decide::choose(snapshot, ask, node).map_err(Error::Refused)?;
    let hash = state
        .topology
        .as_ref()
        .map(|topology| topology.hash.clone());
    let inexact = placement.inexact;
    let assignment = Assignment {
        schema: names::SCHEMA.to_owned(),
        pod_uid: Some(ask.uid.clone()),
        node: Some(NodeName::from(node)),
        topology_hash: hash.filter(|hash| !hash.is_empty()),
        containers: placement.containers,
    };
    let links = assignment.containers.values();
    let placed = Placed {
        link: links.filter_map(|container| container.weakest_link).min(),
        score: placement.score,
        inexact,
    };
    let text = assignment.encode();
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::TooLong);
    }
    Ok((text, intent_of(&assignment), placed))
}

/// The one write. Its uid is a precondition: a pod created again under the name is another one.
#[must_use]
pub fn binding(request: &Request, annotation: Option<&str>) -> Binding {
    let annotations =
        annotation.map(|text| [(names::ASSIGNMENT.to_owned(), text.to_owned())].into());
    let metadata = ObjectMeta {
        name: Some(request.name.clone()),
        namespace: Some(request.namespace.clone()),
        uid: Some(request.uid.as_str().to_owned()),
        annotations,
        ..ObjectMeta::default()
    };
    let target = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(request.node.clone()),
        ..ObjectReference::default()
    };
    Binding { metadata, target }
}

/// Notes what became of a bind's POST.
pub fn settle(index: &mut Index, uid: &PodUid, outcome: &Result<(), Error>, now: Instant) {
    match outcome {
        Ok(()) => index.note(uid, State::Written(now)),
        Err(Error::Unsure(_) | Error::Read(_)) => index.note(uid, State::Unsure(now)),
        // This one was refused, or not sent; an earlier one may still be on its way. What was never
        // sent is not kept: it was chosen before another replica led, who may have given it away.
        Err(Error::Rejected(_) | Error::NotLeading) => {
            match index.reservation(uid).map(|one| one.state) {
                Some(State::Sent(Some(unsure))) => index.note(uid, State::Unsure(unsure)),
                _ => index.release(uid),
            }
        }
        Err(_) => index.release(uid),
    }
}

// === impl Error ===

impl Error {
    /// The outcome's name in metrics.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Gone | Self::Recreated => "gone",
            Self::BoundElsewhere(_) | Self::BoundByOther => "bound_by_other",
            Self::Unconfirmed(_) => "unconfirmed",
            Self::NoNode(_) | Self::Refused(_) | Self::TooLong => "refused",
            Self::Rejected(_) => "rejected",
            Self::NotLeading => "not_leading",
            Self::TooMany => "too_many",
            Self::Unsure(_) | Self::Read(_) => "unsure",
        }
    }
}

#[cfg(test)]
mod livelock;
#[cfg(test)]
mod tests;
