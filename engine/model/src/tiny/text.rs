//! Texts for the tiny model, and the steps that compute them.

use std::ops::Range;

use berth_engine_core::batch::{BlockId, SampleRow, SequenceId, StepBatch, StepSequence, TokenId};
use berth_engine_core::sampling::Sampling;

/// One sequence's tokens and where its keys and values go.
pub(crate) struct Text {
    pub(crate) id: u64,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) blocks: Vec<u32>,
}

// === impl Text ===

impl Text {
    pub(crate) fn new(id: u64, length: u32, blocks: impl IntoIterator<Item = u32>) -> Self {
        let seed = u32::try_from(id).expect("small");
        let tokens = (0..length)
            .map(|index| (index * 37 + seed * 11 + 5) % 101)
            .collect();
        Self {
            id,
            tokens,
            blocks: blocks.into_iter().collect(),
        }
    }

    /// Computes these positions; their last one is sampled greedily.
    pub(crate) fn rows(&self, positions: Range<usize>) -> StepSequence {
        StepSequence {
            id: SequenceId(self.id),
            tokens: self.tokens[positions.clone()].to_vec(),
            first_position: positions.start,
            blocks: self.blocks.iter().copied().map(BlockId).collect(),
            sample: Some(SampleRow {
                sampling: Sampling::greedy(),
                ..SampleRow::default()
            }),
        }
    }

    /// All positions, in steps of `chunk`.
    pub(crate) fn in_chunks(&self, chunk: usize) -> Vec<StepBatch> {
        let length = self.tokens.len();
        (0..length)
            .step_by(chunk)
            .map(|first| batch([self.rows(first..(first + chunk).min(length))]))
            .collect()
    }
}

/// One step of these.
pub(crate) fn batch(sequences: impl IntoIterator<Item = StepSequence>) -> StepBatch {
    StepBatch {
        copies: Vec::new(),
        sequences: sequences.into_iter().collect(),
    }
}
