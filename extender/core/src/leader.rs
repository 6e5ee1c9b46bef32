//! Whether this replica may answer: while the scheduler beside it leads.
//!
//! There is no election of our own. The scheduler's Lease says who leads; its holder's identity is
//! `HOST_RANDOM`, and we share the host name. Renewals are timed by our own clock.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// kube-scheduler's `leaderElection.renewDeadline`: a leader that could not renew for so long ends.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// What is known of the scheduler's Lease.
#[derive(Debug)]
pub struct Leader {
    /// `None`: always leads.
    identity: Option<String>,
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    holder: String,
    renewed: Option<MicroTime>,
    at: Instant,
}

// === impl Leader ===

impl Leader {
    /// A replica that leads while `identity` holds the Lease; always without one.
    #[must_use]
    pub fn new(identity: Option<String>) -> Self {
        Self {
            identity,
            seen: None,
        }
    }

    /// The Lease was listed or changed. The same renewal seen again, as after a relist, is none.
    pub fn apply(&mut self, lease: &Lease, now: Instant) {
        let LeaseSpec {
            holder_identity,
            renew_time,
            ..
        } = lease.spec.clone().unwrap_or_default();
        let holder = holder_identity.unwrap_or_default();
        let is_same = |seen: &Seen| seen.holder == holder && seen.renewed == renew_time;
        if !self.seen.as_ref().is_some_and(is_same) {
            self.seen = Some(Seen {
                holder,
                renewed: renew_time,
                at: now,
            });
        }
    }

    /// The Lease was deleted.
    pub fn delete(&mut self) {
        self.seen = None;
    }

    /// Whether this replica may answer now.
    #[must_use]
    pub fn leads(&self, now: Instant) -> bool {
        let Some(identity) = &self.identity else {
            return true;
        };
        let Some(seen) = &self.seen else { return false };
        let host = seen
            .holder
            .split_once('_')
            .map_or(seen.holder.as_str(), |(host, _)| host);
        host == identity && now.saturating_duration_since(seen.at) <= RENEW_DEADLINE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn lease(holder: &str, second: i64) -> Lease {
        let renew_time = Some(MicroTime(Timestamp::from_second(second).unwrap()));
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            renew_time,
            ..LeaseSpec::default()
        };
        Lease {
            spec: Some(spec),
            ..Lease::default()
        }
    }

    #[test]
    fn leads_while_the_holder_before_the_underscore_is_this_host() {
        let now = Instant::now();
        let mut leader = Leader::new(Some("host-a".to_owned()));
        assert!(!leader.leads(now));
        leader.apply(&lease("host-a_0f3c", 1), now);
        assert!(leader.leads(now));
        leader.apply(&lease("host-b_0f3c", 2), now);
        assert!(!leader.leads(now));
        leader.delete();
        assert!(!leader.leads(now));
    }

    #[test]
    fn a_renewal_not_seen_for_the_deadline_ends_it_and_a_relist_does_not_extend_it() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut leader = Leader::new(Some("a".to_owned()));
        leader.apply(&lease("a_1", 1), at(0));
        leader.apply(&lease("a_1", 1), at(9));
        assert!(leader.leads(at(10)));
        assert!(!leader.leads(at(11)));
        leader.apply(&lease("a_1", -5), at(12));
        assert!(
            leader.leads(at(22)),
            "renewals are compared, never read as times"
        );
    }

    #[test]
    fn without_a_lease_it_always_leads() {
        assert!(Leader::new(None).leads(Instant::now()));
    }
}
