//! The global minimum cut of a set's NVLink graph.

use crate::facts::Facts;
use crate::set::{GPUS_MAX, GpuSet};

/// The lesser of `bound` and what the weakest partition of `set` in two is joined by, in 10⁶ bytes a
/// second.
pub(crate) fn min_cut(facts: &Facts, set: GpuSet, bound: u64) -> u64 {
    match set.len() {
        0..=8 => Graph::<8>::new(facts, set).min_cut(bound),
        9..=16 => Graph::<16>::new(facts, set).min_cut(bound),
        _ => Graph::<GPUS_MAX>::new(facts, set).min_cut(bound),
    }
}

/// Vertices that stand for one GPU or for several that were merged.
struct Graph<const N: usize> {
    weights: [[u64; N]; N],
    vertices: GpuSet,
}

/// Vertices in maximum-adjacency order, each with what joins it to all before it.
struct Order<const N: usize> {
    steps: [(usize, u64); N],
    count: usize,
}

// === impl Graph ===

impl<const N: usize> Graph<N> {
    fn new(facts: &Facts, set: GpuSet) -> Self {
        let mut weights = [[0; N]; N];
        for (row, a) in set.iter().enumerate() {
            for (column, b) in set.iter().enumerate() {
                weights[row][column] = facts.pair(a, b).nvlink_mb.into();
            }
        }
        Self {
            weights,
            vertices: GpuSet::first(set.len()),
        }
    }

    /// Stoer and Wagner 1997: the last vertex of each order gives one candidate, and is merged with
    /// the one before. Nagamochi and Ibaraki 1992: no cut below a vertex's joins parts it from the one
    /// before, so that all with joins of the bound or more are merged at once; mostly that is all.
    fn min_cut(mut self, bound: u64) -> u64 {
        let mut cut = bound;
        while self.vertices.len() > 1 {
            let order = self.order();
            let steps = &order.steps[..order.count];
            let (_, last_joins) = steps[order.count - 1];
            cut = cut.min(last_joins);
            for at in (1..order.count).rev() {
                let ((before, _), (vertex, joins)) = (steps[at - 1], steps[at]);
                if joins >= cut {
                    self.merge(before, vertex);
                }
            }
        }
        cut
    }

    fn order(&self) -> Order<N> {
        let mut joins = [0; N];
        let mut order = Order {
            steps: [(0, 0); N],
            count: 0,
        };
        let mut left = self.vertices;
        while let Some(mut next) = left.lowest() {
            for other in left.iter() {
                if joins[other] > joins[next] {
                    next = other;
                }
            }
            order.steps[order.count] = (next, joins[next]);
            order.count += 1;
            left = left.without(next);
            for (join, weight) in joins.iter_mut().zip(&self.weights[next]) {
                *join += weight;
            }
        }
        order
    }

    /// Makes `gone` part of `kept`.
    fn merge(&mut self, kept: usize, gone: usize) {
        self.vertices = self.vertices.without(gone);
        for other in self.vertices.without(kept).iter() {
            let joined = self.weights[kept][other] + self.weights[gone][other];
            self.weights[kept][other] = joined;
            self.weights[other][kept] = joined;
        }
    }
}
