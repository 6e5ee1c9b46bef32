//! One binding after the other onto each node.
//!
//! A kubelet whose topology manager aligns devices decides by what it holds when a pod reaches it. The pods'
//! GPUs were chosen one after the other, so they reach it in that order. One that came before its turn would be
//! given GPUs that were promised to another, or be rejected.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::timeout;

use crate::lock;

/// A binding that hangs holds up the next one for so long: the order is then lost, which may cost a pod its
/// promise. Waiting longer would cost it the answer to kube-scheduler.
pub(super) const TURN_MAX: Duration = Duration::from_secs(1);
/// Nodes that nothing is bound to are forgotten when there are more.
const IDLE_MAX: usize = 256;

/// Whose turn it is, by node.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<String, Weak<AsyncMutex<()>>>>);

/// Others wait while it lives.
#[derive(Debug)]
pub(super) struct Turn {
    _held: Option<OwnedMutexGuard<()>>,
}

// === impl Turns ===

impl Turns {
    /// Waits until no other binding onto that node is under way, but for [`TURN_MAX`] at most.
    pub(super) async fn take(&self, node: &str) -> Turn {
        let held = timeout(TURN_MAX, self.of(node).lock_owned()).await;
        Turn { _held: held.ok() }
    }

    fn of(&self, node: &str) -> Arc<AsyncMutex<()>> {
        let mut turns = lock(&self.0);
        if let Some(turn) = turns.get(node).and_then(Weak::upgrade) {
            return turn;
        }
        if turns.len() >= IDLE_MAX {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::default();
        turns.insert(node.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[actix_web::test]
    async fn a_node_is_bound_to_by_one_at_a_time_in_the_order_of_asking() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let mut second = Box::pin(turns.take("a"));
        let mut third = Box::pin(turns.take("a"));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        assert!(turns.take("b").now_or_never().is_some(), "another node");
        drop(first);
        assert!((&mut third).now_or_never().is_none(), "it came last");
        let second = second.now_or_never().expect("it is its turn");
        drop(second);
        assert!(third.now_or_never().is_some());
    }

    #[actix_web::test]
    async fn one_that_hangs_holds_up_the_next_for_a_while() {
        let turns = Turns::default();
        let hangs = turns.take("a").await;
        let patience = TURN_MAX + Duration::from_secs(20);
        let next = timeout(patience, turns.take("a")).await;
        assert!(next.expect("it goes on")._held.is_none());
        drop(hangs);
    }

    #[actix_web::test]
    async fn nodes_that_nothing_is_bound_to_are_forgotten() {
        let turns = Turns::default();
        for number in 0..3 * IDLE_MAX {
            turns.take(&format!("n-{number}")).await;
        }
        assert!(lock(&turns.0).len() <= IDLE_MAX);
    }
}
