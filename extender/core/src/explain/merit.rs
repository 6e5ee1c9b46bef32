//! What a node's score is made of.

use serde::{Deserialize, Serialize};

use crate::decide::{self, Ask};
use crate::group::Pull;
use crate::record::{Candidate, Inputs};
use crate::score::Shares;
use crate::snapshot::Snapshot;

/// How good a node is for the pod, and by what; see [`crate::score`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeritStory {
    /// 0 to 1,000. Nodes' scores tell their merits apart.
    pub total: u32,
    /// What it is the sum of, before a link that is wished for moves it.
    pub shares: Shares,
    /// Whether other pods are likely to take GPUs there first, which may lower it further.
    pub is_hinted: bool,
}

/// The pod's question about the nodes that it could be told apart on.
pub(super) struct Merits<'a> {
    inputs: &'a Inputs,
    ask: &'a Ask,
    snapshot: &'a Snapshot,
    pull: Pull<'a>,
}

// === impl Merits ===

impl<'a> Merits<'a> {
    /// `snapshot` is that of the inputs.
    pub(super) fn of(inputs: &'a Inputs, snapshot: &'a Snapshot, ask: &'a Ask) -> Self {
        let names = inputs.candidates.iter().map(Candidate::name);
        let states = names.filter_map(|name| snapshot.node(name));
        Self {
            inputs,
            ask,
            snapshot,
            pull: Pull::of(snapshot, ask, states),
        }
    }

    /// `None` where the pod does not fit, or the node was not asked about.
    pub(super) fn on(&self, name: &str) -> Option<MeritStory> {
        let node = self.snapshot.node(name)?;
        let standing = decide::judge(self.snapshot, self.ask, name).ok()?;
        let (pull, preference) = (self.pull.on(node), self.inputs.preference);
        let promised = self.snapshot.promised_to_others(name, &self.ask.uid);
        Some(MeritStory {
            total: standing.merit(pull, preference).0,
            shares: standing.shares(pull, preference),
            is_hinted: promised.meets(node.room.free),
        })
    }
}

// === impl MeritStory ===

impl MeritStory {
    /// The share that tells this node from a better one most; `None` where none of its is less.
    pub(super) fn lost_by(&self, better: &Self) -> Option<String> {
        let (this, better) = (self.shares.named(), better.shares.named());
        let pairs = this.into_iter().zip(better);
        let lost = pairs.filter(|((_, this), (_, better))| this < better);
        let most = lost.max_by_key(|((_, this), (_, better))| better - this)?;
        let ((name, this), (_, better)) = most;
        Some(format!(
            "the difference is mostly {name}: {better} against {this} of a node's 1000 points"
        ))
    }
}
