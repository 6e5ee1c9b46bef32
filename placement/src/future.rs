//! What stays possible: how good the groups are that could be asked for next.
//!
//! For each size of the [`Mix`] the best group of what is free has a quality in thousandths; a size
//! that does not fit has none. Their sum by weight is the *worth* of what is free. More free GPUs are
//! never worth less.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use crate::mix::Mix;
use crate::quality::Bandwidth;
use crate::set::GpuSet;
use crate::sets::Sets;
use crate::shape::Shape;

/// Of a group's quality, what it has for being there at all: a slow group still serves.
const FEASIBLE_PARTS: u64 = 250;
/// What it has for bandwidth, as its share of the best of its size on this machine: tensor-parallel
/// decoding is bound by it.
const BANDWIDTH_PARTS: u64 = 500;
/// What it has for spanning few NUMA nodes, as the least that its size can span over what it spans:
/// behind switches nothing else is lost when groups are spread, and kubelets may insist on it.
const NUMA_PARTS: u64 = 250;
/// Nothing is better.
const PARTS: u64 = FEASIBLE_PARTS + BANDWIDTH_PARTS + NUMA_PARTS;

/// Free sets whose best groups are kept for one shape, where there is no table of all.
const KEPT_MAX: usize = 4_096;
/// Machines up to this many GPUs have the worth of every free set computed beforehand.
const TABLE_GPUS_MAX: usize = 8;

/// What groups of each size of the mix can be at best.
#[derive(Debug)]
pub(crate) struct Future {
    sizes: Vec<Size>,
    /// By free set, for small machines; else empty.
    table: Vec<u64>,
    kept: Mutex<HashMap<GpuSet, Arc<[Best]>>>,
}

/// One size of the mix, and what it has at best with every usable GPU free.
#[derive(Clone, Copy, Debug)]
struct Size {
    gpu_count: usize,
    weight: u64,
    bandwidth: Bandwidth,
    numa_count: usize,
}

/// The best group of one size among some free GPUs; no GPU and no parts where none fits.
#[derive(Clone, Copy, Debug, Default)]
struct Best {
    set: GpuSet,
    parts: u64,
}

// === impl Future ===

impl Future {
    pub(crate) fn new(shape: &Shape, mix: &Mix) -> Self {
        let sizes = mix.weights().filter_map(|(gpu_count, weight)| {
            let bandwidth = shape.best(gpu_count, 1)?;
            Some(Size {
                gpu_count,
                weight: weight.into(),
                bandwidth,
                numa_count: least_numa_count(shape, gpu_count),
            })
        });
        let sizes: Vec<Size> = sizes.collect();
        let table = if shape.facts.gpus.len() <= TABLE_GPUS_MAX {
            table(shape, &sizes)
        } else {
            Vec::new()
        };
        Self {
            sizes,
            table,
            kept: Mutex::default(),
        }
    }

    /// What is possible with the GPUs of `free`, some of `around`, all of them usable.
    pub(crate) fn worth(&self, shape: &Shape, free: GpuSet, around: GpuSet) -> u64 {
        let listed = usize::try_from(free.bits()).ok();
        if let Some(worth) = listed.and_then(|bits| self.table.get(bits)) {
            return *worth;
        }
        let around = self.best_groups(shape, around, None);
        let best = self.best_groups(shape, free, Some(&around));
        let sizes = self.sizes.iter().zip(best.iter());
        sizes.map(|(size, best)| size.weight * best.parts).sum()
    }

    /// The best group of each size; `around` are those of a superset.
    fn best_groups(&self, shape: &Shape, free: GpuSet, around: Option<&[Best]>) -> Arc<[Best]> {
        // Alike free sets have alike groups; only one of them is kept.
        let free = shape.lowest_alike(free);
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(best) = kept().get(&free) {
            return Arc::clone(best);
        }
        let sizes = self.sizes.iter().enumerate();
        let best: Arc<[Best]> = sizes
            .map(|(index, size)| size.best(shape, free, around.map(|around| around[index])))
            .collect();
        let mut kept = kept();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(free, Arc::clone(&best));
        best
    }
}

