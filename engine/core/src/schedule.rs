//! Which tokens the next step computes: continuous batching over one token budget.
//!
//! There is no prefill or decode phase: each step gives every sequence as many of its
//! uncomputed tokens as the budget allows, running sequences first, then waiting ones in order
//! of arrival. A sequence is admitted only when blocks for all its tokens are free, and holds
//! them from then on; so only growth by output tokens can fail, and then the sequence admitted
//! last gives way: its blocks are freed, it goes to the front of the queue, and is recomputed
//! (Kwon et al. 2023, section 4.5). The oldest running sequence is never preempted for another, so
//! each finishes in turn.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use crate::batch::{Sampled, SequenceId, StepBatch, TokenId};
use crate::blocks::BlockPool;
use crate::sampling::TokenLogprob;
use crate::sequence::{FinishReason, Request, Sequence};

#[cfg(test)]
mod tests;

/// What bounds a scheduler. All are at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that run at a time.
    pub max_num_seqs: usize,
    /// Tokens in one step.
    pub max_num_batched_tokens: usize,
    /// Prompt and output of one sequence together, in tokens.
    pub max_model_len: usize,
    /// Tokens in a KV block.
    pub block_size: usize,
    /// KV blocks.
    pub block_count: u32,
    /// Requests that wait at a time; more are rejected.
    pub max_waiting: usize,
}

/// Chooses steps and keeps each sequence's state between them.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    /// In order of admission; the last gives way first.
    running: Vec<Sequence>,
    /// In order of arrival, preempted sequences before all others.
    waiting: VecDeque<Sequence>,
    preemption_count: u64,
}

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// As many requests wait as are allowed to; try again later.
    QueueFull {
        /// The bound.
        max_waiting: usize,
    },
    /// There is nothing to continue.
    EmptyPrompt,
    /// `max_tokens` is 0.
    NoOutputWanted,
    /// The prompt leaves no room for one output token.
    PromptTooLong {
        /// Tokens in the prompt.
        prompt_count: usize,
        /// The bound on prompt and output together, in tokens.
        max_model_len: usize,
    },
    /// Not even an empty cache could hold the sequence to its end.
    NeverFits {
        /// Blocks that it could need.
        needed: usize,
        /// Blocks that exist.
        block_count: usize,
    },
}

/// One new token of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Whose token it is.
    pub id: SequenceId,
    /// The token. With [`FinishReason::Stop`] it is the stop token, which is not text.
    pub token: TokenId,
    /// Natural logarithm of its probability under the unprocessed logits.
    pub logprob: f32,
    /// The most likely tokens, best first; as many as were asked for.
    pub top_logprobs: Vec<TokenLogprob>,
    /// Present on the sequence's last token.
    pub finish: Option<FinishReason>,
}

/// How full the scheduler is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that hold blocks.
    pub running_count: usize,
    /// Sequences that wait, preempted ones included.
    pub waiting_count: usize,
    /// Blocks held by sequences.
    pub used_block_count: usize,
    /// Blocks in the pool.
    pub block_count: usize,
    /// Preemptions since the start.
    pub preemption_count: u64,
}

// === impl Scheduler ===

