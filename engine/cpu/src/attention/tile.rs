//! Thirty-two positions of one KV head, attended by a few queries at a time.
//!
//! The order of every sum is fixed. A score is summed over the channels, ascending. A tile's
//! weights are summed by lanes. An output channel takes the tile's values in order of position.
//! Positions that a query may not see get no weight and their values are not read.

use std::ops::Range;

use berth_engine_core::batch::BlockId;

use super::Scoring;
use super::cache::HeadCache;
use super::seen::{Seen, greatest, weight_sum};
use crate::cap::capped;
use crate::exp::exp;
use crate::lanes::{Lanes, WIDTH, max, sum};

/// Positions in a tile.
pub(super) const TILE: usize = 2 * WIDTH;

/// A tile in f32.
#[derive(Debug)]
pub(super) struct Tile {
    head_dim: usize,
    /// `[channel][position]`.
    keys: Vec<[f32; TILE]>,
    /// `[position][channels]`, each row of `padded_dim / TILE` pieces.
    values: Vec<[f32; TILE]>,
}

/// Queries of one unit of work, and what they have seen so far of a split.
#[derive(Debug)]
pub(super) struct Queries {
    /// Scaled: `[query][channel]`.
    pub(super) vectors: Vec<f32>,
    /// Positions up to each query's own, ascending.
    pub(super) visible: Vec<usize>,
    pub(super) scoring: Scoring,
    pub(super) seen: Seen,
}

/// How some queries weigh a tile's positions.
struct Weighed<const Q: usize> {
    /// Positions that each query sees of the tile; both ends ascend.
    ranges: [Range<usize>; Q],
    weights: [[f32; TILE]; Q],
    /// What each query's earlier sums are multiplied with.
    shrinks: [f32; WIDTH],
}

/// Pieces of [`TILE`] channels that a head's values take.
pub(super) fn pieces(head_dim: usize) -> usize {
    head_dim.div_ceil(TILE)
}

// === impl Tile ===

impl Tile {
    pub(super) fn new(head_dim: usize) -> Self {
        Self {
            head_dim,
            keys: vec![[0.0; TILE]; head_dim],
            values: vec![[0.0; TILE]; TILE * pieces(head_dim)],
        }
    }

    /// Takes `count` positions from `first` on out of the cache.
    #[inline(always)]
    pub(super) fn load(
        &mut self,
        cache: HeadCache<'_>,
        blocks: &[BlockId],
        first: usize,
        count: usize,
    ) {
        let mut done = 0;
        while done < count {
            let run = cache.run(blocks, first + done, count - done);
            let block_size = run.keys.len() / self.head_dim;
            let channels = run.keys.chunks_exact(block_size);
            for (to, channel) in self.keys.iter_mut().zip(channels) {
                widen(
                    &channel[run.first_slot..][..run.count],
                    &mut to[done..][..run.count],
                );
            }
            self.load_values(
                &run.values[run.first_slot * self.head_dim..],
                done,
                run.count,
            );
            done += run.count;
        }
        for to in &mut self.keys {
            to[count..].fill(0.0);
        }
    }

    #[inline(always)]
    fn load_values(&mut self, values: &[u16], first: usize, count: usize) {
        let rows = self.values[first * pieces(self.head_dim)..].as_flattened_mut();
        let rows = rows.chunks_exact_mut(TILE * pieces(self.head_dim));
        for (to, row) in rows.zip(values.chunks_exact(self.head_dim)).take(count) {
            widen(row, &mut to[..self.head_dim]);
        }
    }

    /// Shows the tile, whose first position is `first`, to all queries that may see some of it.
    #[inline(always)]
    pub(super) fn show<L: Lanes>(&self, first: usize, queries: &mut Queries) {
        let mut query = queries.visible.partition_point(|visible| *visible <= first);
        let scoring = queries.scoring;
        let reaches = |visible: &usize| scoring.first_seen(*visible) < first + TILE;
        let end = queries.visible.partition_point(reaches);
        while query < end {
            match (end - query).min(L::QUERIES_AT_ONCE) {
                1 => self.show_to::<L, 1>(first, query, queries),
                2 => self.show_to::<L, 2>(first, query, queries),
                3 => self.show_to::<L, 3>(first, query, queries),
                _ => self.show_to::<L, 4>(first, query, queries),
            }
            query += L::QUERIES_AT_ONCE;
        }
    }

