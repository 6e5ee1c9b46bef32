//! Whether this replica may answer, and until when a binding of its may take effect: while the
//! scheduler beside it leads.
//!
//! There is no election of our own. The scheduler's Lease says who leads; its holder's identity is
//! `HOST_RANDOM`, and we share the host name. What the Lease says of time is only ever compared for
//! equality, or subtracted where one machine wrote both; clocks of two machines never are.
//!
//! ```text
//! the holder's machine   R written ───────────────────── leaseDuration ──────────────────▶ may be taken
//! ours, if we hold it     ▲ a read began, and R was not there yet
//!                         └──────── we bind ─────────▶│◀─ margin ─▶
//! ours, if another does        ▲ R is seen
//!                              └─── its bindings may still take effect ──▶│ then we list pods, and serve
//! ```
//!
//! *When was a renewal written?* Not before a quorum read began that did not find it: so we time our
//! own right to bind from the last such read. Not after we saw it: so we time another's from then.
//! The two bounds leave no moment at which both replicas bind, however late either's watch is.
//!
//! A lease that is given back says only that nothing is begun any more. When what was begun is over,
//! only the replica that began it knows, and it says so on the Lease (`ended`); until then, or where
//! it does not say it, the longest that it may take is waited for.
//!
//! A process that starts is another's successor, too, with a lease or without: the one before it may
//! have been killed with a binding on its way. So it waits as after a change of leader.

use std::fmt;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::fence::Fence;

mod ended;

pub use ended::Term;

/// Of a lease's duration, what is left unused at its end: `1/MARGIN`. It pays for clocks that run at
/// different rates and for an API server that commits a write a moment after its request's deadline.
const MARGIN: u32 = 5;
/// `leaseDuration` where the Lease does not say; kube-scheduler's default.
const DURATION: Duration = Duration::from_secs(15);
/// Longest read of a pod before its binding is sent.
pub const READ_MAX: Duration = Duration::from_millis(700);
/// Longest that one binding's POST may take effect after it was sent; the API server is told.
pub const POST_MAX: Duration = Duration::from_secs(2);
/// How long after a request's deadline the API server may still commit what it was about to.
pub const COMMIT_MAX: Duration = Duration::from_millis(300);
/// Less is not worth a POST.
const POST_MIN: Duration = Duration::from_millis(200);
/// A scheduler that gives its lease back has stopped, so nothing is begun after that. What its
/// extender had begun reads a pod and sends one POST; the rest is for a commit at the last moment. It is
/// for the replica that does not say when all that is over.
pub const HANDOVER: Duration = READ_MAX.saturating_add(POST_MAX).saturating_add(COMMIT_MAX);

/// What is known of the scheduler's Lease.
#[derive(Debug)]
pub struct Leader {
    /// `None`: always leads.
    identity: Option<String>,
    /// Asked to end: starts nothing any more.
    is_retired: bool,
    seen: Option<Seen>,
    tenure: Tenure,
    /// The newest version seen, of an object that may be gone.
    version: u64,
    /// When the last read began that has ended. A renewal that we know not of was written later.
    read_began: Option<Instant>,
    /// Until when bindings of the replica that holds it may take effect, if it is another.
    holder_until: Option<Instant>,
    /// Until when those of other replicas may that held it before.
    former_until: Option<Instant>,
    /// Until when those of our own former process may.
    own_until: Instant,
    /// A term of ours that ended, of which nobody was told that its bindings are over.
    ended: Option<ended::Ended>,
}

/// A time in which nobody else came to hold the lease, as far as was seen. A binding begins and is sent
/// in the same one: what was chosen before another held it, and may have bound, is out of date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenure(u64);

/// One version of the Lease.
#[derive(Debug)]
struct Seen {
    uid: Option<String>,
    holder: String,
    acquired: Option<MicroTime>,
    renewed: Option<MicroTime>,
    transitions: i32,
    duration: Duration,
    /// No earlier was it written, by our clock; unknown for the first that we see.
    written_after: Option<Instant>,
}

/// Whether this replica answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Serves,
    /// It does not.
    No(Why),
}

/// Why a replica does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was told to end.
    Retired,
    /// Another replica's scheduler holds the lease, or nobody.
    NotHolder,
    /// Its scheduler holds the lease, but no renewal was seen that is young enough.
    Lapsed,
    /// What the replica that led before, or this one's former process, has begun may still take effect.
    OthersBind,
    /// Pods have not been listed since.
    Unlisted,
}

// === impl Leader ===

