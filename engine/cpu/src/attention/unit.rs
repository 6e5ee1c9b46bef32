//! How a step's attention is cut into units of work.

use std::ops::Range;

use berth_engine_core::batch::StepSequence;

use super::{AttentionShape, SPLIT, Scoring};

/// Up to this many rows of a sequence, each split is a unit of its own.
pub(super) const FEW_ROWS: usize = 8;

/// Rows of one sequence, one KV head, and the positions of some splits.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// In the step.
    pub(super) sequence: usize,
    /// The sequence's first row in the step.
    pub(super) sequence_row: usize,
    /// In the sequence.
    pub(super) rows: Range<usize>,
    pub(super) kv_head: usize,
    pub(super) splits: Range<usize>,
    /// Those of all units of the same rows.
    pub(super) all_splits: Range<usize>,
    /// For a unit of one split of several: its first query's place among the partial results.
    pub(super) partial_at: Option<usize>,
}

/// The units of a step; their memory is used again.
#[derive(Debug, Default)]
pub(super) struct Units {
    pub(super) all: Vec<Unit>,
    /// Of those that are one split of several: where in `all` the first of each is.
    pub(super) cut: Vec<usize>,
    /// Places that the partial results of units of one split take.
    pub(super) partial_count: usize,
}

// === impl Units ===

impl Units {
    /// Cuts a step into units, within a sequence those with the most positions first.
    pub(super) fn plan(
        &mut self,
        shape: AttentionShape,
        scoring: Scoring,
        sequences: &[StepSequence],
    ) {
        self.all.clear();
        self.cut.clear();
        self.partial_count = 0;
        let mut sequence_row = 0;
        for (sequence, step) in sequences.iter().enumerate() {
            let row_count = step.tokens.len();
            let split_count = (step.first_position + row_count).div_ceil(SPLIT);
            let rows_per_unit = shape.rows_per_unit();
            for first in (0..row_count).step_by(rows_per_unit).rev() {
                let first_seen = scoring.first_seen(step.first_position + first + 1);
                let splits = first_seen / SPLIT..split_count;
                for kv_head in 0..shape.kv_head_count {
                    let whole = Unit {
                        sequence,
                        sequence_row,
                        rows: first..(first + rows_per_unit).min(row_count),
                        kv_head,
                        splits: splits.clone(),
                        all_splits: splits.clone(),
                        partial_at: None,
                    };
                    if row_count <= FEW_ROWS && splits.len() > 1 {
                        self.add_splits(shape, &whole);
                    } else {
                        self.all.push(whole);
                    }
                }
            }
            sequence_row += row_count;
        }
    }

    /// Each split of `whole` as a unit of its own, one after the other.
    fn add_splits(&mut self, shape: AttentionShape, whole: &Unit) {
        self.cut.push(self.all.len());
        for split in whole.splits.clone() {
            self.all.push(Unit {
                splits: split..split + 1,
                partial_at: Some(self.partial_count),
                ..whole.clone()
            });
            self.partial_count += whole.query_count(shape);
        }
    }
}

// === impl Unit ===

impl Unit {
    pub(super) fn query_count(&self, shape: AttentionShape) -> usize {
        self.rows.len() * shape.heads_per_group
    }
}
