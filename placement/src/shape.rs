//! A machine's hardware, and what is derived from it once.
//!
//! Holds no identities: machines of equal hardware share one shape, and with it every answer.

use std::sync::{Arc, OnceLock};

use berth_topology::link::LinkClass;

use crate::facts::{Facts, GpuFacts};
use crate::future::{self, Future};
use crate::memo::Memo;
use crate::mix::Mix;
use crate::quality::{Bandwidth, bandwidth_if};
use crate::ring::Edges;
use crate::search;
use crate::set::GpuSet;

/// Machines up to this many GPUs have the bandwidth of every set computed beforehand: 256 of them.
const TABLE_GPUS_MAX: usize = 8;

/// A machine's hardware, ready to be searched. Immutable; caches inside only save time.
#[derive(Debug)]
pub struct Shape {
    pub(crate) facts: Arc<Facts>,
    pub(crate) edges: Edges,
    /// Healthy enough, whole and not shared.
    pub(crate) usable: GpuSet,
    /// Shared or partitioned.
    pub(crate) shared: GpuSet,
    /// For each GPU those of its NUMA node, itself included; only itself when unknown.
    pub(crate) same_numa: Vec<GpuSet>,
    /// For each GPU those that can be swapped with it without changing anything, itself included.
    pub(crate) twins: Vec<GpuSet>,
    /// As `twins`, for who needs every set: each GPU itself.
    pub(crate) alone: Vec<GpuSet>,
    pub(crate) memo: Memo,
    /// What is expected to be asked for next.
    mix: Mix,
    future: OnceLock<Future>,
    /// GPUs of each NUMA node, and of an unknown one.
    by_numa: Vec<GpuSet>,
    /// GPUs of each socket, and of an unknown one.
    by_socket: Vec<GpuSet>,
    /// By set, for small machines; else empty.
    table: Vec<Bandwidth>,
    /// By group size - 1, then by group count - 1.
    best: Vec<Vec<OnceLock<Option<Bandwidth>>>>,
}

// === impl Shape ===

impl Shape {
    pub(crate) fn new(facts: Arc<Facts>, mix: Mix) -> Self {
        let positions = |is: fn(&GpuFacts) -> bool| -> GpuSet {
            let matching = facts.gpus.iter().enumerate().filter(|(_, gpu)| is(gpu));
            matching.map(|(position, _)| position).collect()
        };
        let count = facts.gpus.len();
        let edges = Edges::new(&facts);
        Self {
            usable: positions(|gpu| gpu.is_usable && !gpu.is_shared),
            shared: positions(|gpu| gpu.is_usable && gpu.is_shared),
            same_numa: (0..count)
                .map(|position| facts.same_numa(position))
                .collect(),
            by_numa: facts.grouped_by(|gpu| gpu.numa),
            by_socket: facts.grouped_by(|gpu| gpu.socket),
            twins: (0..count).map(|position| facts.twins(position)).collect(),
            alone: (0..count)
                .map(|position| GpuSet::EMPTY.with(position))
                .collect(),
            mix,
            future: OnceLock::new(),
            memo: Memo::default(),
            table: table(&facts, &edges),
            edges,
            best: (1..=count)
                .map(|size| vec![OnceLock::new(); count / size])
                .collect(),
            facts,
        }
    }

    pub(crate) fn bandwidth(&self, set: GpuSet) -> Bandwidth {
        let bandwidth = self.bandwidth_if(set, &|_| true);
        bandwidth.expect("any bandwidth is enough")
    }

    /// What `set` has, where that `is_enough`; see [`bandwidth_if`].
    pub(crate) fn bandwidth_if(
        &self,
        set: GpuSet,
        is_enough: &impl Fn(Bandwidth) -> bool,
    ) -> Option<Bandwidth> {
        let bits = usize::try_from(set.bits()).ok();
        match bits.and_then(|bits| self.table.get(bits)) {
            Some(listed) => Some(*listed).filter(|bandwidth| is_enough(*bandwidth)),
            None => bandwidth_if(&self.facts, &self.edges, set, is_enough),
        }
    }

