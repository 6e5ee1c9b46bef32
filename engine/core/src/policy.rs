//! Who goes first among those that wait, and who gives way among those that run.
//!
//! Under every policy each request has its turn after finitely many others: waiting makes a
//! request more urgent, and what was served makes a tenant less so.

use std::time::Duration;

use crate::prefix::TextHash;

/// One step of priority is worth this much waiting.
const PRIORITY_STEP_MS: i64 = 30_000;
/// No priority is worth more.
const HEAD_START_MS_MAX: i64 = 600_000;
/// Wanted time to the first token of a request that says none.
const FIRST_TOKEN_MS_DEFAULT: i64 = 1_000;
/// No request may be less urgent than this.
const FIRST_TOKEN_MS_MAX: i64 = 600_000;

/// `--scheduling-policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In order of arrival.
    #[default]
    Fcfs,
    /// Lowest [`Terms::priority`] first, as vLLM has it; but who has waited 30 seconds longer
    /// counts as one lower, and none counts more than 20.
    Priority,
    /// The earliest deadline of a first token first.
    Deadline,
    /// The tenant that was served least first (Sheng et al. 2024, "Fairness in serving large
    /// language models"), in order of arrival within a tenant.
    Fair,
}

/// What a request asks of the scheduler beside tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Lower is more urgent; heard under [`Policy::Priority`].
    pub priority: i32,
    /// When its first token is wanted, counted from its arrival; heard under
    /// [`Policy::Deadline`]. None is a second.
    pub first_token: Option<Duration>,
    /// Whose turn it takes; heard under [`Policy::Fair`].
    pub tenant: TenantId,
    /// Requests with different salts find nothing of each other in the prefix cache.
    pub cache_salt: Option<String>,
}

/// Whose request it is. Requests that name nobody are one tenant's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u64);

/// A request's place in the order; the least is first. Never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    due_ms: i64,
    /// Position in the order of arrival.
    arrival: u64,
}

// === impl Turn ===

impl Turn {
    /// `arrived` counts from any fixed moment before the first request.
    pub(crate) fn new(policy: Policy, terms: &Terms, arrived: Duration, arrival: u64) -> Self {
        let arrived_ms = whole_ms(arrived);
        let due_ms = match policy {
            Policy::Fcfs | Policy::Fair => 0,
            Policy::Priority => {
                let head_start = i64::from(terms.priority) * PRIORITY_STEP_MS;
                let worth = head_start.clamp(-HEAD_START_MS_MAX, HEAD_START_MS_MAX);
                arrived_ms.saturating_add(worth)
            }
            Policy::Deadline => {
                let wanted = terms.first_token.map_or(FIRST_TOKEN_MS_DEFAULT, whole_ms);
                arrived_ms.saturating_add(wanted.min(FIRST_TOKEN_MS_MAX))
            }
        };
        Self { due_ms, arrival }
    }
}

fn whole_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

// === impl TenantId ===

impl TenantId {
    /// The tenant of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(TextHash::root(Some(name)).short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says whether the first is before the second, which arrived `later_s` seconds later.
    #[track_caller]
    fn check(policy: Policy, first: &Terms, second: &Terms, later_s: u64, expected: bool) {
        let early = Turn::new(policy, first, Duration::from_secs(100), 0);
        let late = Turn::new(policy, second, Duration::from_secs(100 + later_s), 1);
        assert_eq!(early < late, expected, "{policy:?}");
    }

    fn priority(priority: i32) -> Terms {
        Terms {
            priority,
            ..Terms::default()
        }
    }

    fn within(first_token_s: u64) -> Terms {
        Terms {
            first_token: Some(Duration::from_secs(first_token_s)),
            ..Terms::default()
        }
    }

    #[test]
    fn arrival_decides_where_nothing_else_does() {
        for policy in [
            Policy::Fcfs,
            Policy::Priority,
            Policy::Deadline,
            Policy::Fair,
        ] {
            check(policy, &Terms::default(), &Terms::default(), 0, true);
        }
        check(Policy::Fcfs, &priority(5), &priority(0), 1, true);
    }

    #[test]
    fn a_lower_priority_goes_first_until_the_other_has_waited_long_enough() {
        check(Policy::Priority, &priority(1), &priority(0), 29, false);
        check(Policy::Priority, &priority(1), &priority(0), 31, true);
        check(
            Policy::Priority,
            &priority(i32::MAX),
            &priority(i32::MIN),
            0,
            false,
        );
    }

    #[test]
    fn no_priority_keeps_another_request_waiting_for_good() {
        let (least, most) = (priority(i32::MAX), priority(i32::MIN));
        check(Policy::Priority, &least, &most, 1_199, false);
        check(Policy::Priority, &least, &most, 1_201, true);
        check(Policy::Priority, &priority(0), &most, 601, true);
    }

    #[test]
    fn the_earliest_deadline_goes_first() {
        check(Policy::Deadline, &within(9), &Terms::default(), 7, false);
        check(Policy::Deadline, &within(9), &Terms::default(), 9, true);
        check(Policy::Deadline, &within(u64::MAX), &within(0), 601, true);
    }
}
