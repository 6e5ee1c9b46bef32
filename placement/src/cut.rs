//! The global minimum cut of a set's NVLink graph.

use crate::set::{GPUS_MAX, GpuSet};
use crate::shape::Facts;

/// What the weakest partition of `set` in two is joined by, in 10⁶ bytes a second.
pub(crate) fn min_cut(facts: &Facts, set: GpuSet) -> u64 {
    match set.len() {
        0..=8 => merged::<8>(facts, set),
        9..=16 => merged::<16>(facts, set),
        _ => merged::<GPUS_MAX>(facts, set),
    }
}

/// Stoer and Wagner 1997: merges vertices until two are left; the last vertex of each
/// maximum-adjacency order gives one candidate cut.
fn merged<const N: usize>(facts: &Facts, set: GpuSet) -> u64 {
    let mut weights = [[0_u64; N]; N];
    for (row, a) in set.iter().enumerate() {
        for (column, b) in set.iter().enumerate() {
            weights[row][column] = facts.pair(a, b).nvlink_mb.into();
        }
    }
    let mut left = GpuSet::first(set.len());
    let mut cut = u64::MAX;
    while left.len() > 1 {
        let (before, last, joins) = adjacency_order_end(&weights, left);
        cut = cut.min(joins);
        left = left.without(last);
        for other in left.without(before).iter() {
            let joined = weights[before][other] + weights[last][other];
            weights[before][other] = joined;
            weights[other][before] = joined;
        }
    }
    cut
}

/// The last two vertices of a maximum-adjacency order, and what joins the last to all before it.
fn adjacency_order_end<const N: usize>(
    weights: &[[u64; N]; N],
    vertices: GpuSet,
) -> (usize, usize, u64) {
    let mut joins = [0_u64; N];
    let (mut before, mut last, mut cut) = (0, 0, 0);
    let mut left = vertices;
    while let Some(mut next) = left.lowest() {
        for other in left.iter() {
            if joins[other] > joins[next] {
                next = other;
            }
        }
        (before, last, cut) = (last, next, joins[next]);
        left = left.without(next);
        for other in left.iter() {
            joins[other] += weights[next][other];
        }
    }
    (before, last, cut)
}
