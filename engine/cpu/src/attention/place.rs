//! Where units of attention put what they have computed, and how split ones are put together.
#![allow(
    unsafe_code,
    reason = "workers write rows and columns of one matrix that are their unit's alone"
)]

use berth_engine_core::batch::StepSequence;

use super::seen::{Seen, finish, merge, record_size};
use super::tile::TILE;
use super::unit::Unit;
use super::{AttentionShape, SPLIT, Scoring};
use crate::lanes::{Kernel, Lanes, compute};
use crate::parts::Parts;
use crate::tier::Tier;

/// Where units put what they have computed.
pub(super) struct Place<'a> {
    pub(super) shape: AttentionShape,
    pub(super) scoring: Scoring,
    /// As wide as the queries.
    pub(super) out: Parts<'a, f32>,
    /// Records of units of one split.
    pub(super) partial: Parts<'a, [f32; TILE]>,
}

/// The splits of one unit, one after the other, to be merged into the first.
struct Merge<'a> {
    shape: AttentionShape,
    scoring: Scoring,
    /// The first split's number.
    first_split: usize,
    /// Positions up to the first row's own.
    first_visible: usize,
    /// Pieces of a split's records.
    records: usize,
    splits: &'a mut [[f32; TILE]],
}

// === impl Place ===

impl Place<'_> {
    /// Puts down what a unit has computed.
    pub(super) fn put(&self, unit: &Unit, total: &Seen) {
        let Some(first) = unit.partial_at else {
            return self.finish(unit, total.records(unit.query_count(self.shape)));
        };
        let records = total.records(unit.query_count(self.shape));
        let start = first * record_size(self.shape.head_dim);
        // SAFETY: units have consecutive places, and each is computed by one worker.
        let partial = unsafe { self.partial.part(start..start + records.len()) };
        partial.copy_from_slice(records);
    }

    /// Merges the splits of what was cut by them; `unit` is the first.
    pub(super) fn merge(&self, tier: Tier, unit: &Unit, sequence: &StepSequence) {
        let records = unit.query_count(self.shape) * record_size(self.shape.head_dim);
        let start = unit.partial_at.unwrap_or_default() * record_size(self.shape.head_dim);
        let end = start + records * unit.all_splits.len();
        // SAFETY: all units are computed, and the splits of each are merged by one worker.
        let splits = unsafe { self.partial.part(start..end) };
        let merge = Merge {
            shape: self.shape,
            scoring: self.scoring,
            first_split: unit.all_splits.start,
            first_visible: sequence.first_position + unit.rows.start + 1,
            records,
            splits,
        };
        compute(tier, merge);
        self.finish(unit, &splits[..records]);
    }

    /// Writes a unit's columns of its rows.
    fn finish(&self, unit: &Unit, records: &[[f32; TILE]]) {
        let shape = self.shape;
        let mut records = records.chunks_exact(record_size(shape.head_dim));
        for row in unit.rows.clone() {
            let start = (unit.sequence_row + row) * shape.query_width();
            let columns = shape.group_columns(unit.kv_head);
            // SAFETY: these columns of these rows are this unit's alone.
            let heads = unsafe { self.out.part(start + columns.start..start + columns.end) };
            for (head, record) in heads.chunks_exact_mut(shape.head_dim).zip(&mut records) {
                finish(record, head);
            }
        }
    }
}

impl Kernel for Merge<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let size = record_size(self.shape.head_dim);
        let (total, later) = self.splits.split_at_mut(self.records);
        let splits = self.first_split + 1..;
        for (split, records) in splits.zip(later.chunks_exact(self.records)) {
            let queries = total.chunks_exact_mut(size).zip(records.chunks_exact(size));
            for (query, (total, record)) in queries.enumerate() {
                let visible = self.first_visible + query / self.shape.heads_per_group;
                let begin = self.scoring.first_seen(visible) / SPLIT;
                if split == begin {
                    total.copy_from_slice(record);
                } else if split > begin && visible > split * SPLIT {
                    merge::<L>(total, record);
                }
            }
        }
    }
}
