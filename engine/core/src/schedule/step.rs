//! A step being put together.

use crate::batch::{SequenceId, StepBatch};
use crate::pace::Room;
use crate::sequence::Sequence;

/// What is in it, and what may still be added.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) batch: StepBatch,
    /// Tokens that may still be added.
    budget: usize,
    /// Time that prompts may still take.
    room: Room,
}

// === impl Step ===

impl Step {
    /// `expected_count` sequences will take part, or a few more.
    pub(super) fn new(budget: usize, room: Room, expected_count: usize) -> Self {
        let sequences = Vec::with_capacity(expected_count + expected_count / 8);
        Self {
            batch: StepBatch {
                sequences,
                ..StepBatch::default()
            },
            budget,
            room,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.budget == 0
    }

    /// How many of a sequence's next `wanted` tokens there is room for, the first at `position`.
    /// Whoever asks takes them: what prompts may take is used up.
    pub(super) fn claim(&mut self, position: usize, wanted: usize) -> usize {
        let count = wanted.min(self.budget);
        // One token is a decode, or as cheap as one.
        if count > 1 {
            return self.room.take(position, count);
        }
        count
    }

    /// Adds the sequence's next tokens, for which it has blocks.
    pub(super) fn add(&mut self, sequence: &mut Sequence, count: usize, block_count: usize) {
        self.batch.sequences.push(sequence.take(count, block_count));
        self.budget -= count;
    }

    /// Takes out what was added of a sequence that gives way.
    pub(super) fn remove(&mut self, id: SequenceId) {
        let sequences = &mut self.batch.sequences;
        if let Some(index) = sequences.iter().position(|part| part.id == id) {
            self.budget += sequences.remove(index).tokens.len();
        }
    }
}
