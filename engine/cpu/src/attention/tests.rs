//! Attention against its formula, and against itself however work is cut.

use berth_engine_core::batch::{BlockId, SequenceId};
use half::bf16;
use proptest::prelude::*;

use super::unit::FEW_ROWS;
use super::*;

/// One sequence's projections, position by position, and where its keys and values go.
#[derive(Clone)]
struct Text {
    shape: AttentionShape,
    scoring: Scoring,
    /// `[position][queries, keys, values]`.
    rows: Vec<Vec<f32>>,
    blocks: Vec<u32>,
}

// === impl Text ===

impl Text {
    /// Pseudo-random rows; blocks from `first_block` on, every third.
    fn new(shape: AttentionShape, seed: u32, length: usize, first_block: usize) -> Self {
        let mut state = seed.wrapping_mul(747_796_405) + 1;
        let width = shape.query_width() + 2 * shape.kv_width();
        let rows = (0..length)
            .map(|_| (0..width).map(|_| random(&mut state)).collect())
            .collect();
        let blocks = (0..length.div_ceil(shape.block_size)).map(|index| first_block + 3 * index);
        let blocks = blocks.map(|block| u32::try_from(block).unwrap()).collect();
        Self {
            shape,
            scoring: Scoring::plain(shape.head_dim),
            rows,
            blocks,
        }
    }

    fn step(&self, positions: Range<usize>) -> StepSequence {
        StepSequence {
            id: SequenceId(0),
            tokens: vec![0; positions.len()],
            first_position: positions.start,
            blocks: self.blocks.iter().copied().map(BlockId).collect(),
            sample: None,
        }
    }

    /// What the formula says of one position, in f64.
    fn expected(&self, position: usize) -> Vec<f64> {
        let shape = self.shape;
        let (query_width, kv_width, dim) = (shape.query_width(), shape.kv_width(), shape.head_dim);
        let stored =
            |position: usize, at: usize| f64::from(bf16::from_f32(self.rows[position][at]));
        let mut out = Vec::with_capacity(query_width);
        for head in 0..query_width / dim {
            let query = &self.rows[position][head * dim..][..dim];
            let from = query_width + head / shape.heads_per_group * dim;
            let score = |other: usize| {
                let keys = (0..dim).map(|channel| stored(other, from + channel));
                let dot: f64 = keys
                    .zip(query)
                    .map(|(key, query)| key * f64::from(*query))
                    .sum();
                let score = dot * f64::from(self.scoring.scale);
                let cap = self.scoring.cap.map(f64::from);
                cap.map_or(score, |cap| cap * (score / cap).tanh()).exp()
            };
            let first = self.scoring.first_seen(position + 1);
            let weights: Vec<f64> = (first..=position).map(score).collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..dim).map(|channel| {
                let values =
                    (first..=position).map(|other| stored(other, from + kv_width + channel));
                values
                    .zip(&weights)
                    .map(|(value, weight)| value * weight / total)
                    .sum::<f64>()
            }));
        }
        out
    }
}

fn random(state: &mut u32) -> f32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    f32::from(i16::try_from(*state >> 17).unwrap() - 16_384) / 8_192.0
}

/// Runs steps of `(text, positions)`; each text's rows of output, in order.
fn run(
    tier: Tier,
    worker_count: usize,
    texts: &[Text],
    steps: &[Vec<(usize, Range<usize>)>],
) -> Vec<Vec<Vec<f32>>> {
    let shape = texts[0].shape;
    let mut team = Team::new(Some(worker_count)).unwrap();
    let mut cache = KvCache::new(shape);
    // What is in no sequence must not matter.
    cache.elements_mut().fill(bf16::NAN.to_bits());
    let mut attention = Attention::new(shape, tier, worker_count);
    let (query_width, kv_width) = (shape.query_width(), shape.kv_width());
    let mut outs = vec![Vec::new(); texts.len()];
    for step in steps {
        let sequences: Vec<StepSequence> = step
            .iter()
            .map(|(text, positions)| texts[*text].step(positions.clone()))
            .collect();
        let rows = || {
            step.iter()
                .flat_map(|(text, positions)| positions.clone().map(|position| (*text, position)))
        };
        let elements: Vec<f32> = rows()
            .flat_map(|(text, position)| texts[text].rows[position].clone())
            .collect();
        let columns = |first| Columns {
            elements: &elements,
            stride: query_width + 2 * kv_width,
            first,
        };
        let mut angles = Angles::new(shape.head_dim / 2, 1.0);
        rows().for_each(|_| angles.push(std::iter::repeat_n(0.0, shape.head_dim / 2)));
        let projected = Projected {
            sequences: &sequences,
            queries: columns(0),
            keys: columns(query_width),
            values: columns(query_width + kv_width),
            angles: &angles,
            scoring: texts[0].scoring,
        };
        let mut out = vec![f32::NAN; rows().count() * query_width];
        attention.write(&mut team, &mut cache, &projected);
        attention.attend(&mut team, &cache, &projected, &mut out);
        for ((text, _), row) in rows().zip(out.chunks_exact(query_width)) {
            outs[text].push(row.to_vec());
        }
    }
    outs
}

fn shape(kv_head_count: usize, heads_per_group: usize, head_dim: usize) -> AttentionShape {
    AttentionShape {
        kv_head_count,
        heads_per_group,
        head_dim,
        block_size: 16,
        block_count: 256,
    }
}

