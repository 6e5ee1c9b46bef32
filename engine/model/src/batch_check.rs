//! Whether a batch can be run at all, by any backend.

use berth_engine_core::batch::{StepBatch, StepSequence};

use crate::backend::{CacheShape, StepError};

/// Checks every sequence of `batch` against the cache and the vocabulary.
///
/// # Errors
/// Names the first sequence that cannot be, and why.
pub(crate) fn check(
    batch: &StepBatch,
    shape: CacheShape,
    vocab_size: usize,
) -> Result<(), StepError> {
    check_copies(batch, shape)?;
    batch.sequences.iter().try_for_each(|sequence| {
        check_sequence(sequence, shape, vocab_size).map_err(|reason| StepError::Batch {
            sequence: sequence.id,
            reason,
        })
    })
}

fn check_copies(batch: &StepBatch, shape: CacheShape) -> Result<(), StepError> {
    let ends = batch.copies.iter().flat_map(|copy| [copy.from, copy.to]);
    match ends
        .into_iter()
        .find(|block| !below(block.0, shape.block_count))
    {
        Some(block) => Err(StepError::Copy {
            block,
            block_count: shape.block_count,
        }),
        None => Ok(()),
    }
}

fn below(id: u32, count: usize) -> bool {
    usize::try_from(id).is_ok_and(|id| id < count)
}

fn check_sequence(
    sequence: &StepSequence,
    shape: CacheShape,
    vocab_size: usize,
) -> Result<(), String> {
    if sequence.tokens.is_empty() {
        return Err("has no tokens".to_owned());
    }
    if let Some(token) = sequence
        .tokens
        .iter()
        .find(|&&token| !below(token, vocab_size))
    {
        return Err(format!(
            "token {token} is not among the {vocab_size} of the model"
        ));
    }
    let end = sequence.first_position.checked_add(sequence.tokens.len());
    let slots = sequence.blocks.len().saturating_mul(shape.block_size);
    if end.is_none_or(|end| end > slots) {
        return Err(format!(
            "its {} blocks do not cover its positions",
            sequence.blocks.len()
        ));
    }
    if let Some(block) = sequence
        .blocks
        .iter()
        .find(|block| !below(block.0, shape.block_count))
    {
        return Err(format!(
            "block {} is not among the {}",
            block.0, shape.block_count
        ));
    }
    Ok(())
}
