//! The nodes whose agents are silent, kept from one snapshot to the next.
//!
//! Walking 5,000 nodes costs more than answering for 500. Between two walks the set can change by an
//! event, which says so ([`Silent::forget`]), or by time, and when that is at the earliest is known.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use ahash::RandomState;

use crate::freshness::Freshness;
use crate::node::NodeState;

/// What the last walk found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Silent {
    nodes: HashSet<Arc<str>, RandomState>,
    /// Absent where the next snapshot must walk.
    holds: Option<Holds>,
}

#[derive(Clone, Copy, Debug)]
enum Holds {
    Until(Instant),
    /// Until an event says otherwise.
    Always,
}

// === impl Silent ===

impl Silent {
    /// A lease was seen that was not before, or a Node came, went or changed its readiness.
    pub(crate) fn forget(&mut self) {
        self.holds = None;
    }

    /// The set at `now`.
    pub(crate) fn now<'a>(
        &mut self,
        freshness: &Freshness,
        nodes: impl Iterator<Item = &'a Arc<NodeState>>,
        now: Instant,
    ) -> &HashSet<Arc<str>, RandomState> {
        let holds = match self.holds {
            None => false,
            Some(Holds::Always) => true,
            Some(Holds::Until(end)) => now <= end,
        };
        if !holds {
            let stale = nodes.filter(|node| freshness.is_stale(&node.name, node.is_ready, now));
            self.nodes = stale.map(|node| node.name.clone()).collect();
            let end = freshness.unchanged_until(now);
            self.holds = Some(end.map_or(Holds::Always, Holds::Until));
        }
        &self.nodes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use crate::fixtures::{RESOURCE, node, renewed};
    use crate::index::{Index, Kind};

    use super::*;

    /// What can happen to silence.
    #[derive(Clone, Debug)]
    enum Event {
        Ready(usize, bool),
        NodeGone(usize),
        Renewed(usize, i64),
        LeaseGone(usize),
        LeasesListed(Vec<usize>),
        LeasesLost,
        Time(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let who = || 0..3_usize;
        prop_oneof![
            (who(), any::<bool>()).prop_map(|(who, is)| Event::Ready(who, is)),
            who().prop_map(Event::NodeGone),
            (who(), 0..4_i64).prop_map(|(who, second)| Event::Renewed(who, second)),
            who().prop_map(Event::LeaseGone),
            proptest::collection::vec(who(), 0..3).prop_map(Event::LeasesListed),
            Just(Event::LeasesLost),
            (1..70_u64).prop_map(Event::Time),
        ]
    }

    fn play(index: &mut Index, event: &Event, now: &mut Instant) {
        let name = |who: &usize| format!("n{who}");
        match event {
            Event::Ready(who, is_ready) => {
                let mut node = node(&name(who));
                if !is_ready {
                    node.status = None;
                }
                index.apply_node(&node);
            }
            Event::NodeGone(who) => index.delete_node(&name(who)),
            Event::Renewed(who, second) => index.apply_lease(&renewed(&name(who), *second), *now),
            Event::LeaseGone(who) => index.delete_lease(&name(who)),
            Event::LeasesListed(who) => {
                let leases: Vec<_> = who.iter().map(|who| renewed(&name(who), 1)).collect();
                index.reset_leases(&leases, *now);
            }
            Event::LeasesLost => index.lost(Kind::Leases, *now),
            Event::Time(seconds) => *now += Duration::from_secs(*seconds),
        }
    }

    proptest! {
        #[test]
        fn an_index_that_is_asked_after_every_event_says_what_one_says_that_is_asked_once(
            events in proptest::collection::vec(event(), 1..24),
        ) {
            let start = Instant::now();
            let new = || Index::new(RESOURCE, Duration::from_secs(60), start);
            let mut asked = new();
            let mut now = start;
            for length in 1..=events.len() {
                play(&mut asked, &events[length - 1], &mut now);
                let mut fresh = new();
                let mut then = start;
                for event in &events[..length] {
                    play(&mut fresh, event, &mut then);
                }
                prop_assert_eq!(asked.snapshot(now).stale, fresh.snapshot(now).stale);
            }
        }
    }
}
