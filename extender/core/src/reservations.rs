//! Our own binds that the pod watch has not confirmed yet: what we would else give away twice.
//!
//! ```text
//! choose ─► Sent ─┬─ 201 ──────────► Written ─┐
//!                 ├─ refused ──► (gone)       ├─ watch shows the pod bound or deleted ─► (gone)
//!                 └─ no answer ─► Unsure ─────┘
//!                                  │ a read finds no such pod, or one that is not bound
//!                                  ▼ although nothing that was sent can still bind it ─► (gone)
//! ```
//!
//! Time alone gives nothing back: a watch that seems live may be minutes behind. So what stays
//! unconfirmed for some seconds is asked about (`index/confirm.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use berth_placement::Inexact;
use berth_topology::ids::PodUid;
use berth_topology::link::LinkClass;

use crate::pod::Holder;

/// GPUs of one node that an unconfirmed bind holds.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    pub node: String,
    pub holder: Arc<Holder>,
    /// The annotation that is sent: the same one when the bind is repeated.
    pub annotation: Option<Arc<str>>,
    pub state: State,
    pub placed: Placed,
    /// When its pod was last asked for.
    pub asked: Option<Instant>,
    /// It was said that its pod cannot be as it is.
    pub is_warned: bool,
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
    /// Under way. An earlier POST of the same, if there was one, ended then without an answer.
    Sent(Option<Instant>),
    /// The API server has said yes.
    Written(Instant),
    /// Nobody knows whether it was done. It was sent no later than that.
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

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Reservation> {
        self.by_pod.values_mut()
    }
}
