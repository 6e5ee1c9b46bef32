//! Our own binds that the pod watch has not confirmed yet: what we would else give away twice.
//!
//! ```text
//! choose ─► Sent ─┬─ 201 ──────────► Written ─┐
//!                 ├─ refused ──► (gone)       ├─ watch shows the pod bound or deleted ─► (gone)
//!                 └─ no answer ─► Unsure ─────┘   or the time below has passed on a live watch
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_placement::Inexact;
use berth_topology::ids::PodUid;
use berth_topology::link::LinkClass;

use crate::pod::Holder;

/// A binding that was written is seen by a live watch in milliseconds.
const WRITTEN_HOLD_MAX: Duration = Duration::from_secs(60);
/// The API server drops a request whose client has gone; what it had begun is done long before this.
const UNSURE_HOLD_MAX: Duration = Duration::from_secs(15);

/// GPUs of one node that an unconfirmed bind holds.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    pub node: String,
    pub holder: Arc<Holder>,
    /// The annotation that is sent: the same one when the bind is repeated.
    pub annotation: Option<Arc<str>>,
    pub state: State,
    pub placed: Placed,
}

/// How good a placement is, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// The worst link between two GPUs of a group; `None` where no group has two.
    pub link: Option<LinkClass>,
    /// 0 to 10: the set against the best of that machine.
    pub score: u8,
    /// Why the kubelet may give other GPUs; absent where it can only give these.
    pub inexact: Option<Inexact>,
}

/// What is known of the POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Under way.
    Sent,
    /// The API server has said yes.
    Written(Instant),
    /// Nobody knows whether it was done.
    Unsure(Instant),
}

/// All of them, by pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reservations {
    by_pod: BTreeMap<PodUid, Reservation>,
}

// === impl Reservations ===

impl Reservations {
    pub(crate) fn insert(&mut self, reservation: Reservation) {
        self.by_pod
            .insert(reservation.holder.uid.clone(), reservation);
    }

    pub(crate) fn get(&self, uid: &PodUid) -> Option<&Reservation> {
        self.by_pod.get(uid)
    }

    pub(crate) fn get_mut(&mut self, uid: &PodUid) -> Option<&mut Reservation> {
        self.by_pod.get_mut(uid)
    }

    pub(crate) fn remove(&mut self, uid: &PodUid) -> Option<Reservation> {
        self.by_pod.remove(uid)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Reservation> {
        self.by_pod.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_pod.len()
    }

    /// Pods whose bind the watch, if it had happened, would have shown by now. Ask only while the
    /// pod watch is live.
    pub(crate) fn expired(&self, now: Instant) -> Vec<PodUid> {
        let is_over =
            |since: Instant, hold_max: Duration| now.saturating_duration_since(since) > hold_max;
        let expired = self
            .by_pod
            .iter()
            .filter(|(_, reservation)| match reservation.state {
                State::Sent => false,
                State::Written(since) => is_over(since, WRITTEN_HOLD_MAX),
                State::Unsure(since) => is_over(since, UNSURE_HOLD_MAX),
            });
        expired.map(|(uid, _)| uid.clone()).collect()
    }
}
