//! How nodes that fit are told apart: from merits in thousandths to kube-scheduler's eleven levels.
//!
//! A node's [`Merit`] is a sum of shares, none of which knows another node:
//!
//! | share | weight | full where |
//! |---|---|---|
//! | quality | [`QUALITY`] | the set is as good as the best that this model of machine can give |
//! | link | [`LINK`] | every two GPUs of a group have NVLink; half for a PCIe switch, a quarter on one NUMA node |
//! | kept | [`KEPT`] | the choice breaks no group that could be asked for next |
//! | fabric | [`GROUP_FABRIC`] | all placed pods of the group are in the node's NVLink fabric clique; of the first, all the others find room there |
//! | rack | [`GROUP_RACK`] | all placed pods of the group are in the node's rack; of the first, all the others find room there |
//! | room | [`ROOM`] | nothing stays free (packing), or everything does (spreading) |
//!
//! A pod without a group has the group's shares everywhere. The first of a group has of them what part
//! of the group (all its pods that wait, [`crate::group::Awaited`]) the node's clique and rack have
//! room for; of cliques with room for all one is preferred ([`GROUP_TOGETHER`]). With spreading the share `kept` goes to room as well: it would pull towards nodes in use.
//!
//! A pod that wishes for a link has the merits of nodes that meet it moved above all others'
//! ([`WISH_MET_MIN`]), so that no sum of other shares outweighs the wish.
//!
//! # How the levels are spent
//!
//! kube-scheduler takes whole points from 0 to 10, and only their differences count. 0 is a node
//! that does not fit any more. The best merit offered is 10; the others are as many points below as
//! their merits are hundreds below, but different merits never share a level while there is one left
//! above 1. So the nodes that kube-scheduler may take are told apart, and only the tail shares.

use std::collections::{BTreeMap, BTreeSet};

use berth_placement::{GpuSet, PodFit};
use berth_topology::claim::PodClaim;
use berth_topology::link::LinkClass;
use serde::{Deserialize, Serialize};

use crate::node::{Room, Topology};

/// Bandwidth decides how fast a tensor-parallel model answers, for as long as the pod runs.
pub const QUALITY: u32 = 300;
/// The share above is of the machine's own best, so it says nothing across models. This one does:
/// with as much weight, NVLink at half of its machine's best comes before a PCIe switch at its best,
/// and at a third before the best of one NUMA node.
pub const LINK: u32 = 300;
/// Half of the bandwidth's: who comes next counts, but less than who is here.
pub const KEPT: u32 = 150;
/// Between pods a fabric is several times faster than the network: worth half of the quality inside
/// the pod, so a set of half the quality inside the clique equals a full one outside.
pub const GROUP_FABRIC: u32 = 150;
/// Of that, what the first pod of a group has in one place alone: the smallest clique, or else rack, that
/// has room for all its pods. More than [`ROOM`]: all of them may be scored before one is placed, and
/// must not be packed onto fuller nodes of different cliques.
pub const GROUP_TOGETHER: u32 = 60;
/// The same where no other pod of the group is known yet: for the clique with the most room. Less than
/// one GPU of eight is worth in [`ROOM`], so that it decides between equals only.
pub const GROUP_ROOMY: u32 = 5;
/// Fewer hops of the same network: worth something, and less than anything above.
pub const GROUP_RACK: u32 = 50;
/// Decides only between nodes that are as good otherwise.
pub const ROOM: u32 = 50;
/// All shares together.
pub const MERIT_MAX: u32 = QUALITY + LINK + KEPT + GROUP_FABRIC + GROUP_RACK + ROOM;
/// Where a link is wished for, nodes that meet the wish have at least this, the others less.
pub const WISH_MET_MIN: u32 = 400;

/// Best level of a node (`MaxExtenderPriority`).
pub const LEVEL_MAX: u32 = 10;
/// Worst level of one that fits.
const LEVEL_FITS_MIN: u32 = 1;
/// Merit of one level.
const MERIT_PER_LEVEL: u32 = MERIT_MAX / LEVEL_MAX;

/// Which of equally good nodes comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Preference {
    /// The one with the fewest free GPUs, so that whole nodes stay free.
    #[default]
    Pack,
    /// The one with the most.
    Spread,
}

/// How a node stands to a pod that fits it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The GPUs that the pod would hold.
    pub gpus: GpuSet,
    /// 0 to 10: the set against the best of this machine.
    pub score: u32,
    /// The worst link between two GPUs of a group; NVLink where a group is one GPU.
    pub link: LinkClass,
    /// Whether that is the link which the pod wishes for; `None` without a wish.
    pub is_wish_met: Option<bool>,
    /// What the choice keeps for who comes next, in thousandths ([`berth_placement::Machine::kept_permille`]).
    pub kept_permille: u32,
    /// Usable GPUs that stay free, in thousandths of all.
    pub free_permille: u32,
}

