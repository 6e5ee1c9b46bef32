//! Pods that wait for others to leave: sets kept for them, and the budgets that protect the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use berth_topology::ids::PodUid;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::held::{Hold, Note};
use crate::node::NodeState;
use crate::nominated::Promise;
use crate::pod::PodRecord;

use super::{Entry, Index};

impl Index {
    /// A PodDisruptionBudget was added or changed.
    pub fn apply_budget(&mut self, budget: &PodDisruptionBudget) {
        Arc::make_mut(&mut self.budgets).apply(budget);
    }

    /// A PodDisruptionBudget was deleted.
    pub fn delete_budget(&mut self, budget: &PodDisruptionBudget) {
        Arc::make_mut(&mut self.budgets).delete(budget);
    }

    /// All PodDisruptionBudgets, after the watch started again; others are gone.
    pub fn reset_budgets(&mut self, budgets: &[PodDisruptionBudget]) {
        Arc::make_mut(&mut self.budgets).reset(budgets);
    }

    /// Keeps a set for a pod that is evicted for, until it is bound, gone, or that time has passed.
    pub fn hold(&mut self, uid: &PodUid, hold: Hold) {
        self.let_go(uid);
        let node = hold.node.clone();
        self.held.insert(uid.clone(), hold);
        self.change(&node, |_| ());
    }

    /// Keeps it no longer.
    pub fn let_go(&mut self, uid: &PodUid) {
        if let Some(hold) = self.held.remove(uid) {
            self.change(&hold.node, |_| ());
        }
    }

    /// Keeps nothing any more that was kept by [`Self::hold`] and of which no pod says anything: nobody
    /// was evicted for it.
    pub fn let_unsaid_go(&mut self) {
        for uid in self.held.unsaid() {
            self.let_go(&uid);
        }
    }

    /// What a pod says of the set that is kept for it, if it says anything.
    pub(super) fn hear_note(&mut self, uid: &PodUid, note: Option<&Note>) {
        if self.held.note(uid, note) {
            self.let_go(uid);
        }
    }

    /// What is kept by [`Self::hold`] for that pod.
    #[must_use]
    pub fn hold_of(&self, uid: &PodUid) -> Option<&Hold> {
        self.held.get(uid)
    }

    /// Keeps what pods say, and nothing for longer than it is to be kept.
    pub(super) fn update_held(&mut self, now: Instant) {
        for (uid, hold) in self.held.take_up(now) {
            tracing::info!(%uid, node = %hold.node, "GPUs that were freed for a pod are kept for it");
            self.hold(&uid, hold);
        }
        for uid in self.held.expired(now) {
            tracing::warn!(%uid, "a pod did not come in time for the GPUs that were freed for it");
            self.let_go(&uid);
        }
    }

    /// What is kept for a pod while it waits is not kept while it is being bound.
    pub(super) fn touch_awaited(&mut self, uid: &PodUid) {
        let awaited = self.pods.get(uid).and_then(PodRecord::awaited_node);
        let awaited = awaited.map(Arc::<str>::from);
        let held = self.held.get(uid).map(|hold| hold.node.clone());
        for node in awaited.into_iter().chain(held) {
            self.change(&node, |_| ());
        }
    }

    pub(super) fn promises(&self, entry: &Entry, state: &NodeState) -> Vec<Promise> {
        let nominated = entry.nominees.iter().map(|uid| (uid, None));
        let held = self
            .held
            .on(&state.name)
            .map(|(uid, hold)| (uid, Some(hold)));
        let mut waiting: BTreeMap<&PodUid, Option<&Hold>> = nominated.collect();
        waiting.extend(held);
        let nominees: Vec<_> = waiting
            .into_iter()
            .filter(|(uid, _)| self.reservations.get(uid).is_none())
            .filter_map(|(uid, hold)| Some(self.pods.get(uid)?.nominee(hold)))
            .collect();
        state.promises_to(nominees)
    }
}