    #[inline(always)]
    fn show_to<L: Lanes, const Q: usize>(&self, first: usize, at: usize, queries: &mut Queries) {
        let ranges: [Range<usize>; Q] = std::array::from_fn(|query| {
            let end = (queries.visible[at + query] - first).min(TILE);
            queries.first_seen(at + query).saturating_sub(first)..end
        });
        let scores = self.scores::<L, Q>(at, queries);
        let mut weights = [[0.0; TILE]; Q];
        let mut shrinks = [0.0; WIDTH];
        let seen = &mut queries.seen;
        for query in 0..Q {
            let [mut low, mut high] = scores[query];
            if let Some(cap) = queries.scoring.cap {
                (low, high) = (capped(low, cap), capped(high, cap));
            }
            let [low, high] = masked([low, high], &ranges[query]);
            let greatest = greatest(seen.of_mut(at + query));
            let before = *greatest;
            let here = max(low.max(high));
            *greatest = if here > before { here } else { before };
            shrinks[query] = before - *greatest;
            let greatest = L::splat(*greatest);
            let weigh = [exp(low.sub(greatest)), exp(high.sub(greatest))];
            store(weigh, &mut weights[query]);
        }
        exp(L::load(&shrinks)).store(&mut shrinks);
        for query in 0..Q {
            let [low, high] = load::<L>(&weights[query]);
            let weight_sum = weight_sum(seen.of_mut(at + query));
            *weight_sum = weight_sum.mul_add(shrinks[query], sum(low.add(high)));
        }
        let weighed = Weighed {
            ranges,
            weights,
            shrinks,
        };
        self.add_values::<L, Q>(at, &weighed, seen);
    }

    #[inline(always)]
    fn scores<L: Lanes, const Q: usize>(&self, at: usize, queries: &Queries) -> [[L; 2]; Q] {
        let head_dim = self.keys.len();
        let vectors: [&[f32]; Q] =
            std::array::from_fn(|query| &queries.vectors[(at + query) * head_dim..][..head_dim]);
        let mut scores = [[L::splat(0.0); 2]; Q];
        for (channel, keys) in self.keys.iter().enumerate() {
            let [low, high] = load::<L>(keys);
            for (scores, vector) in scores.iter_mut().zip(vectors) {
                let element = L::splat(vector[channel]);
                scores[0] = element.mul_add(low, scores[0]);
                scores[1] = element.mul_add(high, scores[1]);
            }
        }
        scores
    }

    #[inline(always)]
    fn add_values<L: Lanes, const Q: usize>(
        &self,
        at: usize,
        weighed: &Weighed<Q>,
        seen: &mut Seen,
    ) {
        let Weighed {
            ranges,
            weights,
            shrinks,
        } = weighed;
        let pieces = pieces(self.head_dim);
        // Rows ascend: the last query begins last, the first one ends first.
        let common = ranges[Q - 1].start..ranges[0].end;
        for piece in 0..pieces {
            let mut sums = [[L::splat(0.0); 2]; Q];
            for (query, sums) in sums.iter_mut().enumerate() {
                let [low, high] = load::<L>(&seen.of(at + query)[1 + piece]);
                let shrink = L::splat(shrinks[query]);
                *sums = [low.mul(shrink), high.mul(shrink)];
            }
            for (query, range) in ranges.iter().enumerate() {
                let before = range.start..common.start.min(range.end);
                self.add_own(piece, before, &weights[query], &mut sums[query]);
            }
            let column = self.values[piece..].iter().step_by(pieces);
            let seen_by_all = column.enumerate().take(common.end).skip(common.start);
            for (position, values) in seen_by_all {
                let [low, high] = load::<L>(values);
                for (sums, weights) in sums.iter_mut().zip(weights) {
                    let weight = L::splat(weights[position]);
                    sums[0] = weight.mul_add(low, sums[0]);
                    sums[1] = weight.mul_add(high, sums[1]);
                }
            }
            for (query, range) in ranges.iter().enumerate() {
                let after = common.end.max(common.start).max(range.start)..range.end;
                self.add_own(piece, after, &weights[query], &mut sums[query]);
                store(sums[query], &mut seen.of_mut(at + query)[1 + piece]);
            }
        }
    }

    /// The values of positions that one query sees and not all.
    #[inline(always)]
    fn add_own<L: Lanes>(
        &self,
        piece: usize,
        positions: Range<usize>,
        weights: &[f32; TILE],
        sums: &mut [L; 2],
    ) {
        let pieces = pieces(self.head_dim);
        for position in positions {
            let [low, high] = load::<L>(&self.values[position * pieces + piece]);
            let weight = L::splat(weights[position]);
            sums[0] = weight.mul_add(low, sums[0]);
            sums[1] = weight.mul_add(high, sums[1]);
        }
    }
}

// Instructions are inlined into functions and not into closures, which do not know the tier: none
// of the above may hand lanes to one.

#[inline(always)]
fn load<L: Lanes>(from: &[f32; TILE]) -> [L; 2] {
    let (halves, _) = from.as_chunks::<WIDTH>();
    [L::load(&halves[0]), L::load(&halves[1])]
}

#[inline(always)]
fn store<L: Lanes>(lanes: [L; 2], to: &mut [f32; TILE]) {
    let (halves, _) = to.as_chunks_mut::<WIDTH>();
    lanes[0].store(&mut halves[0]);
    lanes[1].store(&mut halves[1]);
}

/// Scores outside of `range` are those of nothing.
#[inline(always)]
fn masked<L: Lanes>(scores: [L; 2], range: &Range<usize>) -> [L; 2] {
    if *range == (0..TILE) {
        return scores;
    }
    let mut all = [0.0; TILE];
    store(scores, &mut all);
    all[..range.start].fill(f32::NEG_INFINITY);
    all[range.end..].fill(f32::NEG_INFINITY);
    load(&all)
}

#[inline(always)]
fn widen(from: &[u16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32::from_bits(u32::from(*from) << 16);
    }
}
