//! Which nodes' agents are alive, timed by this reader's own clock.
//!
//! Two renewals are only ever compared for equality; clocks of two machines never are. Time counts
//! only while the lease watch is live, and starts again from zero after each relist: what could not
//! be seen is not held against an agent. An agent that was only listed, never seen to renew, is
//! trusted for one such period if its Node is Ready.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use berth_topology::lease::Renewal;

/// Renewals seen, by node.
#[derive(Clone, Debug)]
pub(crate) struct Freshness {
    stale_after: Duration,
    watch: Watch,
    nodes: HashMap<String, Seen>,
}

/// Whether renewals can be seen at all.
#[derive(Clone, Copy, Debug)]
enum Watch {
    Live,
    /// Time stands still at this moment.
    DownSince(Instant),
}

#[derive(Clone, Debug)]
struct Seen {
    renewal: Renewal,
    at: Instant,
    /// Whether it was listed only, so that its age is unknown.
    is_listed: bool,
}

// === impl Freshness ===

impl Freshness {
    pub(crate) fn new(stale_after: Duration, now: Instant) -> Self {
        Self {
            stale_after,
            watch: Watch::DownSince(now),
            nodes: HashMap::new(),
        }
    }

    /// A lease was seen by the watch.
    pub(crate) fn seen(&mut self, node: &str, renewal: Renewal, now: Instant) {
        match self.nodes.get_mut(node) {
            Some(seen) if seen.renewal == renewal => {}
            _ => {
                self.nodes.insert(
                    node.to_owned(),
                    Seen {
                        renewal,
                        at: now,
                        is_listed: false,
                    },
                );
            }
        }
    }

    /// A lease was deleted.
    pub(crate) fn gone(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// The watch has listed all leases anew, and is live.
    pub(crate) fn reset(&mut self, leases: Vec<(String, Renewal)>, now: Instant) {
        let seen = |(node, renewal)| {
            (
                node,
                Seen {
                    renewal,
                    at: now,
                    is_listed: true,
                },
            )
        };
        self.nodes = leases.into_iter().map(seen).collect();
        self.watch = Watch::Live;
    }

    /// The watch broke.
    pub(crate) fn lost(&mut self, now: Instant) {
        if let Watch::Live = self.watch {
            self.watch = Watch::DownSince(now);
        }
    }

    /// Until when nobody who is not old at `now` becomes so, if nothing else is seen; absent where that
    /// is for ever.
    pub(crate) fn unchanged_until(&self, now: Instant) -> Option<Instant> {
        if let Watch::DownSince(_) = self.watch {
            return None;
        }
        let ends = self.nodes.values().map(|seen| seen.at + self.stale_after);
        ends.filter(|end| *end >= now).min()
    }

    /// Whether nothing the node's agent says is to be believed any more.
    pub(crate) fn is_stale(&self, node: &str, is_ready: bool, now: Instant) -> bool {
        let Some(seen) = self.nodes.get(node) else {
            return true;
        };
        let until = match self.watch {
            Watch::Live => now,
            Watch::DownSince(down) => down,
        };
        let is_old = until.saturating_duration_since(seen.at) > self.stale_after;
        is_old || (seen.is_listed && !is_ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_topology::lease;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use k8s_openapi::jiff::Timestamp;

    fn renewal(second: i64) -> Renewal {
        let lease = lease::encode(
            "n",
            None,
            MicroTime(Timestamp::from_second(second).unwrap()),
        );
        lease::decode(&lease).unwrap().1
    }

    /// A reader that has just listed node `n`, at second 0 of its clock.
    fn listed() -> (Freshness, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let mut freshness = Freshness::new(Duration::from_secs(60), start);
        freshness.reset(vec![("n".to_owned(), renewal(1))], start);
        (freshness, move |second| start + Duration::from_secs(second))
    }

    #[test]
    fn a_fresh_reader_trusts_a_listed_lease_for_one_period_if_the_node_is_ready() {
        let (freshness, at) = listed();
        assert!(!freshness.is_stale("n", true, at(60)));
        assert!(freshness.is_stale("n", true, at(61)));
        assert!(freshness.is_stale("n", false, at(0)));
    }

    #[test]
    fn renewals_keep_a_node_fresh_whatever_time_they_carry() {
        let (mut freshness, at) = listed();
        freshness.seen("n", renewal(-1_000_000), at(50));
        assert!(
            !freshness.is_stale("n", false, at(100)),
            "seen renewing: Ready is not asked"
        );
        assert!(freshness.is_stale("n", true, at(111)));
    }

    #[test]
    fn the_same_renewal_seen_again_is_none() {
        let (mut freshness, at) = listed();
        freshness.seen("n", renewal(1), at(50));
        assert!(freshness.is_stale("n", true, at(61)));
    }

    #[test]
    fn time_stands_still_while_the_watch_is_down_and_starts_anew_after_the_relist() {
        let (mut freshness, at) = listed();
        freshness.lost(at(10));
        freshness.lost(at(500));
        assert!(!freshness.is_stale("n", true, at(1_000)));
        freshness.reset(vec![("n".to_owned(), renewal(1))], at(1_000));
        assert!(!freshness.is_stale("n", true, at(1_060)));
        assert!(freshness.is_stale("n", true, at(1_061)));
    }

    #[test]
    fn a_node_without_a_lease_is_stale() {
        let (mut freshness, at) = listed();
        assert!(freshness.is_stale("other", true, at(0)));
        freshness.gone("n");
        assert!(freshness.is_stale("n", true, at(0)));
    }
}
