//! What preempt was asked beside its nodes, and what an eviction for the wiring was chosen from.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_topology::ids::PodUid;
use serde::{Deserialize, Serialize};

use super::{Candidate, Inputs, shared};
use crate::budgets::Budgets;
use crate::decide::{Ask, Preference};
use crate::node::NodeState;
use crate::pod::Terms;
use crate::preempt::Offer;
use crate::snapshot::Snapshot;

/// Nodes with victims, the budgets over pods there, and the pod's terms.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offered {
    /// On what terms the pod asks: ports and affinity are in no other part of a record.
    #[serde(with = "shared")]
    pub terms: Arc<Terms>,
    /// What kube-scheduler offers, by node; for an eviction, the nodes that were open to it.
    pub offers: BTreeMap<String, Offer>,
    /// The budgets that any pod with GPUs on those nodes takes from.
    #[serde(with = "shared")]
    pub budgets: Arc<Budgets>,
}

// === impl Offered ===

impl Offered {
    /// What it holds, about.
    pub(super) fn bytes(&self) -> usize {
        let uids = self.offers.values().flat_map(|offer| &offer.victims);
        let offers: usize = uids.map(uid_bytes).sum();
        let nodes: usize = self.offers.keys().map(|name| name.len() + 64).sum();
        size_of::<Self>() + nodes + offers + self.budgets.bytes()
    }

    /// All of it, and all that `states` hold that filter's hash leaves out, for a hash.
    pub(super) fn text<'a>(&self, states: impl Iterator<Item = &'a Arc<NodeState>>) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        for state in states {
            // Equal states of other times are equal.
            let state = NodeState {
                version: 0,
                ..NodeState::clone(state)
            };
            text.extend(serde_json::to_vec(&state).unwrap_or_default());
        }
        text
    }
}

pub(super) fn uid_bytes(uid: &PodUid) -> usize {
    size_of::<PodUid>() + uid.as_str().len()
}

impl Inputs {
    /// The nodes that were offered, and what else preempt's answer to `ask` depends on.
    #[must_use]
    pub fn of_preempt(snapshot: &Snapshot, ask: &Ask, offers: &BTreeMap<String, Offer>) -> Self {
        let named = offers.keys().map(|name| snapshot.one(name));
        Self::of_offers(snapshot, ask, named.map(Candidate::of).collect(), offers)
    }

    /// The nodes that refused the pod, what else [`stranded::choose`] depends on, and as an offer without
    /// victims each node that was open to it.
    ///
    /// [`stranded::choose`]: crate::preempt::stranded::choose
    #[must_use]
    pub fn of_eviction(snapshot: &Snapshot, ask: &Ask, nodes: &[&str], open: &[&str]) -> Self {
        let named = nodes.iter().map(|name| snapshot.one(name));
        let offers = open
            .iter()
            .map(|name| ((*name).to_owned(), Offer::default()));
        let candidates = named.map(Candidate::of).collect();
        Self::of_offers(snapshot, ask, candidates, &offers.collect())
    }

    fn of_offers(
        snapshot: &Snapshot,
        ask: &Ask,
        candidates: Vec<Candidate>,
        offers: &BTreeMap<String, Offer>,
    ) -> Self {
        let states = candidates.iter().filter_map(Candidate::state);
        let holders = states.flat_map(|state| &state.holders);
        let budgets = snapshot.budgets.over(holders.map(|holder| &**holder));
        Self {
            offered: Some(Arc::new(Offered {
                terms: ask.terms.clone(),
                offers: offers.clone(),
                budgets: Arc::new(budgets),
            })),
            candidates,
            peers: Vec::new(),
            view: snapshot.without_nodes(),
            preference: Preference::default(),
        }
    }
}
