//! One request inside the scheduler: its tokens, how many are computed, when it ends.
//!
//! ```text
//! submit ──► waiting ──► running ──► finished (stop, length)
//!               ▲           │
//!               └─preempted─┘        abort leaves from either
//! ```

use crate::batch::{BlockId, SampleRow, SequenceId, StepSequence, TokenId};
use crate::cache::{BlockCache, Holding};
use crate::policy::{TenantId, Terms, Turn};
use crate::prefix::Chain;
use crate::sampling::Sampling;

/// What a client asked for, in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Unique for the life of the scheduler.
    pub id: SequenceId,
    /// The prompt, not empty.
    pub prompt: Vec<TokenId>,
    /// How each next token is chosen.
    pub sampling: Sampling,
    /// Output tokens after which the sequence ends, at least 1.
    pub max_tokens: usize,
    /// Output tokens before which no stop token may be chosen.
    pub min_tokens: usize,
    /// Tokens that end the sequence: the model's end-of-sequence tokens, unless they are to be
    /// ignored, and the request's own.
    pub stop_token_ids: Vec<TokenId>,
    /// What it asks of the scheduler.
    pub terms: Terms,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FinishReason {
    /// It chose a stop token, or its text reached a stop string.
    Stop,
    /// It reached `max_tokens` or the model's length.
    Length,
    /// Its client left, or the engine gave it up.
    Abort,
}

/// A request with its state; lives in the waiting queue or among the running.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) turn: Turn,
    pub(crate) tenant: TenantId,
    /// Prompt tokens that it did not have to compute; none before it first ran.
    pub(crate) hit_count: Option<usize>,
    sampling: Sampling,
    max_tokens: usize,
    min_tokens: usize,
    stop_token_ids: Vec<TokenId>,
    /// Prompt, then output.
    tokens: Vec<TokenId>,
    prompt_count: usize,
    /// Leading tokens whose keys and values are in `blocks`, those of the step in flight included.
    computed_count: usize,
    /// Names of the texts that its full blocks end.
    chain: Chain,
    /// Leading tokens that are computed for sure: their step is over.
    done_count: usize,
    /// Changed only by the scheduler, which pairs each change with its pool.
    pub(crate) blocks: Vec<BlockId>,
}

// === impl Sequence ===

impl Sequence {
    /// `max_model_len` bounds prompt and output together.
    pub(crate) fn new(request: Request, turn: Turn, max_model_len: usize) -> Self {
        let prompt_count = request.prompt.len();
        Self {
            id: request.id,
            turn,
            tenant: request.terms.tenant,
            hit_count: None,
            sampling: request.sampling,
            max_tokens: request.max_tokens.min(max_model_len - prompt_count),
            min_tokens: request.min_tokens,
            stop_token_ids: request.stop_token_ids,
            tokens: request.prompt,
            prompt_count,
            computed_count: 0,
            chain: Chain::new(request.terms.cache_salt.as_deref()),
            done_count: 0,
            blocks: vec![],
        }
    }

    pub(crate) fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// Its text, and the names of what of it fills blocks.
    pub(crate) fn text(&mut self) -> (&[TokenId], &mut Chain) {
        (&self.tokens, &mut self.chain)
    }

    /// Begins to run in these blocks, of whose tokens `hit_count` need not be computed.
    pub(crate) fn begin(&mut self, blocks: Vec<BlockId>, hit_count: usize, block_size: usize) {
        self.blocks = blocks;
        self.computed_count = hit_count;
        // What is copied is not there before the step.
        self.done_count = hit_count / block_size * block_size;
        let of_prompt = hit_count.min(self.prompt_count);
        self.hit_count.get_or_insert(of_prompt);
    }

    /// After a step: the blocks that became full in it can be found by others.
    pub(crate) fn commit(&mut self, cache: &mut BlockCache, block_size: usize) {
        let (before, now) = (
            self.done_count / block_size,
            self.computed_count / block_size,
        );
        if now > before {
            cache.commit(self.holding(), before..now);
        }
        self.done_count = self.computed_count;
    }

    /// Gives its blocks back.
    pub(crate) fn release(&mut self, cache: &mut BlockCache) {
        let done_count = self.done_count;
        cache.release(&mut self.holding(), done_count);
    }

    fn holding(&mut self) -> Holding<'_> {
        Holding {
            tokens: &self.tokens,
            chain: &mut self.chain,
            blocks: &mut self.blocks,
        }
    }

    /// Tokens whose keys and values must be in the cache at the longest: all but the last chosen.
    pub(crate) fn cached_count_max(&self) -> usize {
        self.prompt_count + self.max_tokens - 1
    }

    /// Tokens still to be computed before the next one can be chosen.
    pub(crate) fn remaining_count(&self) -> usize {
        self.tokens.len() - self.computed_count
    }

    /// Where its next token is.
    pub(crate) fn position(&self) -> usize {
        self.computed_count
    }

    /// Cache positions that the next `count` tokens reach up to.
    pub(crate) fn position_after(&self, count: usize) -> usize {
        self.computed_count + count
    }

    /// Takes the next `count` tokens into a step. `block_count` blocks cover them.
    pub(crate) fn take(&mut self, count: usize, block_count: usize) -> StepSequence {
        let first_position = self.computed_count;
        self.computed_count += count;
        let completes = self.computed_count == self.tokens.len();
        StepSequence {
            id: self.id,
            tokens: self.tokens[first_position..self.computed_count].to_vec(),
            first_position,
            blocks: self.blocks[..block_count].to_vec(),
            sample: completes.then(|| self.sample_row()),
        }
    }

    /// Appends a chosen token and says whether that ends the sequence.
    pub(crate) fn append(&mut self, token: TokenId) -> Option<FinishReason> {
        self.tokens.push(token);
        // The model's own wish to end is the more telling reason when both hold.
        if self.output_count() > self.min_tokens && self.stop_token_ids.contains(&token) {
            return Some(FinishReason::Stop);
        }
        (self.output_count() >= self.max_tokens).then_some(FinishReason::Length)
    }

    /// Forgets what was computed; the blocks must have been given back.
    pub(crate) fn rewind(&mut self) {
        debug_assert!(self.blocks.is_empty(), "a rewound sequence holds no blocks");
        self.computed_count = 0;
        self.done_count = 0;
    }

    /// The random stream is counted in output tokens, so a recomputed sequence continues it.
    fn sample_row(&self) -> SampleRow {
        let output_count = self.output_count();
        SampleRow {
            sampling: self.sampling.clone(),
            output_position: output_count as u64,
            forbidden: if output_count < self.min_tokens {
                self.stop_token_ids.clone()
            } else {
                vec![]
            },
            history: if self.sampling.looks_back() {
                self.tokens.clone()
            } else {
                vec![]
            },
        }
    }

    fn output_count(&self) -> usize {
        self.tokens.len() - self.prompt_count
    }
}