/// The worth of every free set: the best of a set is itself or the best of what lacks one of its
/// GPUs.
fn table(shape: &Shape, sizes: &[Size]) -> Vec<u64> {
    let mut worths = vec![0; 1 << shape.facts.gpus.len()];
    let mut best = vec![0; worths.len()];
    for size in sizes {
        for bits in 0..best.len() {
            let set = GpuSet::from_bits(bits as u64);
            let fewer = set.iter().map(|gpu| best[bits & !(1 << gpu)]);
            best[bits] = match set.len().cmp(&size.gpu_count) {
                Ordering::Less => 0,
                Ordering::Equal => size.parts(shape.bandwidth(set), shape.numa_count(set)),
                Ordering::Greater => fewer.max().unwrap_or_default(),
            };
            worths[bits] += size.weight * best[bits];
        }
    }
    worths
}

/// 0..=10: ten times what stays possible over what was, rounded down; 10 where nothing was.
pub(crate) fn tenths(after: u64, before: u64) -> u8 {
    let tenths = (10 * after).checked_div(before).unwrap_or(10);
    u8::try_from(tenths.min(10)).expect("at most ten")
}

// === impl Size ===

impl Size {
    /// The best group in `free`; `around` is that of a superset.
    fn best(&self, shape: &Shape, free: GpuSet, around: Option<Best>) -> Best {
        if let Some(around) = around.filter(|around| around.set.is_subset(free)) {
            return around;
        }
        let most = around.map_or(PARTS, |around| around.parts);
        let together = vec![free; shape.facts.gpus.len()];
        let sets = Sets {
            from: free,
            size: self.gpu_count,
            twins: &shape.twins,
            together: &together,
        };
        let mut best = Best::default();
        let mut try_set = |set: GpuSet| {
            best = self.better(shape, set, best).unwrap_or(best);
            if best.parts < most {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        if sets.are_few() {
            let _ = sets.each(&mut try_set);
        } else {
            let grown = free.iter().map(|seed| self.grown(shape, seed, free));
            let _ = grown.into_iter().try_for_each(&mut try_set);
        }
        best
    }

    /// `set`, if it is better than `best`.
    fn better(&self, shape: &Shape, set: GpuSet, best: Best) -> Option<Best> {
        let numa_count = shape.numa_count(set);
        let parts = |bandwidth| self.parts(bandwidth, numa_count);
        let bandwidth = shape.bandwidth_if(set, &|bandwidth| parts(bandwidth) > best.parts)?;
        Some(Best {
            set,
            parts: parts(bandwidth),
        })
    }

    fn grown(&self, shape: &Shape, seed: usize, free: GpuSet) -> GpuSet {
        let mut set = GpuSet::EMPTY.with(seed);
        while set.len() < self.gpu_count.min(free.len()) {
            let lowest_first = |next: &usize| (shape.bandwidth(set.with(*next)), usize::MAX - next);
            let Some(next) = free.difference(set).iter().max_by_key(lowest_first) else {
                break;
            };
            set = set.with(next);
        }
        set
    }

    fn parts(&self, bandwidth: Bandwidth, numa_count: usize) -> u64 {
        let of_best = bandwidth.share(self.bandwidth, BANDWIDTH_PARTS);
        let (least, spanned) = (self.numa_count as u64, numa_count.max(1) as u64);
        FEASIBLE_PARTS + of_best + NUMA_PARTS * least / spanned
    }
}

/// NUMA nodes that so many usable GPUs span at least: the fullest nodes first.
fn least_numa_count(shape: &Shape, gpu_count: usize) -> usize {
    let mut counts = shape.usable_by_numa();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let mut missing = gpu_count;
    let needed = counts.into_iter().take_while(|count| {
        let is_needed = missing > 0;
        missing = missing.saturating_sub(*count);
        is_needed
    });
    needed.count()
}