/// How good a node is for a pod, 0 to [`MERIT_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Merit(pub u32);

/// What a merit is made of; see above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shares {
    /// At most [`QUALITY`].
    pub quality: u32,
    /// At most [`LINK`].
    pub link: u32,
    /// At most [`KEPT`].
    pub kept: u32,
    /// At most [`GROUP_FABRIC`] and [`GROUP_RACK`].
    pub group: u32,
    /// At most [`ROOM`]; with spreading, and [`KEPT`].
    pub room: u32,
}

/// The level of each node, from merits; `None` does not fit.
#[must_use]
pub fn levels(merits: &[Option<Merit>]) -> Vec<u32> {
    let distinct: BTreeSet<Merit> = merits.iter().flatten().copied().collect();
    let best = distinct.last().copied().unwrap_or_default();
    let mut level_of = BTreeMap::new();
    let mut level = LEVEL_MAX + 1;
    for merit in distinct.into_iter().rev() {
        let below = (best.0 - merit.0) / MERIT_PER_LEVEL;
        let by_distance = LEVEL_MAX.saturating_sub(below);
        level = by_distance.min(level - 1).max(LEVEL_FITS_MIN);
        level_of.insert(merit, level);
    }
    let level = |merit: &Option<Merit>| merit.map_or(0, |merit| level_of[&merit]);
    merits.iter().map(level).collect()
}

// === impl Shares ===

impl Shares {
    /// Each by its name.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u32); 5] {
        [
            ("quality", self.quality),
            ("link", self.link),
            ("kept", self.kept),
            ("group", self.group),
            ("room", self.room),
        ]
    }

    fn sum(&self) -> u32 {
        self.quality + self.link + self.kept + self.group + self.room
    }
}

// === impl Standing ===

impl Standing {
    /// How a node with that room stands to a pod that would be given `fit` there.
    pub(crate) fn of(fit: PodFit, room: Room, topology: &Topology, claim: &PodClaim) -> Self {
        let link = fit.weakest_link.unwrap_or(LinkClass::NvLink);
        let wishes = claim.containers.iter().map(|one| one.claim.link);
        let wish = wishes.max().filter(|wish| *wish != LinkClass::Any);
        let machine = &topology.machine;
        let left = room.free.difference(fit.gpus);
        let left_count = left.intersection(machine.usable()).len();
        let left_count = left_count.saturating_sub(room.unknown_count);
        Self {
            gpus: fit.gpus,
            score: fit.score.into(),
            link,
            is_wish_met: wish.map(|wish| link >= wish),
            kept_permille: machine.kept_permille(room.free, fit.gpus),
            free_permille: permille(left_count, machine.usable().len()),
        }
    }

    /// Its shares, with what the group's pull gives it.
    #[must_use]
    pub fn shares(&self, pull: u32, preference: Preference) -> Shares {
        let share = |weight: u32, permille: u32| weight * permille.min(1_000) / 1_000;
        let (kept, room) = match preference {
            Preference::Pack => (
                share(KEPT, self.kept_permille),
                share(ROOM, 1_000 - self.free_permille),
            ),
            Preference::Spread => (0, share(KEPT + ROOM, self.free_permille)),
        };
        Shares {
            quality: share(QUALITY, self.score * 100),
            link: share(LINK, link_permille(self.link)),
            kept,
            group: pull,
            room,
        }
    }

    /// The sum of its shares, with what the group's pull gives it.
    #[must_use]
    pub fn merit(&self, pull: u32, preference: Preference) -> Merit {
        let sum = self.shares(pull, preference).sum();
        Merit(match self.is_wish_met {
            None => sum,
            Some(true) => WISH_MET_MIN + sum * (MERIT_MAX - WISH_MET_MIN) / MERIT_MAX,
            Some(false) => sum * (WISH_MET_MIN - 1) / MERIT_MAX,
        })
    }
}

/// What a link is worth across models of machines.
fn link_permille(link: LinkClass) -> u32 {
    match link {
        LinkClass::NvLink => 1_000,
        LinkClass::Switch => 500,
        LinkClass::Numa => 250,
        LinkClass::Any => 0,
    }
}

fn permille(part: usize, whole: usize) -> u32 {
    let permille = (1_000 * part).checked_div(whole).unwrap_or(0);
    u32::try_from(permille.min(1_000)).unwrap_or(1_000)
}

#[cfg(test)]
mod tests;
