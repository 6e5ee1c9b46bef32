//! What one step of the model is asked to compute, and what comes back.
//!
//! The only types that the scheduler and a backend share. No tensors: a backend turns these
//! numbers into whatever its device wants.

use crate::sampling::{Sampling, TokenLogprob};

/// A request inside the engine; unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// A physical KV block: `block_size` token slots in every layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// Every layer's keys and values of one block, to be written to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// What is read. A sequence that begins like its text has found it.
    pub from: BlockId,
    /// What is overwritten.
    pub to: BlockId,
}

/// A token of the model's vocabulary.
pub type TokenId = u32;

/// One step: prefill chunks and decodes mixed, in the scheduler's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepBatch {
    /// Blocks to be copied before anything of this step is computed, one after the other: a
    /// block may be the source of one copy and the target of a later one.
    pub copies: Vec<BlockCopy>,
    /// Every sequence that computes at least one token in this step.
    pub sequences: Vec<StepSequence>,
}

/// The part of a step that belongs to one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSequence {
    /// Whose tokens these are.
    pub id: SequenceId,
    /// Tokens to compute now, at least one.
    pub tokens: Vec<TokenId>,
    /// Position of `tokens[0]`, counted from 0 at the start of the prompt.
    pub first_position: usize,
    /// Block table: covers positions `0..first_position + tokens.len()`, in order.
    pub blocks: Vec<BlockId>,
    /// Present when the last token's logits are to be sampled (the prompt is complete).
    pub sample: Option<SampleRow>,
}

/// What sampling one row needs beside its logits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleRow {
    /// The request's sampling settings.
    pub sampling: Sampling,
    /// How many tokens the request has generated so far; the counter of its random stream.
    pub output_position: u64,
    /// Tokens that may not be chosen now (stop tokens before `min_tokens` is reached).
    pub forbidden: Vec<TokenId>,
    /// Prompt and output so far, where the settings look back; else empty.
    pub history: Vec<TokenId>,
}

/// One sampled token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Whose token it is.
    pub id: SequenceId,
    /// The token.
    pub token: TokenId,
    /// Natural logarithm of its probability under the unprocessed logits.
    pub logprob: f32,
    /// The most likely tokens, best first; as many as the row asks for.
    pub top_logprobs: Vec<TokenLogprob>,
}

impl StepBatch {
    /// Tokens computed in this step, over all sequences.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.sequences
            .iter()
            .map(|sequence| sequence.tokens.len())
            .sum()
    }
}

// === impl SampleRow ===

impl SampleRow {
    /// The output so far, where the settings look back.
    pub(crate) fn output(&self) -> &[TokenId] {
        let count = usize::try_from(self.output_position).unwrap_or(usize::MAX);
        &self.history[self.history.len().saturating_sub(count)..]
    }

    /// Whether the chosen token's logit may differ from the model's.
    pub(crate) fn changes_logits(&self) -> bool {
        !self.forbidden.is_empty() || self.sampling.rules.is_some() || self.sampling.looks_back()
    }
}
