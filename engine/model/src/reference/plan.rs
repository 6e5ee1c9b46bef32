//! A step's tokens as rows, checked against the model and its cache.

use berth_engine_core::batch::{StepBatch, StepSequence, TokenId};
use candle_core::{Device, Tensor};

use crate::backend::{CacheShape, StepError};
use crate::batch_check::check;

/// Every token of a step is one row; a sequence's rows follow one another.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) positions: Vec<usize>,
    pub(crate) sequences: Vec<Rows>,
    /// Rows whose logits are sampled, in the order of the batch's sequences that ask for it.
    pub(crate) sampled_rows: Vec<u32>,
}

/// The rows of one sequence.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) first_row: usize,
    pub(crate) count: usize,
    pub(crate) first_position: usize,
    /// Blocks that hold a position of this or an earlier step.
    pub(crate) blocks: Vec<usize>,
    /// The same, u32.
    pub(crate) block_ids: Tensor,
}

// === impl Plan ===

impl Plan {
    pub(crate) fn new(
        batch: &StepBatch,
        shape: CacheShape,
        vocab_size: usize,
    ) -> Result<Self, StepError> {
        check(batch, shape, vocab_size)?;
        let mut plan = Self {
            tokens: Vec::with_capacity(batch.token_count()),
            positions: Vec::with_capacity(batch.token_count()),
            sequences: Vec::with_capacity(batch.sequences.len()),
            sampled_rows: Vec::new(),
        };
        for sequence in &batch.sequences {
            plan.add(sequence, shape.block_size)?;
        }
        Ok(plan)
    }

    fn add(&mut self, sequence: &StepSequence, block_size: usize) -> Result<(), StepError> {
        let count = sequence.tokens.len();
        let end = sequence.first_position + count;
        let blocks = &sequence.blocks[..end.div_ceil(block_size)];
        let ids: Vec<u32> = blocks.iter().map(|block| block.0).collect();
        let rows = Rows {
            first_row: self.tokens.len(),
            count,
            first_position: sequence.first_position,
            blocks: ids.iter().map(|&id| id as usize).collect(),
            block_ids: Tensor::new(ids, &Device::Cpu)
                .map_err(|source| StepError::Compute { layer: 0, source })?,
        };
        self.tokens.extend(&sequence.tokens);
        self.positions.extend(sequence.first_position..end);
        if sequence.sample.is_some() {
            let last = u32::try_from(self.tokens.len() - 1).expect("a step has under 2^32 rows");
            self.sampled_rows.push(last);
        }
        self.sequences.push(rows);
        Ok(())
    }
}
