//! What one decision was made from.

use std::sync::Arc;

use berth_topology::fnv::Fnv;

use super::{Asked, Offered};
use crate::bind::Error::{NoNode, Refused, TooLong};
use crate::bind::{self, Prepared};
use crate::decide::{Ask, Preference};
use crate::group;
use crate::node::NodeState;
use crate::snapshot::{Named, Snapshot};

/// The nodes that were asked about, and the rest of the snapshot.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// In the order that they were sent.
    pub candidates: Vec<Candidate>,
    /// Other nodes that count: those where pods of the same group are, or could be.
    pub peers: Vec<Arc<NodeState>>,
    /// The snapshot without its nodes.
    pub view: Snapshot,
    /// Which of equally wired nodes comes first.
    pub preference: Preference,
    /// What preempt was asked, or an eviction was open to; absent for the other verbs.
    pub offered: Option<Arc<Offered>>,
}

/// One node that was asked about.
#[derive(Clone, Debug)]
pub enum Candidate {
    /// As the snapshot showed it.
    Known(Arc<NodeState>),
    /// The snapshot had no such node.
    Unknown(Box<str>),
}

// === impl Inputs ===

impl Inputs {
    /// Those nodes of `snapshot`, and what else the answer to `ask` depends on.
    #[must_use]
    pub fn of(
        snapshot: &Snapshot,
        ask: &Ask,
        offered: &[Named<'_>],
        preference: Preference,
    ) -> Self {
        Self {
            candidates: offered.iter().copied().map(Candidate::of).collect(),
            peers: group::peers(snapshot, ask, offered.iter().filter_map(|one| one.node)),
            view: Snapshot {
                awaited: Arc::new(snapshot.awaited.only(ask.group.as_deref())),
                ..snapshot.without_nodes()
            },
            preference,
            offered: None,
        }
    }

    /// What a bind chose the GPUs from; `None` where it chose none, because the pod was bound already,
    /// an earlier bind of it is not settled, or it asks for nothing of ours.
    #[must_use]
    pub fn of_bind(
        snapshot: &Snapshot,
        request: &bind::Request,
        prepared: &Result<Prepared, bind::Error>,
    ) -> Option<Self> {
        let has_chosen = match prepared {
            Ok(Prepared::Post { annotation }) => annotation.is_some(),
            Err(error) => matches!(error, Refused(_) | NoNode(_) | TooLong),
            Ok(Prepared::Done) => false,
        };
        let is_repeated = snapshot.unconfirmed(&request.uid).is_some();
        (has_chosen && !is_repeated).then(|| Self::of_node(snapshot, &request.node))
    }

    /// One node, for a choice that depends on no other.
    fn of_node(snapshot: &Snapshot, name: &str) -> Self {
        Self {
            candidates: vec![Candidate::of(snapshot.one(name))],
            peers: Vec::new(),
            view: snapshot.without_nodes(),
            preference: Preference::default(),
            offered: None,
        }
    }

    /// The names, in the order that they were sent.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.candidates.iter().map(Candidate::name).collect()
    }

    /// The snapshot again, with those nodes only.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let known = self.candidates.iter().filter_map(Candidate::state);
        let budgets = self.offered.as_ref().map(|offered| offered.budgets.clone());
        let view = Snapshot {
            budgets: budgets.unwrap_or_default(),
            ..self.view.clone()
        };
        view.with_nodes(known.chain(&self.peers).cloned())
    }

    /// The snapshot again, with one of those nodes.
    #[must_use]
    pub fn snapshot_of(&self, name: &str) -> Snapshot {
        let known = self.candidates.iter().filter_map(Candidate::state);
        let known = known.filter(|state| *state.name == *name);
        self.view.clone().with_nodes(known.cloned())
    }

    /// FNV-1a over all that was given, as 16 hexadecimal digits: equal inputs, equal hashes.
    #[must_use]
    pub fn hash(&self, asked: &Asked) -> String {
        let mut hash = Fnv::default();
        hash.text(&asked.pod);
        hash.text(&format!("{:?}", self.preference));
        hash.text(self.view.unconfirmed(&asked.uid).unwrap_or_default());
        let candidates = self.candidates.iter().map(|one| (one.name(), one.state()));
        let peers = self.peers.iter().map(|state| (&*state.name, Some(state)));
        let awaited = serde_json::to_string(&*self.view.awaited).unwrap_or_default();
        hash.text(&awaited);
        for (name, state) in candidates.chain(peers) {
            match state {
                Some(state) => hash.number(state.digest()),
                None => hash.text(name),
            }
        }
        hash.number(self.view.marks(&asked.uid));
        if let Some(offered) = &self.offered {
            let states = self.candidates.iter().filter_map(Candidate::state);
            hash.bytes(&offered.text(states));
        }
        format!("{:016x}", hash.finish())
    }
}

// === impl Candidate ===

impl Candidate {
    /// What the snapshot shows under that name.
    pub(super) fn of(one: Named<'_>) -> Self {
        match one.node {
            Some(node) => Self::Known(node.clone()),
            None => Self::Unknown(one.name.into()),
        }
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Known(state) => &state.name,
            Self::Unknown(name) => name,
        }
    }

    /// What the snapshot showed of it.
    #[must_use]
    pub fn state(&self) -> Option<&Arc<NodeState>> {
        match self {
            Self::Known(state) => Some(state),
            Self::Unknown(_) => None,
        }
    }
}
