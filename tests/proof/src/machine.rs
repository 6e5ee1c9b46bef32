//! One machine: its GPUs, the kubelet that gives them out, and the agent that publishes what it gave.

use std::sync::Arc;

use berth_extender_core::fixtures::RESOURCE;
use berth_topology::allocation::Allocation;
use berth_topology::ids::GpuUuid;
use berth_topology::node::NodeTopology;

use crate::api::{Mask, PodObject, mask_of};
use crate::rng::Rng;
use crate::setting::Kubelet;
use crate::stock::{Key, Stock, node_name, variant};

/// One machine.
#[derive(Clone, Debug)]
pub struct Machine {
    number: usize,
    /// Its GPUs.
    pub gpu_count: usize,
    /// The one that is broken.
    pub failed: Option<usize>,
    /// Its indices were given anew, in the other direction.
    pub is_renumbered: bool,
    /// What its pods hold.
    pub held: Vec<Held>,
    /// Its agent runs.
    pub has_agent: bool,
    /// Its agent finds the pods' uids.
    pub knows_uids: bool,
    /// What the agent has read and not yet written.
    pub read: Option<Reading>,
}

/// What one pod holds: the truth.
#[derive(Clone, Debug)]
pub struct Held {
    /// Which pod.
    pub key: Key,
    /// Every GPU.
    pub all: Mask,
    /// By container, as the kubelet's list shows it: without init containers.
    pub shown: Vec<Mask>,
}

/// A machine as an agent read it.
#[derive(Clone, Debug)]
pub struct Reading {
    held: Vec<Held>,
    variant: usize,
    knows_uids: bool,
}

/// What became of a pod that came to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It runs on exactly what it was promised.
    AsPromised,
    /// It runs on others.
    Otherwise,
    /// `UnexpectedAdmissionError`.
    Rejected,
}

// === impl Machine ===

impl Machine {
    /// A machine that nobody uses yet.
    #[must_use]
    pub fn new(number: usize, gpu_count: usize) -> Self {
        Self {
            number,
            gpu_count,
            failed: None,
            is_renumbered: false,
            held: Vec::new(),
            has_agent: true,
            knows_uids: true,
            read: None,
        }
    }

    /// Every GPU.
    #[must_use]
    pub fn all(&self) -> Mask {
        Mask::try_from((1_u32 << self.gpu_count) - 1).unwrap_or(Mask::MAX)
    }

    /// GPUs that work.
    #[must_use]
    pub fn healthy(&self) -> Mask {
        self.all() & !self.failed.map_or(0, |gpu| 1 << gpu)
    }

    /// GPUs that some pod holds.
    #[must_use]
    pub fn taken(&self) -> Mask {
        self.held.iter().fold(0, |taken, held| taken | held.all)
    }

    /// What that pod holds.
    #[must_use]
    pub fn held_by(&self, key: Key) -> Option<&Held> {
        self.held.iter().find(|held| held.key == key)
    }

    /// The kubelet starts a pod. `others` are the promises to pods that it has not started yet.
    pub fn admit(
        &mut self,
        pod: &PodObject,
        kubelet: Kubelet,
        others: &[Mask],
        rng: &mut Rng,
    ) -> Admission {
        let claim = pod.key.claim();
        let free = self.healthy() & !self.taken();
        if count(free) < claim.gpu_count() {
            return Admission::Rejected;
        }
        let wanted = claim.container_gpu_count();
        let is_possible = count(pod.intent) == wanted && pod.intent & !free == 0;
        let main = match kubelet {
            Kubelet::Promised | Kubelet::Swaps if is_possible && !swaps(kubelet, rng) => pod.intent,
            Kubelet::Other if is_possible && rng.percent(50) => pod.intent,
            Kubelet::Promised => lowest(free, wanted),
            Kubelet::Swaps => {
                let equal = others
                    .iter()
                    .find(|other| count(**other) == wanted && **other & !free == 0);
                equal.copied().unwrap_or_else(|| lowest(free, wanted))
            }
            Kubelet::Other => some(free, wanted, rng),
        };
        let rest = claim.gpu_count() - wanted;
        let all = main | lowest(free & !main, rest);
        let shown = if main == pod.intent {
            promised(pod)
        } else {
            split(main, claim.gpu_counts)
        };
        self.held.push(Held {
            key: pod.key,
            all,
            shown,
        });
        if main == pod.intent {
            Admission::AsPromised
        } else {
            Admission::Otherwise
        }
    }

    /// The pod's containers have ended.
    pub fn release(&mut self, key: Key) {
        self.held.retain(|held| held.key != key);
    }

    /// What its agent sees now.
    #[must_use]
    pub fn look(&self) -> Reading {
        Reading {
            held: self.held.clone(),
            variant: variant(self.failed, self.is_renumbered),
            knows_uids: self.knows_uids,
        }
    }

    /// What its agent writes of that.
    #[must_use]
    pub fn object(&self, reading: &Reading) -> Arc<NodeTopology> {
        let name = node_name(self.number);
        let mut status = Stock::get()
            .status(self.number, self.gpu_count, reading.variant)
            .clone();
        for held in &reading.held {
            let containers = held.shown.iter().enumerate();
            status
                .allocations
                .extend(containers.map(|(position, mask)| {
                    Allocation {
                        pod_uid: reading.knows_uids.then(|| held.key.uid()),
                        namespace: "ns".to_owned(),
                        name: format!("p{}", held.key.number),
                        container: format!("c{position}"),
                        resource: RESOURCE.to_owned(),
                        devices: bits(*mask)
                            .map(|gpu| GpuUuid(format!("{name}-{gpu}")))
                            .collect(),
                        cpus: None,
                    }
                }));
        }
        Arc::new(NodeTopology::new(&name, status))
    }
}

fn swaps(kubelet: Kubelet, rng: &mut Rng) -> bool {
    kubelet == Kubelet::Swaps && rng.percent(40)
}

/// How many GPUs.
#[must_use]
pub fn count(mask: Mask) -> usize {
    mask.count_ones() as usize
}

fn bits(mask: Mask) -> impl Iterator<Item = usize> {
    (0..16).filter(move |bit| mask & (1 << bit) != 0)
}

fn lowest(mask: Mask, wanted: usize) -> Mask {
    bits(mask)
        .take(wanted)
        .fold(0, |taken, bit| taken | 1 << bit)
}

fn some(mask: Mask, wanted: usize, rng: &mut Rng) -> Mask {
    let mut left: Vec<usize> = bits(mask).collect();
    let mut taken = 0;
    for _ in 0..wanted.min(left.len()) {
        taken |= 1 << left.swap_remove(rng.below(left.len()));
    }
    taken
}

fn promised(pod: &PodObject) -> Vec<Mask> {
    pod.record.holder.intent.values().map(mask_of).collect()
}

fn split(mask: Mask, counts: &[usize]) -> Vec<Mask> {
    let mut left = mask;
    let part = |count: &usize| {
        let part = lowest(left, *count);
        left &= !part;
        part
    };
    counts.iter().map(part).collect()
}
