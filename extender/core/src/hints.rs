//! Nodes that were as good as promised: filter and prioritize have answered, bind has not come yet.
//!
//! kube-scheduler never says which node it took, nor that it took none, so a hint holds nothing. While
//! it lasts, other pods score that node as if the promise had come true; they are never refused for
//! it. Without hints a burst of pods would all be shown the same free quad, and all but one would get
//! what is left of that node at bind.
//!
//! There is a hint only where one node is better than all others: of equals kube-scheduler takes one
//! at random, and a guess would push pods to worse nodes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_placement::GpuSet;
use berth_topology::ids::PodUid;

use crate::snapshot::ByName;

/// kube-scheduler's `httpTimeout`: by then a bind has come, or none will.
pub const HINT_AGE_MAX: Duration = Duration::from_secs(5);
/// kube-scheduler filters one pod at a time, some hundred a second at best; a hint is gone when the
/// pod's bind comes, so few ever live at once.
pub const HINTS_MAX: usize = 256;

/// GPUs of one node that a pod is likely to be bound to next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The node.
    pub node: Arc<str>,
    /// The GPUs, by position on its machine.
    pub gpus: GpuSet,
}

/// Hints as one request sees them, by node.
pub type Hinted = ByName<Vec<(PodUid, GpuSet)>>;

/// The newest hint of each pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hints {
    by_pod: HashMap<PodUid, (Instant, Hint)>,
}

// === impl Hints ===

impl Hints {
    /// Replaces the pod's earlier hint. The oldest is dropped when there are too many.
    pub(crate) fn replace(&mut self, uid: &PodUid, hint: Option<Hint>, now: Instant) {
        self.by_pod.remove(uid);
        let Some(hint) = hint else { return };
        if self.by_pod.len() >= HINTS_MAX {
            self.drop_oldest();
        }
        self.by_pod.insert(uid.clone(), (now, hint));
    }

    /// The pod's bind has come, or it is gone.
    pub(crate) fn remove(&mut self, uid: &PodUid) {
        self.by_pod.remove(uid);
    }

    /// Those that still count.
    pub(crate) fn hinted(&mut self, now: Instant) -> Hinted {
        self.by_pod
            .retain(|_, (since, _)| now.saturating_duration_since(*since) <= HINT_AGE_MAX);
        let mut hinted = Hinted::default();
        for (uid, (_, hint)) in &self.by_pod {
            let on_node = hinted.entry(hint.node.clone()).or_default();
            on_node.push((uid.clone(), hint.gpus));
        }
        hinted
    }

    pub(crate) fn len(&self) -> usize {
        self.by_pod.len()
    }

    fn drop_oldest(&mut self) {
        let oldest = self.by_pod.iter().min_by_key(|(_, (since, _))| *since);
        if let Some(uid) = oldest.map(|(uid, _)| uid.clone()) {
            self.by_pod.remove(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(node: &str) -> Option<Hint> {
        Some(Hint {
            node: node.into(),
            gpus: GpuSet::first(4),
        })
    }

    #[test]
    fn a_hint_lasts_as_long_as_kube_scheduler_waits_and_no_longer() {
        let start = Instant::now();
        let mut hints = Hints::default();
        hints.replace(&"p".into(), hint("a"), start);
        assert_eq!(hints.hinted(start + HINT_AGE_MAX).len(), 1);
        let over = start + HINT_AGE_MAX + Duration::from_millis(1);
        assert!(hints.hinted(over).is_empty());
        assert_eq!(hints.len(), 0, "what is over is forgotten");
    }

    #[test]
    fn a_pod_has_one_hint_and_the_oldest_goes_when_there_are_too_many() {
        let start = Instant::now();
        let mut hints = Hints::default();
        for number in 0..=HINTS_MAX {
            let now = start + Duration::from_micros(number as u64);
            hints.replace(&PodUid(format!("p{number}")), hint("a"), now);
        }
        assert_eq!(hints.len(), HINTS_MAX);
        assert!(!hints.by_pod.contains_key(&PodUid::from("p0")));
        hints.replace(&"p1".into(), hint("b"), start);
        let hinted = hints.hinted(start);
        assert_eq!(hinted["b"].len() + hinted["a"].len(), HINTS_MAX);
        hints.replace(&"p1".into(), None, start);
        assert!(!hints.hinted(start).contains_key("b"));
    }
}