impl Scheduler {
    /// A scheduler with an empty cache.
    ///
    /// # Panics
    /// When a limit is 0.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        assert!(
            limits.max_num_seqs > 0
                && limits.max_num_batched_tokens > 0
                && limits.max_model_len > 0
                && limits.block_size > 0
                && limits.block_count > 0
                && limits.max_waiting > 0,
            "limits are positive"
        );
        Self {
            limits,
            pool: BlockPool::new(limits.block_count),
            running: vec![],
            waiting: VecDeque::new(),
            preemption_count: 0,
        }
    }

    /// Queues a request; once accepted it will finish, unless it is aborted.
    ///
    /// # Errors
    /// When the queue is full or the request can never be computed.
    pub fn submit(&mut self, request: Request) -> Result<(), Rejected> {
        self.check(&request)?;
        let sequence = Sequence::new(request, self.limits.max_model_len);
        let needed = self.blocks_for(sequence.cached_count_max());
        let block_count = self.pool.block_count();
        if needed > block_count {
            return Err(Rejected::NeverFits {
                needed,
                block_count,
            });
        }
        self.waiting.push_back(sequence);
        Ok(())
    }

    /// Drops a sequence and frees its blocks; false when it is not known (any more).
    pub fn abort(&mut self, id: SequenceId) -> bool {
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            let sequence = self.running.remove(index);
            self.pool.release(&sequence.blocks);
            return true;
        }
        let queued = self.waiting.iter().position(|sequence| sequence.id == id);
        queued
            .and_then(|index| self.waiting.remove(index))
            .is_some()
    }

    /// The next step; none when there is nothing to compute. Its samples go to
    /// [`advance`](Self::advance).
    #[expect(
        clippy::should_implement_trait,
        reason = "a scheduler is no iterator: it has more"
    )]
    pub fn next(&mut self) -> Option<StepBatch> {
        let mut step = Step::new(self.limits.max_num_batched_tokens);
        let preempted = self.schedule_running(&mut step);
        // What was just preempted must not take the freed blocks back in the same step.
        if !preempted {
            self.admit_waiting(&mut step);
        }
        (!step.batch.sequences.is_empty()).then_some(step.batch)
    }

    /// Gives each sequence its sampled token; those that end leave and free their blocks.
    /// Samples of sequences that were aborted meanwhile are ignored.
    pub fn advance(&mut self, sampled: &[Sampled]) -> Vec<Output> {
        let by_id: HashMap<SequenceId, &Sampled> =
            sampled.iter().map(|sample| (sample.id, sample)).collect();
        let mut outputs = Vec::with_capacity(sampled.len());
        let pool = &mut self.pool;
        self.running.retain_mut(|sequence| {
            let Some(sample) = by_id.get(&sequence.id) else {
                return true;
            };
            let finish = sequence.append(sample.token);
            outputs.push(Output {
                id: sample.id,
                token: sample.token,
                logprob: sample.logprob,
                top_logprobs: sample.top_logprobs.clone(),
                finish,
            });
            if finish.is_some() {
                pool.release(&sequence.blocks);
            }
            finish.is_none()
        });
        outputs
    }

    /// How full it is now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            running_count: self.running.len(),
            waiting_count: self.waiting.len(),
            used_block_count: self.pool.used_count(),
            block_count: self.pool.block_count(),
            preemption_count: self.preemption_count,
        }
    }

    /// Whether no sequence is left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    fn check(&self, request: &Request) -> Result<(), Rejected> {
        let Limits {
            max_waiting,
            max_model_len,
            ..
        } = self.limits;
        let prompt_count = request.prompt.len();
        if prompt_count == 0 {
            return Err(Rejected::EmptyPrompt);
        }
        if request.max_tokens == 0 {
            return Err(Rejected::NoOutputWanted);
        }
        if prompt_count >= max_model_len {
            return Err(Rejected::PromptTooLong {
                prompt_count,
                max_model_len,
            });
        }
        if self.waiting.len() >= max_waiting {
            return Err(Rejected::QueueFull { max_waiting });
        }
        Ok(())
    }

    /// Says whether a sequence had to give way.
    fn schedule_running(&mut self, step: &mut Step) -> bool {
        let preemptions_before = self.preemption_count;
        let mut index = 0;
        while index < self.running.len() && step.budget > 0 {
            let count = self.running[index].remaining_count().min(step.budget);
            if count > 0 {
                if !self.make_room(index, count) {
                    break;
                }
                self.take(index, count, step);
            }
            index += 1;
        }
        self.preemption_count > preemptions_before
    }

    fn admit_waiting(&mut self, step: &mut Step) {
        while step.budget > 0 && self.running.len() < self.limits.max_num_seqs {
            // Strictly in order: a short request behind a long one waits, so that none starves.
            let Some(head) = self.waiting.front() else {
                return;
            };
            let needed = self.blocks_for(head.token_count());
            let Some(blocks) = self.pool.allocate(needed) else {
                return;
            };
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            sequence.blocks = blocks;
            let count = sequence.remaining_count().min(step.budget);
            self.running.push(sequence);
            self.take(self.running.len() - 1, count, step);
        }
    }

    /// Gives the running sequence at `index` blocks for `count` more tokens, at the cost of
    /// those behind it; false when it had to give way itself.
    fn make_room(&mut self, index: usize, count: usize) -> bool {
        let sequence = &self.running[index];
        let needed = self.blocks_for(sequence.position_after(count));
        let missing = needed.saturating_sub(sequence.blocks.len());
        loop {
            if let Some(blocks) = self.pool.allocate(missing) {
                self.running[index].blocks.extend(blocks);
                return true;
            }
            self.preempt_last();
            if index == self.running.len() {
                return false;
            }
        }
    }

    fn preempt_last(&mut self) {
        let mut sequence = self
            .running
            .pop()
            .expect("only a running sequence asks for room");
        self.pool.release(&sequence.blocks);
        sequence.blocks.clear();
        sequence.rewind();
        self.waiting.push_front(sequence);
        self.preemption_count += 1;
    }

    fn take(&mut self, index: usize, count: usize, step: &mut Step) {
        let block_count = self.blocks_for(self.running[index].position_after(count));
        step.batch
            .sequences
            .push(self.running[index].take(count, block_count));
        step.budget -= count;
    }

    fn blocks_for(&self, token_count: usize) -> usize {
        token_count.div_ceil(self.limits.block_size)
    }
}

/// A step being put together.
struct Step {
    batch: StepBatch,
    /// Tokens that may still be added.
    budget: usize,
}

impl Step {
    fn new(budget: usize) -> Self {
        Self {
            batch: StepBatch::default(),
            budget,
        }
    }
}

// === impl Stats ===

impl Stats {
    /// Share of the blocks that is held, 0 to 1.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "block counts are far below 2^52"
    )]
    pub fn kv_cache_usage(&self) -> f64 {
        self.used_block_count as f64 / self.block_count.max(1) as f64
    }
}

// === impl Rejected ===

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueFull { max_waiting } => {
                write!(f, "{max_waiting} requests are waiting already")
            }
            Self::EmptyPrompt => write!(f, "the prompt has no tokens"),
            Self::NoOutputWanted => write!(f, "max_tokens is 0, at least 1 is needed"),
            Self::PromptTooLong {
                prompt_count,
                max_model_len,
            } => write!(
                f,
                "the prompt has {prompt_count} tokens, but prompt and output together may have \
                 {max_model_len}"
            ),
            Self::NeverFits {
                needed,
                block_count,
            } => {
                write!(
                    f,
                    "the request may need {needed} KV blocks, but there are {block_count}"
                )
            }
        }
    }
}

impl std::error::Error for Rejected {}
