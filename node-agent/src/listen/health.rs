//! Whether the agent does its work, by what was counted. Pure.

use std::time::Duration;

use berth_topology::lease::STALE_AFTER_SECONDS;
use tokio::time::Instant;

use crate::tally::Counts;

/// A probe takes a second or two; one that takes longer hangs in a driver.
pub const PROBE_WITHIN: Duration = Duration::from_secs(60);
const STALE_AFTER: Duration = Duration::from_secs(STALE_AFTER_SECONDS as u64);

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwell {
    /// A probe does not come back.
    #[error("a probe of the machine has been running for {seconds} s: it hangs in a driver")]
    ProbeHangs {
        /// For so long.
        seconds: u64,
    },
    /// No probe was begun when it was due.
    #[error("the last probe of the machine ended {seconds} s ago: nobody begins another")]
    NoProbe {
        /// So long ago.
        seconds: u64,
    },
    /// Nothing is in the cluster yet.
    #[error("nothing is published yet")]
    Unpublished,
    /// The Lease is old.
    #[error("the Lease was renewed {seconds} s ago: the extender refuses this node as stale")]
    Stale {
        /// So long ago.
        seconds: u64,
    },
}

/// Whether probes come and go.
///
/// # Errors
/// When one is stuck.
pub fn probes(
    counts: &Counts,
    started_at: Instant,
    now: Instant,
    poll_every: Duration,
) -> Result<(), Unwell> {
    let age = |at: Instant| now.saturating_duration_since(at);
    if let Some(since) = counts.probing_since {
        let seconds = age(since).as_secs();
        return match age(since) > PROBE_WITHIN {
            true => Err(Unwell::ProbeHangs { seconds }),
            false => Ok(()),
        };
    }
    let idle = age(counts.probed_at.unwrap_or(started_at));
    match idle > poll_every + PROBE_WITHIN {
        true => Err(Unwell::NoProbe {
            seconds: idle.as_secs(),
        }),
        false => Ok(()),
    }
}

/// Whether the cluster has what was seen, and knows that the agent lives.
///
/// # Errors
/// When it does not.
pub fn publishes(counts: &Counts, now: Instant) -> Result<(), Unwell> {
    let renewed_at = counts.renewed_at.ok_or(Unwell::Unpublished)?;
    let age = now.saturating_duration_since(renewed_at);
    match age > STALE_AFTER {
        true => Err(Unwell::Stale {
            seconds: age.as_secs(),
        }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(10);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_probe_that_does_not_come_back_is_told_with_its_age() {
        let now = Instant::now();
        let mut counts = Counts {
            probing_since: Some(now),
            ..Counts::default()
        };
        let check = |counts: &Counts, after| probes(counts, now, now + seconds(after), POLL);
        assert_eq!(check(&counts, 60), Ok(()));
        assert_eq!(check(&counts, 61), Err(Unwell::ProbeHangs { seconds: 61 }));
        counts.probing_since = None;
        counts.probed_at = Some(now);
        assert_eq!(check(&counts, 70), Ok(()));
        let nobody = check(&counts, 71);
        assert_eq!(nobody, Err(Unwell::NoProbe { seconds: 71 }));
        assert!(nobody.is_err_and(|why| why.to_string().contains("71 s")));
    }

    #[test]
    fn an_agent_that_never_probed_is_unwell_after_a_while_only() {
        let now = Instant::now();
        let check = |after, poll| probes(&Counts::default(), now, now + seconds(after), poll);
        assert_eq!(check(5, POLL), Ok(()));
        assert_eq!(check(600, POLL), Err(Unwell::NoProbe { seconds: 600 }));
        assert_eq!(check(600, seconds(3600)), Ok(()));
    }

    #[test]
    fn who_has_not_published_or_not_for_long_is_not_ready() {
        let now = Instant::now();
        let mut counts = Counts::default();
        assert_eq!(publishes(&counts, now), Err(Unwell::Unpublished));
        counts.renewed_at = Some(now);
        assert_eq!(publishes(&counts, now + seconds(60)), Ok(()));
        let stale = publishes(&counts, now + seconds(61));
        assert_eq!(stale, Err(Unwell::Stale { seconds: 61 }));
    }
}
