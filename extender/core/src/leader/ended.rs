//! What the replica that gave the lease back says on it: every binding of that term is over.
//!
//! ```text
//! the one before   bindings begun ──▶ lease given back ──▶ last binding over ──▶ "term 7 has ended"
//! the next one                             ▲ is seen                                  ▲ is seen
//!                                          └──── waits at most HANDOVER ─────────────▶│ lists pods, serves
//! ```
//!
//! Why it may be believed: who has seen its term given back never binds in it again, because versions
//! of the Lease are only followed forward; so once none of its bindings is under way, none of that term
//! ever will be. It says it only if nobody's before it could be under way either, so it speaks for all
//! terms up to its own. The Lease's uid is a precondition of the write, and the number is compared with
//! the term that the Lease is in: what was said of an older one says nothing.

use std::time::Instant;

use berth_topology::names;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};

use super::{Leader, Seen};

/// One holder's time with one Lease object: from when it took it until it gave it back or lost it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The object's uid.
    pub lease_uid: String,
    /// `leaseTransitions`: each holder that follows another is one more.
    pub number: i32,
}

/// A term of ours that ended.
#[derive(Debug)]
pub(super) struct Ended {
    term: Term,
    /// When nothing could be under way any more of whoever was before.
    others_until: Instant,
}

// === impl Leader ===

impl Leader {
    /// A term of ours that was given back, of which nobody was told yet that its bindings are over. They
    /// are once none of ours is under way: none is begun any more.
    #[must_use]
    pub fn ended_term(&self, now: Instant) -> Option<&Term> {
        let ended = self.ended.as_ref().filter(|one| now >= one.others_until);
        ended.map(|one| &one.term)
    }

    /// Whether somebody waits, or will, for word of a term of ours.
    #[must_use]
    pub fn owes_word(&self) -> bool {
        let holds = self.seen.as_ref().is_some_and(|seen| self.is_ours(seen));
        self.ended.is_some() || holds
    }

    /// Others were told, or need not be.
    pub fn told(&mut self, term: &Term) {
        self.ended.take_if(|one| one.term == *term);
    }

    /// `seen` comes next: is it the end of a term of ours? In the term after the next nobody cares.
    pub(super) fn note_ended(&mut self, seen: &Seen) {
        let before = self.seen.as_ref().filter(|before| self.is_ours(before));
        if let Some(term) = before.and_then(Seen::term) {
            let others_until = self.others_until();
            self.ended = Some(Ended { term, others_until });
        }
        let is_ours = self.is_ours(seen);
        self.ended
            .take_if(|one| is_ours || !one.term.is_just_before(seen));
    }

    /// What the Lease says of the term before the one that it is in, or of the one that was given back.
    pub(super) fn hear_ended(&mut self, lease: &Lease, now: Instant) {
        let Some(seen) = self.seen.as_ref() else {
            return;
        };
        let last = if seen.holder.is_empty() {
            Some(seen.transitions)
        } else if self.is_ours(seen) {
            seen.transitions.checked_sub(1)
        } else {
            None
        };
        if last.is_some() && said(lease) == last {
            // What our own former process began since is another matter.
            let over = |until: Option<Instant>| until.map(|until| until.min(now));
            self.former_until = over(self.former_until);
            self.holder_until = over(self.holder_until);
        }
    }
}

// === impl Term ===

impl Term {
    /// A merge patch of the Lease that says it; refused where that is another object by now.
    #[must_use]
    pub fn patch(&self) -> Value {
        let annotations = json!({names::ENDED_TERM: self.number.to_string()});
        json!({"metadata": {"uid": self.lease_uid, "annotations": annotations}})
    }

    /// Whether the Lease was given back at this term's end, or is in the next one.
    fn is_just_before(&self, seen: &Seen) -> bool {
        let number = match seen.holder.as_str() {
            "" => Some(self.number),
            _ => self.number.checked_add(1),
        };
        seen.uid.as_deref() == Some(self.lease_uid.as_str()) && number == Some(seen.transitions)
    }
}

// === impl Seen ===

impl Seen {
    fn term(&self) -> Option<Term> {
        let lease_uid = self.uid.clone()?;
        let number = self.transitions;
        Some(Term { lease_uid, number })
    }
}

fn said(lease: &Lease) -> Option<i32> {
    let annotations = lease.metadata.annotations.as_ref()?;
    annotations.get(names::ENDED_TERM)?.parse().ok()
}
