//! Paged attention over grouped heads, prefill and decode alike, in one fixed order.
//!
//! A row sees its sequence's positions up to its own, or the last ones of a window. They are taken in tiles of 32, ascending,
//! by an online softmax; after each 512 positions (a split) a new one begins, and the splits are
//! merged in ascending order. None of this depends on the batch, on how a prompt was cut into
//! steps, on which blocks hold it, or on which worker computes what; so neither do the bits.
//!
//! Work is cut into units: some rows of one sequence and the query heads of one KV head. Where
//! there are few rows and many positions, each split is a unit, and a second pass merges.
#![allow(
    unsafe_code,
    reason = "workers write rows and columns of one matrix that belong to their units"
)]

use std::ops::Range;

use berth_engine_core::batch::StepSequence;

use crate::lanes::compute;
use crate::parts::Parts;
use crate::rope::Angles;
use crate::team::{Piece, Pieces, Stage, Team};
use crate::tier::Tier;
use cache::write;
use place::Place;
use seen::Seen;
use unit::{FEW_ROWS, Units};
use work::{Attend, Scratch};

mod cache;
mod place;
mod seen;
#[cfg(test)]
mod tests;
mod tile;
mod unit;
mod work;

pub use cache::KvCache;

/// Positions of a split.
const SPLIT: usize = 512;
/// Queries that a unit has at most, where a row has not more heads than that.
const QUERIES_MAX: usize = 128;

/// What one rank's attention looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Key and value heads of this rank.
    pub kv_head_count: usize,
    /// Query heads that share one of them.
    pub heads_per_group: usize,
    /// Channels of a head, even.
    pub head_dim: usize,
    /// Positions in a block.
    pub block_size: usize,
    /// Blocks in the pool.
    pub block_count: usize,
}

/// How a layer's scores are made, and which positions get one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scoring {
    /// What queries are multiplied with.
    pub scale: f32,
    /// Scores are `cap · tanh(score / cap)`.
    pub cap: Option<f32>,
    /// A row sees so many positions at most, its own the last; at least one.
    pub window: Option<usize>,
}

/// Some columns of a row-major matrix.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// The matrix.
    pub elements: &'a [f32],
    /// Width of the matrix.
    pub stride: usize,
    /// Where the columns begin.
    pub first: usize,
}

/// A step's rows: whose they are, and their projections, not yet turned.
#[derive(Clone, Copy, Debug)]
pub struct Projected<'a> {
    /// Their tokens are the rows, in order.
    pub sequences: &'a [StepSequence],
    /// `heads_per_group` heads for each KV head.
    pub queries: Columns<'a>,
    /// One head for each KV head.
    pub keys: Columns<'a>,
    /// The same.
    pub values: Columns<'a>,
    /// How each row's queries and keys are turned.
    pub angles: &'a Angles,
    /// How queries are scored against keys.
    pub scoring: Scoring,
}

/// Computes attention; keeps the workers' scratch memory from step to step.
#[derive(Debug)]
pub struct Attention {
    shape: AttentionShape,
    tier: Tier,
    workers: Vec<Scratch>,
    units: Units,
    /// What units of one split have seen, until it is merged.
    partial: Seen,
}

// === impl AttentionShape ===

impl AttentionShape {
    /// Elements of one head's keys and values in one block.
    fn block_elements(self) -> usize {
        2 * self.head_dim * self.block_size
    }

    /// Elements of one head in all blocks.
    fn head_elements(self) -> usize {
        self.block_elements() * self.block_count
    }

    /// Width of a row of this rank's queries.
    #[must_use]
    pub fn query_width(self) -> usize {
        self.kv_head_count * self.heads_per_group * self.head_dim
    }

    /// Width of a row of this rank's keys, and of its values.
    #[must_use]
    pub fn kv_width(self) -> usize {
        self.kv_head_count * self.head_dim
    }

    fn rows_per_unit(self) -> usize {
        (QUERIES_MAX / self.heads_per_group).max(1)
    }

    /// The queries' columns of one group of heads.
    fn group_columns(self, kv_head: usize) -> Range<usize> {
        let width = self.heads_per_group * self.head_dim;
        kv_head * width..(kv_head + 1) * width
    }
}

// === impl Scoring ===

impl Scoring {
    /// Divided by the root of the head's width; all positions.
    #[must_use]
    pub fn plain(head_dim: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "heads are below 2^20 wide")]
        let scale = 1.0 / (head_dim as f32).sqrt();
        Self {
            scale,
            cap: None,
            window: None,
        }
    }

    /// The first position that a row sees which sees those before `end`.
    #[inline(always)]
    fn first_seen(self, end: usize) -> usize {
        self.window.map_or(0, |window| end.saturating_sub(window))
    }
}

