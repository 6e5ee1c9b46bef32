//! Who of the schedulers leads: client-go's election on one Lease, with clocks that nobody compares.

use crate::api::{Api, LeaderView};

/// client-go's `leaseDuration` of kube-scheduler.
const LEASE_MS: u64 = 15_000;
/// A leader that could not renew for so long ends.
const RENEW_DEADLINE_MS: u64 = 10_000;

/// One scheduler process in the election.
#[derive(Clone, Copy, Debug)]
pub struct Elector {
    pair: usize,
    life: usize,
    /// What its clock is ahead of the world's.
    skew_ms: u64,
    /// When it last renewed, while it leads.
    renewed_ms: Option<u64>,
    /// The renewal that it saw last, and when it first did. What an extender says is none.
    observed: Option<(u64, u64)>,
}

/// What came of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Try {
    /// It leads now and did not before.
    Taken,
    /// As before.
    Same,
    /// It led, and could not renew for too long: the process ends.
    Lost,
}

// === impl Elector ===

impl Elector {
    /// A process that does not lead.
    #[must_use]
    pub fn new(pair: usize, life: usize) -> Self {
        let skew_ms = if pair == 0 { 0 } else { 86_400_000 };
        Self {
            pair,
            life,
            skew_ms,
            renewed_ms: None,
            observed: None,
        }
    }

    /// Whether it leads, as it believes.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.renewed_ms.is_some()
    }

    /// Tries to take or renew the Lease; `reaches` says whether the API server answers.
    pub fn step(&mut self, api: &mut Api, reaches: bool, now_ms: u64) -> Try {
        if !reaches {
            let is_over = |renewed_ms: u64| now_ms >= renewed_ms + RENEW_DEADLINE_MS;
            return if self.renewed_ms.is_some_and(is_over) {
                Try::Lost
            } else {
                Try::Same
            };
        }
        let me = (self.pair, self.life);
        match api.leader {
            Some(lease) if lease.holder == Some(me) => {
                self.write(api, lease, now_ms);
                Try::Same
            }
            // It was taken from us while we could not see it.
            Some(_) if self.leads() => Try::Lost,
            Some(lease) if lease.holder.is_some() && !self.has_expired(lease, now_ms) => Try::Same,
            lease => {
                let before = lease.unwrap_or(LeaderView {
                    holder: None,
                    version: 0,
                    transitions: -1,
                    acquired_ms: 0,
                    renewed_ms: 0,
                    ended: None,
                });
                let taken = LeaderView {
                    holder: Some(me),
                    transitions: before.transitions + 1,
                    acquired_ms: now_ms + self.skew_ms,
                    ..before
                };
                self.write(api, taken, now_ms);
                Try::Taken
            }
        }
    }

    /// It ends in order, and gives the Lease back.
    pub fn release(&mut self, api: &mut Api, now_ms: u64) {
        if let Some(lease) = api.leader
            && self.renewed_ms.take().is_some()
            && lease.holder == Some((self.pair, self.life))
        {
            let released = LeaderView {
                holder: None,
                version: lease.version + 1,
                acquired_ms: now_ms + self.skew_ms,
                renewed_ms: now_ms + self.skew_ms,
                ..lease
            };
            api.set_leader(released, now_ms);
        }
    }

    fn write(&mut self, api: &mut Api, lease: LeaderView, now_ms: u64) {
        let lease = LeaderView {
            version: lease.version + 1,
            renewed_ms: now_ms + self.skew_ms,
            ..lease
        };
        api.set_leader(lease, now_ms);
        self.renewed_ms = Some(now_ms);
    }

    /// Whether no renewal was seen for the lease's duration, by its own clock.
    fn has_expired(&mut self, lease: LeaderView, now_ms: u64) -> bool {
        match self.observed {
            Some((renewed_ms, since_ms)) if renewed_ms == lease.renewed_ms => {
                now_ms > since_ms + LEASE_MS
            }
            _ => {
                self.observed = Some((lease.renewed_ms, now_ms));
                false
            }
        }
    }
}
