//! Binds that the watch does not confirm: whose pods to read, and what a read says.
//!
//! A quorum read sees whatever had taken effect when it began. So it proves that a binding was done,
//! that its pod is gone, or, once nothing that was sent can have an effect any more, that it never
//! was done. A bind that was done stays held here until the watch shows it, too: what the watch, or a
//! list under way, shows before is older than the read.

use std::time::{Duration, Instant};

use berth_topology::ids::PodUid;
use k8s_openapi::api::core::v1::Pod;

use super::Index;
use crate::leader::{COMMIT_MAX, POST_MAX};
use crate::pod::PodRecord;
use crate::reservations::{Reservation, State};

/// A watch that works shows a binding in milliseconds.
const WRITTEN_AGE: Duration = Duration::from_secs(3);
/// No POST has an effect so long after it was sent.
const POST_OVER: Duration = POST_MAX.saturating_add(COMMIT_MAX);
/// One pod is not asked for more often.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Pods asked for at once.
const ASKS_MAX: usize = 16;

/// A pod to be read, with a quorum read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// Its uid: a pod created again under the name is another one.
    pub uid: PodUid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a read says of a bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// Nothing: the watch was faster, or a POST may still have an effect after it.
    Nothing,
    /// It was done, or somebody else bound the pod: what the pod holds is held.
    Bound,
    /// The pod is gone or has ended, and holds nothing.
    Gone,
    /// It was never done and never will be; its GPUs are free.
    NeverBound,
    /// The API server said that it was done, and it was not. Its GPUs are held.
    Contradicted,
}

// === impl Index ===

impl Index {
    /// Pods whose bind is unconfirmed for long enough to ask, those first that were not asked for the
    /// longest.
    pub fn unconfirmed(&mut self, now: Instant) -> Vec<Unconfirmed> {
        let due = |one: &&mut Reservation| one.is_due(now);
        let mut due: Vec<&mut Reservation> = self.reservations.iter_mut().filter(due).collect();
        due.sort_by_key(|one| one.asked);
        due.truncate(ASKS_MAX);
        let ask = |one: &mut Reservation| {
            one.asked = Some(now);
            Unconfirmed {
                uid: one.holder.uid.clone(),
                namespace: one.holder.namespace.clone(),
                name: one.holder.name.clone(),
            }
        };
        due.into_iter().map(ask).collect()
    }

    /// A quorum read that began at `began` found this under the pod's name; `None`: nothing.
    pub fn confirmed(
        &mut self,
        uid: &PodUid,
        found: Option<&Pod>,
        began: Instant,
        now: Instant,
    ) -> Confirmed {
        let Some(state) = self.reservation(uid).map(|one| one.state) else {
            return Confirmed::Nothing;
        };
        let found = found.filter(|pod| pod.metadata.uid.as_deref() == Some(uid.as_str()));
        match found.and_then(|pod| PodRecord::read(pod, &self.resource)) {
            // No pod ever has this uid again.
            None => {
                self.delete_pod(uid.as_str());
                Confirmed::Gone
            }
            Some(record) if record.node.is_some() => self.found_bound(uid, &record, now),
            Some(_) => self.found_unbound(uid, state, began),
        }
    }

    /// Bound once is bound for ever, so this holds however late the read is heard of.
    fn found_bound(&mut self, uid: &PodUid, record: &PodRecord, now: Instant) -> Confirmed {
        let Some(node) = record.held_node() else {
            self.release(uid);
            return Confirmed::Gone;
        };
        if let Some(reservation) = self.reservation(uid).cloned() {
            self.release(uid);
            self.reserve(Reservation {
                node: node.to_owned(),
                holder: record.holder.clone(),
                state: State::Written(now),
                ..reservation
            });
        }
        Confirmed::Bound
    }

    fn found_unbound(&mut self, uid: &PodUid, state: State, began: Instant) -> Confirmed {
        match state {
            State::Unsure(since) if began >= since + POST_OVER => {
                self.release(uid);
                Confirmed::NeverBound
            }
            State::Written(since) if began >= since => {
                let reservation = self.reservations.get_mut(uid);
                if let Some(one) = reservation.filter(|one| !one.is_warned) {
                    one.is_warned = true;
                    tracing::warn!(%uid, node = one.node, "the API server said that the pod was bound, and it is not; its GPUs are held");
                }
                Confirmed::Contradicted
            }
            State::Unsure(_) | State::Written(_) | State::Sent(_) => Confirmed::Nothing,
        }
    }
}

// === impl Reservation ===

impl Reservation {
    fn is_due(&self, now: Instant) -> bool {
        let since = match self.state {
            State::Sent(_) => return false,
            State::Written(since) => since + WRITTEN_AGE,
            State::Unsure(since) => since + POST_OVER,
        };
        let again = self.asked.map(|asked| asked + ASK_EVERY);
        now >= since && again.is_none_or(|again| now >= again)
    }
}

#[cfg(test)]
mod tests;