// === impl Columns ===

impl<'a> Columns<'a> {
    #[inline(always)]
    fn of(self, row: usize, columns: Range<usize>) -> &'a [f32] {
        let start = row * self.stride + self.first;
        &self.elements[start + columns.start..start + columns.end]
    }
}

// === impl Attention ===

impl Attention {
    /// For teams of `worker_count`.
    #[must_use]
    pub fn new(shape: AttentionShape, tier: Tier, worker_count: usize) -> Self {
        Self {
            shape,
            tier,
            workers: (0..worker_count).map(|_| Scratch::new(shape)).collect(),
            units: Units::default(),
            partial: Seen::new(0, shape.head_dim),
        }
    }

    /// Turns the step's keys, and writes them and the values to the cache, rounded to bf16.
    ///
    /// # Panics
    /// When a sequence's blocks do not cover its positions, or are not in the cache.
    pub fn write(&mut self, team: &mut Team, cache: &mut KvCache, projected: &Projected<'_>) {
        let shape = self.shape;
        assert_eq!(shape, cache.shape(), "the cache is of this attention");
        let heads = Parts::of(cache.elements_mut());
        let workers = Parts::of(&mut self.workers);
        let row_count: usize = projected.sequences.iter().map(|one| one.tokens.len()).sum();
        let heads_per_piece = if row_count < FEW_ROWS {
            shape.kv_head_count
        } else {
            1
        };
        let write = |piece: Piece| {
            // SAFETY: each worker takes its own scratch memory.
            let scratch = unsafe { workers.part(piece.by.index..piece.by.index + 1) };
            let first = piece.index * heads_per_piece;
            for kv_head in first..first + heads_per_piece {
                let size = shape.head_elements();
                // SAFETY: each head is in one piece.
                let head = unsafe { heads.part(kv_head * size..(kv_head + 1) * size) };
                write_head(shape, projected, kv_head, head, &mut scratch[0].key);
            }
        };
        team.run(&[Stage {
            pieces: Pieces::Even(shape.kv_head_count / heads_per_piece),
            work: &write,
        }]);
    }

    /// Attends to the cache, which holds this step's keys and values already, for every row of
    /// the step. `out`: as wide as the queries.
    ///
    /// # Panics
    /// As [`Self::write`].
    pub fn attend(
        &mut self,
        team: &mut Team,
        cache: &KvCache,
        projected: &Projected<'_>,
        out: &mut [f32],
    ) {
        assert_eq!(self.shape, cache.shape(), "the cache is of this attention");
        self.units
            .plan(self.shape, projected.scoring, projected.sequences);
        self.partial.grow(self.units.partial_count);
        let Self {
            shape,
            tier,
            workers,
            units,
            partial,
        } = self;
        let place = Place {
            shape: *shape,
            scoring: projected.scoring,
            out: Parts::of(out),
            partial: Parts::of(partial.all_mut()),
        };
        let workers = Parts::of(workers);
        let attend = |piece: Piece| {
            let unit = &units.all[piece.index];
            // SAFETY: each worker takes its own scratch memory.
            let scratch = unsafe { workers.part(piece.by.index..piece.by.index + 1) };
            let attend = Attend {
                unit,
                sequence: &projected.sequences[unit.sequence],
                cache,
                projected,
                scratch: &mut scratch[0],
            };
            compute(*tier, attend);
            place.put(unit, &scratch[0].total);
        };
        let merge = |piece: Piece| {
            let unit = &units.all[units.cut[piece.index]];
            place.merge(*tier, unit, &projected.sequences[unit.sequence]);
        };
        team.run(&[
            Stage {
                pieces: Pieces::Even(units.all.len()),
                work: &attend,
            },
            Stage {
                pieces: Pieces::Even(units.cut.len()),
                work: &merge,
            },
        ]);
    }
}

fn write_head(
    shape: AttentionShape,
    projected: &Projected<'_>,
    kv_head: usize,
    head: &mut [u16],
    key: &mut [f32],
) {
    let columns = kv_head * shape.head_dim..(kv_head + 1) * shape.head_dim;
    let mut row = 0;
    for sequence in projected.sequences {
        for position in sequence.first_position..sequence.first_position + sequence.tokens.len() {
            let place = (
                sequence.blocks[position / shape.block_size],
                position % shape.block_size,
            );
            let from = projected.keys.of(row, columns.clone());
            projected.angles.turn(row, from, 1.0, key);
            write(
                shape,
                head,
                place,
                key,
                projected.values.of(row, columns.clone()),
            );
            row += 1;
        }
    }
}
