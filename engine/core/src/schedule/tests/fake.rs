//! A fake model that really reads the paged cache, and requests for it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::super::*;
use crate::batch::{BlockCopy, SampleRow, StepSequence};
use crate::policy::Terms;
use crate::sampling::Sampling;

const VOCAB_SIZE: u64 = 50;

/// Token slots by (block, offset): what the cache holds.
pub(super) struct FakeModel {
    block_size: usize,
    slots: BTreeMap<(u32, usize), TokenId>,
}

impl FakeModel {
    pub(super) fn new(block_size: usize) -> Self {
        Self {
            block_size,
            slots: BTreeMap::new(),
        }
    }

    pub(super) fn step(&mut self, batch: &StepBatch) -> Vec<Sampled> {
        batch.copies.iter().for_each(|copy| self.copy(*copy));
        batch
            .sequences
            .iter()
            .for_each(|sequence| self.write(sequence));
        let rows = batch.sequences.iter();
        rows.filter_map(|sequence| {
            let row = sequence.sample.as_ref()?;
            let token = next_token(&self.read(sequence), row);
            Some(Sampled {
                id: sequence.id,
                token,
                logprob: 0.0,
                top_logprobs: vec![],
            })
        })
        .collect()
    }

    /// What the target held is gone, as when a whole block is overwritten.
    fn copy(&mut self, BlockCopy { from, to }: BlockCopy) {
        for offset in 0..self.block_size {
            match self.slots.get(&(from.0, offset)).copied() {
                Some(token) => self.slots.insert((to.0, offset), token),
                None => self.slots.remove(&(to.0, offset)),
            };
        }
    }

    fn write(&mut self, sequence: &StepSequence) {
        for (offset, token) in sequence.tokens.iter().enumerate() {
            let slot = self.slot(sequence, sequence.first_position + offset);
            self.slots.insert(slot, *token);
        }
    }

    fn read(&self, sequence: &StepSequence) -> Vec<TokenId> {
        let end = sequence.first_position + sequence.tokens.len();
        (0..end)
            .map(|position| self.slots[&self.slot(sequence, position)])
            .collect()
    }

    fn slot(&self, sequence: &StepSequence, position: usize) -> (u32, usize) {
        (
            sequence.blocks[position / self.block_size].0,
            position % self.block_size,
        )
    }
}

fn next_token(context: &[TokenId], row: &SampleRow) -> TokenId {
    (0_u64..)
        .map(|salt| {
            let mut hasher = DefaultHasher::new();
            (context, row.sampling.seed, row.output_position, salt).hash(&mut hasher);
            u32::try_from(hasher.finish() % VOCAB_SIZE).unwrap()
        })
        .find(|token| !row.forbidden.contains(token))
        .unwrap()
}

pub(super) fn request(id: u64, prompt_count: usize, max_tokens: usize) -> Request {
    let first = u32::try_from(id).unwrap() * 1000;
    Request {
        id: SequenceId(id),
        prompt: (0..prompt_count)
            .map(|n| first + u32::try_from(n).unwrap())
            .collect(),
        sampling: Sampling {
            temperature: 1.0,
            seed: id,
            ..Sampling::default()
        },
        max_tokens,
        min_tokens: 0,
        stop_token_ids: vec![],
        terms: Terms::default(),
    }
}

pub(super) fn limits() -> Limits {
    Limits {
        max_num_seqs: 8,
        max_num_batched_tokens: 16,
        max_model_len: 64,
        block_size: 4,
        block_count: 64,
        max_waiting: 64,
        rules: Rules::default(),
    }
}

/// What one request alone gives, by the plain rule, without any scheduler.
pub(super) fn expected(request: &Request, max_model_len: usize) -> (Vec<TokenId>, FinishReason) {
    let mut context = request.prompt.clone();
    let mut output = vec![];
    loop {
        let row = SampleRow {
            sampling: request.sampling.clone(),
            output_position: output.len() as u64,
            history: vec![],
            forbidden: if output.len() < request.min_tokens {
                request.stop_token_ids.clone()
            } else {
                vec![]
            },
        };
        let token = next_token(&context, &row);
        context.push(token);
        output.push(token);
        if request.stop_token_ids.contains(&token) {
            return (output, FinishReason::Stop);
        }
        if output.len() >= request.max_tokens || context.len() >= max_model_len {
            return (output, FinishReason::Length);
        }
    }
}