impl Leader {
    /// A replica that leads while `identity` holds the Lease; always without one. Its process began at
    /// `started`, after the one before it had ended.
    #[must_use]
    pub fn new(identity: Option<String>, started: Instant) -> Self {
        Self {
            identity,
            is_retired: false,
            seen: None,
            tenure: Tenure::default(),
            version: 0,
            read_began: None,
            holder_until: None,
            former_until: None,
            own_until: started + HANDOVER,
            ended: None,
        }
    }

    /// The watch shows the next version. A renewal that was seen before is none.
    pub fn apply(&mut self, lease: &Lease, now: Instant) {
        self.observe(lease, true, now);
    }

    /// A quorum read that began at `began` found this; `None`: there is no such Lease. Versions
    /// before it may have been missed.
    pub fn read(&mut self, found: Option<&Lease>, began: Instant, now: Instant) {
        match found {
            Some(lease) => self.observe(lease, false, now),
            None => {
                // Its holder may have renewed it since, and may not know that it is gone.
                let missed = self.seen.as_ref().map(|seen| now + usable(seen.duration));
                self.delete();
                self.former_until = self.former_until.max(missed);
            }
        }
        self.read_began = self.read_began.max(Some(began));
    }

    /// The Lease was deleted. Who held it may not know yet.
    pub fn delete(&mut self) {
        if self.seen.take().is_some() {
            self.ended = None;
            self.version += 1;
            self.tenure.0 += 1;
            self.end_term();
        }
    }

    /// Told to end: bindings under way are finished, none is started.
    pub fn retire(&mut self) {
        self.is_retired = true;
    }

    /// Whether the scheduler beside us leads, and provably still does.
    #[must_use]
    pub fn leads(&self, now: Instant) -> bool {
        self.right(now).is_ok()
    }

    /// The tenure that it is in.
    #[must_use]
    pub fn tenure(&self) -> Tenure {
        self.tenure
    }

    /// How long a binding that was begun in `tenure` and is sent now may take to have its effect;
    /// `None`: it must not be sent.
    #[must_use]
    pub fn bind_within(&self, tenure: Tenure, now: Instant) -> Option<Duration> {
        if tenure != self.tenure {
            return None;
        }
        let left = match self.right(now).ok()? {
            Some(until) => until.saturating_duration_since(now).min(POST_MAX),
            None => POST_MAX,
        };
        (left >= POST_MIN).then_some(left)
    }

    /// Whether this replica answers: it leads, nobody else may still bind, and its view of pods, which
    /// `fence` knows of, includes every binding that was made.
    #[must_use]
    pub fn standing(&self, fence: &Fence, now: Instant) -> Standing {
        match self.right(now) {
            Err(why) => Standing::No(why),
            Ok(_) if now < self.others_until() => Standing::No(Why::OthersBind),
            Ok(_) if !fence.includes(Some(self.others_until())) => Standing::No(Why::Unlisted),
            Ok(_) => Standing::Serves,
        }
    }

    /// Whether pods are to be listed anew: others have stopped, and the last list began before that.
    /// True of a replica that will lead soon, too, so that it serves as soon as it does.
    #[must_use]
    pub fn wants_list(&self, fence: &Fence, now: Instant) -> bool {
        let until = self.others_until();
        now >= until && !fence.is_listing_since(Some(until))
    }

    /// Until when we may bind; `Ok(None)`: for ever.
    fn right(&self, now: Instant) -> Result<Option<Instant>, Why> {
        if self.is_retired {
            return Err(Why::Retired);
        }
        if self.identity.is_none() {
            return Ok(None);
        }
        let seen = self.seen.as_ref().ok_or(Why::NotHolder)?;
        if !self.is_ours(seen) {
            return Err(Why::NotHolder);
        }
        let until = seen
            .written_after
            .map(|after| after + usable(seen.duration));
        match until {
            Some(until) if now < until => Ok(Some(until)),
            _ => Err(Why::Lapsed),
        }
    }

    fn observe(&mut self, lease: &Lease, is_next: bool, now: Instant) {
        let version = version(lease);
        if version.is_some_and(|version| version < self.version) {
            return;
        }
        self.version = version.unwrap_or(self.version);
        let mut seen = Seen::read(lease, self.read_began);
        if seen.holder.is_empty() {
            // Who gives it back writes 1 s, for others to take it at once: that is no holder's.
            seen.duration = self.seen.as_ref().map_or(DURATION, |one| one.duration);
        }
        let is_same = |before: &Seen| before.renewal() == seen.renewal();
        if !self.seen.as_ref().is_some_and(is_same) {
            let before = self.seen.as_ref();
            if !before.is_some_and(|before| before.is_term_of(&seen)) {
                self.tenure.0 += 1;
            }
            if self.identity.is_some() {
                self.note_ended(&seen);
                self.note_others(&seen, held_for(lease), is_next, now);
            }
            self.seen = Some(seen);
        }
        self.hear_ended(lease, now);
    }

