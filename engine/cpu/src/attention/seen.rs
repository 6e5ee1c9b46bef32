//! What queries have seen so far: the state of an online softmax (Milakov and Gimelshein 2018).

use super::tile::{TILE, pieces};
use crate::exp::exp;
use crate::lanes::{Lanes, WIDTH};

/// A record for each query: its greatest score and its sum of weights, then its weighted sum of
/// values in pieces of [`TILE`] channels. Weights are relative to the greatest score.
#[derive(Debug)]
pub(super) struct Seen {
    size: usize,
    records: Vec<[f32; TILE]>,
}

/// Pieces of a record: the first holds the two numbers.
pub(super) type Record = [[f32; TILE]];

const GREATEST: usize = 0;
const WEIGHT_SUM: usize = 1;

// === impl Seen ===

impl Seen {
    pub(super) fn new(query_count: usize, head_dim: usize) -> Self {
        let size = record_size(head_dim);
        Self {
            size,
            records: vec![[0.0; TILE]; query_count * size],
        }
    }

    /// Room for so many queries at least.
    pub(super) fn grow(&mut self, query_count: usize) {
        let wanted = query_count * self.size;
        if self.records.len() < wanted {
            self.records.resize(wanted, [0.0; TILE]);
        }
    }

    /// The first `query_count` queries have seen nothing.
    pub(super) fn clear(&mut self, query_count: usize) {
        for record in self.records.chunks_exact_mut(self.size).take(query_count) {
            record.fill([0.0; TILE]);
            record[0][GREATEST] = f32::NEG_INFINITY;
        }
    }

    /// Pieces of the first `query_count` records.
    pub(super) fn records(&self, query_count: usize) -> &[[f32; TILE]] {
        &self.records[..query_count * self.size]
    }

    pub(super) fn all_mut(&mut self) -> &mut [[f32; TILE]] {
        &mut self.records
    }

    #[inline(always)]
    pub(super) fn of(&self, query: usize) -> &Record {
        &self.records[query * self.size..][..self.size]
    }

    #[inline(always)]
    pub(super) fn of_mut(&mut self, query: usize) -> &mut Record {
        &mut self.records[query * self.size..][..self.size]
    }
}

/// Pieces that a record takes.
pub(super) fn record_size(head_dim: usize) -> usize {
    1 + pieces(head_dim)
}

#[inline(always)]
pub(super) fn greatest(record: &mut Record) -> &mut f32 {
    &mut record[0][GREATEST]
}

#[inline(always)]
pub(super) fn weight_sum(record: &mut Record) -> &mut f32 {
    &mut record[0][WEIGHT_SUM]
}

/// Adds a later split to what was seen before it.
#[inline(always)]
pub(super) fn merge<L: Lanes>(total: &mut Record, split: &Record) {
    let (before, after) = (total[0][GREATEST], split[0][GREATEST]);
    let greatest = if after > before { after } else { before };
    let mut shrinks = [0.0; WIDTH];
    (shrinks[0], shrinks[1]) = (before - greatest, after - greatest);
    exp(L::load(&shrinks)).store(&mut shrinks);
    let (of_total, of_split) = (shrinks[0], shrinks[1]);
    for (total, split) in total[1..].iter_mut().zip(&split[1..]) {
        for (total, split) in total.iter_mut().zip(split) {
            *total = total.mul_add(of_total, split * of_split);
        }
    }
    let weight_sum = total[0][WEIGHT_SUM];
    total[0][WEIGHT_SUM] = weight_sum.mul_add(of_total, split[0][WEIGHT_SUM] * of_split);
    total[0][GREATEST] = greatest;
}

/// Writes the weighted mean of the values to `out`.
#[inline(always)]
pub(super) fn finish(record: &Record, out: &mut [f32]) {
    let weight_sum = record[0][WEIGHT_SUM];
    for (out, sum) in out.iter_mut().zip(record[1..].as_flattened()) {
        *out = sum / weight_sum;
    }
}