/// The whole text in steps of `chunk` positions.
fn in_chunks(text: usize, length: usize, chunk: usize) -> Vec<Vec<(usize, Range<usize>)>> {
    (0..length)
        .step_by(chunk)
        .map(|first| vec![(text, first..(first + chunk).min(length))])
        .collect()
}

#[track_caller]
fn check_formula(text: &Text, found: &[Vec<f32>]) {
    assert_eq!(found.len(), text.rows.len());
    for (position, row) in found.iter().enumerate() {
        for (found, expected) in row.iter().zip(text.expected(position)) {
            let error = (f64::from(*found) - expected).abs();
            assert!(
                error <= 1e-5,
                "position {position}: {found} is not {expected}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any heads, any block size, any window, any cut, every tier.
    #[test]
    fn it_is_that_of_the_formula_with_the_same_bits_on_every_tier_and_at_every_cut(
        (kv_head_count, heads_per_group, half) in (1_usize..4, 1_usize..6, 1_usize..25),
        block_size in prop::sample::select(vec![1_usize, 4, 16, 24, 32, 64]),
        length in 1_usize..90,
        chunk in 1_usize..40,
        worker_count in 1_usize..4,
        (window, cap) in (prop::option::of(1_usize..70), prop::option::of(0.5_f32..9.0)),
        seed in 0_u32..1_000,
    ) {
        let shape = AttentionShape { block_size, ..shape(kv_head_count, heads_per_group, 2 * half) };
        let text = [Text::new(shape, seed, length, 0)];
        let shape = AttentionShape { block_count: 3 * length.div_ceil(block_size), ..shape };
        let scoring = Scoring { window, cap, scale: 0.3 };
        let text = text.map(|text| Text { shape, scoring, ..text });
        let whole = run(Tier::Portable, 1, &text, &in_chunks(0, length, length));
        check_formula(&text[0], &whole[0]);
        for tier in Tier::here() {
            let cut = run(tier, worker_count, &text, &in_chunks(0, length, chunk));
            prop_assert!(cut == whole, "{:?}", tier);
        }
    }
}

#[test]
fn splits_are_merged_alike_in_prefill_and_decode() {
    for window in [None, Some(40), Some(SPLIT + 1), Some(2 * SPLIT - 100)] {
        check_splits(window);
    }
}

#[track_caller]
fn check_splits(window: Option<usize>) {
    let length = 2 * SPLIT + 70;
    let mut text = [Text::new(shape(2, 3, 16), 5, length, 0)];
    text[0].scoring.window = window;
    let whole = run(Tier::best(), 2, &text, &in_chunks(0, length, length));
    check_formula(&text[0], &whole[0]);
    for (tier, chunk) in Tier::here().into_iter().zip([1, FEW_ROWS, 64, 300, 7]) {
        // All but the last positions in one step, those in chunks: the splits' own units.
        let start = SPLIT - 3;
        let mut steps = vec![vec![(0, 0..start)]];
        steps.extend(in_chunks(0, length, chunk).into_iter().filter_map(|step| {
            let positions = step[0].1.start.max(start)..step[0].1.end;
            (!positions.is_empty()).then(|| vec![(0, positions)])
        }));
        let cut = run(tier, 3, &text, &steps);
        assert!(cut == whole, "{tier:?} in chunks of {chunk}, {window:?}");
    }
}

#[test]
fn neighbours_in_the_batch_change_nothing() {
    let shape = shape(3, 3, 8);
    let texts = [
        Text::new(shape, 1, 40, 0),
        Text::new(shape, 2, SPLIT + 20, 1),
        Text::new(shape, 3, 33, 2),
    ];
    let crowded = [
        vec![(1, 0..SPLIT), (0, 0..39), (2, 0..5)],
        vec![(2, 5..32), (1, SPLIT..SPLIT + 19)],
        vec![(0, 39..40), (1, SPLIT + 19..SPLIT + 20), (2, 32..33)],
    ];
    let together = run(Tier::best(), 2, &texts, &crowded);
    for (index, text) in texts.iter().enumerate() {
        let length = text.rows.len();
        let alone = run(
            Tier::best(),
            1,
            std::slice::from_ref(text),
            &in_chunks(0, length, length),
        );
        assert!(alone[0] == together[index], "text {index}");
    }
}

#[test]
fn what_is_no_number_spoils_no_row_that_does_not_see_it() {
    let shape = shape(1, 2, 4);
    let clean = [Text::new(shape, 9, 12, 0)];
    let clean_rows = run(Tier::best(), 1, &clean, &in_chunks(0, 12, 12));
    // A query, the key and the value at position 7.
    for (element, first, last) in [(0, 7, 7), (8, 7, 11), (12, 7, 11)] {
        let mut text = clean.clone();
        text[0].rows[7][element] = f32::NAN;
        for tier in Tier::here() {
            let spoilt = run(tier, 1, &text, &in_chunks(0, 12, 12));
            for (position, (spoilt, clean)) in spoilt[0].iter().zip(&clean_rows[0]).enumerate() {
                let is_seen = (first..=last).contains(&position);
                assert_eq!(spoilt.iter().any(|value| value.is_nan()), is_seen);
                assert!(is_seen || spoilt == clean, "{tier:?}: {position}");
            }
        }
    }
}