    /// NUMA nodes that `set` spans; GPUs of an unknown one count as one more.
    pub(crate) fn numa_count(&self, set: GpuSet) -> usize {
        self.by_numa
            .iter()
            .filter(|of_node| of_node.meets(set))
            .count()
    }

    /// Sockets that `set` spans; GPUs of an unknown one count as one more.
    pub(crate) fn socket_count(&self, set: GpuSet) -> usize {
        self.by_socket
            .iter()
            .filter(|of_socket| of_socket.meets(set))
            .count()
    }

    /// The lowest set that becomes `set` when twins are swapped, whether they are in it or not.
    pub(crate) fn lowest_alike(&self, set: GpuSet) -> GpuSet {
        let mut lowest = GpuSet::EMPTY;
        let mut left = GpuSet::first(self.facts.gpus.len());
        while let Some(gpu) = left.lowest() {
            let twins = self.twins[gpu];
            left = left.difference(twins);
            let count = twins.intersection(set).len();
            lowest = lowest.union(twins.iter().take(count).collect());
        }
        lowest
    }

    /// Usable GPUs of each NUMA node.
    pub(crate) fn usable_by_numa(&self) -> Vec<usize> {
        self.by_numa
            .iter()
            .map(|of_node| of_node.intersection(self.usable).len())
            .collect()
    }

    /// What is possible with the usable GPUs of `free`, which are some of `around`: weight ×
    /// thousandths, summed over the mix.
    pub(crate) fn worth(&self, free: GpuSet, around: GpuSet) -> u64 {
        let future = self.future.get_or_init(|| Future::new(self, &self.mix));
        future.worth(
            self,
            free.intersection(self.usable),
            around.intersection(self.usable),
        )
    }

    /// 0..=10: what stays possible in `free` without `taken`, in tenths of what was.
    pub(crate) fn future(&self, free: GpuSet, taken: GpuSet) -> u8 {
        let before = self.worth(free, free);
        future::tenths(self.worth(free.difference(taken), free), before)
    }

    /// What is expected to be asked for next.
    pub(crate) fn mix(&self) -> &Mix {
        &self.mix
    }

    /// GPUs of `free` that are in whole groups of that size, each group on one NUMA node where some
    /// node has room for one.
    pub(crate) fn in_groups(&self, free: GpuSet, size: usize) -> usize {
        let whole = |count: usize| count - count % size;
        let fits = |node: &&GpuSet| node.intersection(self.usable).len() >= size;
        if self.by_numa.iter().any(|node| fits(&node)) {
            let nodes = self.by_numa.iter();
            nodes.map(|node| whole(node.intersection(free).len())).sum()
        } else {
            whole(free.len())
        }
    }

    /// What the worst of that many groups has at best when every usable GPU is free.
    pub(crate) fn best(&self, group_size: usize, group_count: usize) -> Option<Bandwidth> {
        let cell = self
            .best
            .get(group_size.checked_sub(1)?)?
            .get(group_count.checked_sub(1)?)?;
        *cell.get_or_init(|| search::best_bandwidth(self, group_size, group_count))
    }

    /// GPUs whose link to `position` is at least of that class, itself included.
    pub(crate) fn linked(&self, position: usize, class: LinkClass) -> GpuSet {
        let count = self.facts.gpus.len();
        let linked = |other: &usize| {
            *other == position || self.facts.pair(position, *other).class() >= class
        };
        (0..count).filter(linked).collect()
    }
}

fn table(facts: &Facts, edges: &Edges) -> Vec<Bandwidth> {
    if facts.gpus.len() > TABLE_GPUS_MAX {
        return Vec::new();
    }
    (0..1_u64 << facts.gpus.len())
        .filter_map(|bits| bandwidth_if(facts, edges, GpuSet::from_bits(bits), &|_| true))
        .collect()
}