    /// Until when other replicas' bindings may take effect, now that `seen` is known.
    fn note_others(&mut self, seen: &Seen, held_for: Duration, is_next: bool, now: Instant) {
        // A watch shows every version, a read may have missed some: renewals, holders, deletions.
        let before = self.seen.as_ref();
        let is_same_term = before.is_some_and(|before| {
            let is_shown = is_next && (before.holder == seen.holder || seen.holder.is_empty());
            before.transitions == seen.transitions && (is_shown || before.is_term_of(seen))
        });
        let longest = before.map_or(DURATION, |before| before.duration.max(seen.duration));
        if seen.holder.is_empty() {
            let stops = if is_next { HANDOVER } else { usable(longest) };
            if !is_same_term {
                self.end_term();
                self.holder_until = Some(now + stops);
            }
            // Renewals that were late may have moved its end; giving back is one for sure.
            self.holder_until = self.holder_until.map(|_| now + stops);
            return;
        }
        // Transitions count from the last deletion; each holder that follows another is one more.
        let is_next_term = is_next
            && before.map_or(seen.transitions == 0, |before| {
                before.transitions.checked_add(1) == Some(seen.transitions)
            });
        if !is_same_term {
            self.end_term();
        }
        if !self.is_ours(seen) {
            self.holder_until = Some(now + usable(seen.duration));
            return;
        }
        self.end_term();
        if !is_same_term && !is_next_term {
            // Somebody may have held it whom we have not seen, and may not know that it was deleted.
            let until = now + usable(longest).saturating_sub(held_for);
            self.former_until = self.former_until.max(Some(until));
        }
    }

    /// Whoever held it holds it no more.
    fn end_term(&mut self) {
        self.former_until = self.former_until.max(self.holder_until.take());
    }

    fn others_until(&self) -> Instant {
        let others = self.former_until.max(self.holder_until);
        others.map_or(self.own_until, |until| until.max(self.own_until))
    }

    fn is_ours(&self, seen: &Seen) -> bool {
        Some(seen.host()) == self.identity.as_deref()
    }
}

// === impl Seen ===

impl Seen {
    fn read(lease: &Lease, written_after: Option<Instant>) -> Self {
        let LeaseSpec {
            holder_identity,
            acquire_time,
            renew_time,
            lease_transitions,
            lease_duration_seconds,
            ..
        } = lease.spec.clone().unwrap_or_default();
        let seconds = lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            uid: lease.metadata.uid.clone(),
            holder: holder_identity.unwrap_or_default(),
            acquired: acquire_time,
            renewed: renew_time,
            transitions: lease_transitions.unwrap_or_default(),
            duration: seconds.map_or(DURATION, Duration::from_secs),
            written_after,
        }
    }

    /// What tells one renewal from another.
    fn renewal(&self) -> (&str, Option<&MicroTime>, i32) {
        (&self.holder, self.renewed.as_ref(), self.transitions)
    }

    fn host(&self) -> &str {
        let host = self.holder.split_once('_').map(|(host, _)| host);
        host.unwrap_or(&self.holder)
    }

    /// Whether that is a renewal by the same holder, without a break.
    fn is_term_of(&self, later: &Self) -> bool {
        self.holder == later.holder && self.acquired == later.acquired
    }
}

/// From a renewal on, how long its holder binds.
fn usable(duration: Duration) -> Duration {
    duration - duration / MARGIN
}

// === impl Why ===

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retired => "this replica is shutting down",
            Self::NotHolder => "this replica's scheduler does not lead",
            Self::Lapsed => "no recent renewal of the lease of this replica's scheduler was seen",
            Self::OthersBind => {
                "bindings of whoever answered before may still be under way; trying again later"
            }
            Self::Unlisted => {
                "pods are being listed, to see what whoever answered before has bound; trying again later"
            }
        })
    }
}

/// Of two versions of one kind of object, the greater is the later one (KEP-5504).
fn version(lease: &Lease) -> Option<u64> {
    lease.metadata.resource_version.as_deref()?.parse().ok()
}

/// How long the holder has held it at least: both times are its own machine's.
fn held_for(lease: &Lease) -> Duration {
    let spec = lease.spec.as_ref();
    let times = spec.and_then(|spec| spec.renew_time.as_ref().zip(spec.acquire_time.as_ref()));
    let span = times.map(|(renewed, acquired)| renewed.0.duration_since(acquired.0));
    span.and_then(|span| Duration::try_from(span).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
