//! One unit of attention being computed.

use berth_engine_core::batch::StepSequence;

use super::cache::KvCache;
use super::seen::{Seen, merge};
use super::tile::{Queries, TILE, Tile};
use super::unit::Unit;
use super::{AttentionShape, Projected, SPLIT, Scoring};
use crate::lanes::{Kernel, Lanes};

/// What a worker needs for a unit.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) tile: Tile,
    pub(super) queries: Queries,
    /// Over all splits of the unit.
    pub(super) total: Seen,
    /// One head.
    pub(super) key: Vec<f32>,
}

/// One unit being computed.
pub(super) struct Attend<'a> {
    pub(super) unit: &'a Unit,
    pub(super) sequence: &'a StepSequence,
    pub(super) cache: &'a KvCache,
    pub(super) projected: &'a Projected<'a>,
    pub(super) scratch: &'a mut Scratch,
}

// === impl Attend ===

impl Kernel for Attend<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Scratch {
            tile,
            queries,
            total,
            ..
        } = self.scratch;
        let (cache, blocks) = (self.cache.head(self.unit.kv_head), &self.sequence.blocks);
        queries.take(self.cache.shape(), self.unit, self.sequence, self.projected);
        let query_count = queries.visible.len();
        let visible_max = queries.visible[query_count - 1];
        let first_seen = queries.first_seen(0) / TILE * TILE;
        for split in self.unit.splits.clone() {
            let end = ((split + 1) * SPLIT).min(visible_max);
            queries.seen.clear(query_count);
            for first in ((split * SPLIT).max(first_seen)..end).step_by(TILE) {
                tile.load(cache, blocks, first, (end - first).min(TILE));
                tile.show::<L>(first, queries);
            }
            for query in 0..query_count {
                let (total, seen) = (total.of_mut(query), queries.seen.of(query));
                let begin = (queries.first_seen(query) / SPLIT).max(self.unit.splits.start);
                if split == begin {
                    total.copy_from_slice(seen);
                } else if split > begin && queries.visible[query] > split * SPLIT {
                    merge::<L>(total, seen);
                }
            }
        }
    }
}

// === impl Queries ===

impl Queries {
    fn new(shape: AttentionShape) -> Self {
        let count_max = shape.rows_per_unit() * shape.heads_per_group;
        Self {
            vectors: vec![0.0; count_max * shape.head_dim],
            visible: Vec::with_capacity(count_max),
            scoring: Scoring::plain(shape.head_dim),
            seen: Seen::new(count_max, shape.head_dim),
        }
    }

    /// The first position that a query sees.
    #[inline(always)]
    pub(super) fn first_seen(&self, query: usize) -> usize {
        self.scoring.first_seen(self.visible[query])
    }

    /// Takes the unit's queries, turned and scaled.
    #[inline(always)]
    fn take(
        &mut self,
        shape: AttentionShape,
        unit: &Unit,
        sequence: &StepSequence,
        projected: &Projected<'_>,
    ) {
        self.scoring = projected.scoring;
        self.visible.clear();
        let mut vectors = self.vectors.chunks_exact_mut(shape.head_dim);
        for row in unit.rows.clone() {
            let step_row = unit.sequence_row + row;
            let heads = projected
                .queries
                .of(step_row, shape.group_columns(unit.kv_head));
            for (head, vector) in heads.chunks_exact(shape.head_dim).zip(&mut vectors) {
                projected
                    .angles
                    .turn(step_row, head, self.scoring.scale, vector);
                self.visible.push(sequence.first_position + row + 1);
            }
        }
    }
}

// === impl Scratch ===

impl Scratch {
    pub(super) fn new(shape: AttentionShape) -> Self {
        let queries = Queries::new(shape);
        Self {
            tile: Tile::new(shape.head_dim),
            total: Seen::new(queries.visible.capacity(), shape.head_dim),
            queries,
            key: vec![0.0; shape.head_dim],
        }
    }
}
