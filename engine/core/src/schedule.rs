//! Which tokens the next step computes: continuous batching over one token budget.
//!
//! There is no prefill or decode phase: each step gives every sequence as many of its
//! uncomputed tokens as the budget allows, running sequences first, then waiting ones in the order
//! of their turns. While some decode, prompts are let in only as far as the step is expected to
//! stay short. A sequence is admitted only when blocks for all its tokens are free, and holds
//! them from then on; so only growth by output tokens can fail, and then the sequence admitted
//! last (or whose turn is last) gives way: its blocks are freed, it goes back to its place in the
//! queue, and is recomputed (Kwon et al. 2023, section 4.5), but for what the prefix cache still
//! has. The running sequence whose turn is first is never preempted for another, so each finishes.

use std::time::Duration;

use crate::batch::{Sampled, SequenceId, StepBatch, TokenId};
use crate::cache::BlockCache;
use crate::events::KvEvents;
use crate::pace::{Pace, Work};
use crate::policy::{Policy, Turn};
use crate::queue::Queue;
use crate::sampling::TokenLogprob;
use crate::sequence::{FinishReason, Request, Sequence};
use step::Step;

pub use rejected::Rejected;

mod rejected;
mod step;

#[cfg(test)]
mod tests;

/// An output token counts for a tenant as this many prompt tokens (Sheng et al. 2024).
const OUTPUT_TOKEN_SHARE: usize = 2;

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
    /// How it chooses.
    pub rules: Rules,
}

/// How a scheduler chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Who goes first.
    pub policy: Policy,
    /// Whether what was computed is found again by later sequences that begin alike.
    pub prefix_caching: bool,
    /// Longest step while sequences decode; none is 2.5 times what the decodes alone would take.
    pub max_step: Option<Duration>,
}

/// Chooses steps and keeps each sequence's state between them.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    cache: BlockCache,
    /// In order of admission.
    #[expect(
        clippy::vec_box,
        reason = "one that ends moves all behind it: hundreds of bytes each, in most steps"
    )]
    running: Vec<Box<Sequence>>,
    waiting: Queue,
    pace: Pace,
    /// What the last step computes.
    in_flight: Work,
    /// Requests accepted so far.
    arrival_count: u64,
    preemption_count: u64,
    prefix: PrefixStats,
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
    /// Prompt tokens that were found in the prefix cache when the sequence first ran.
    pub cached_count: usize,
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
    /// Blocks, held or free, whose text can be found again.
    pub kept_block_count: usize,
    /// Preemptions since the start.
    pub preemption_count: u64,
    /// The prefix cache since the start.
    pub prefix: PrefixStats,
}

/// What the prefix cache was asked for; a sequence counts when it first runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixStats {
    /// Tokens of prompts.
    pub query_count: u64,
    /// Those of them that need not be computed.
    pub hit_count: u64,
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
        let Rules {
            policy,
            prefix_caching,
            ..
        } = limits.rules;
        Self {
            limits,
            cache: BlockCache::new(limits.block_count, limits.block_size, prefix_caching),
            running: vec![],
            waiting: Queue::new(policy),
            pace: Pace::default(),
            in_flight: Work::default(),
            arrival_count: 0,
            preemption_count: 0,
            prefix: PrefixStats::default(),
        }
    }

    /// Tells these of every change of what the prefix cache can find, from now on.
    pub fn publish_to(&mut self, events: Box<dyn KvEvents>) {
        self.cache.publish_to(events);
    }

    /// Queues a request; once accepted it will finish, unless it is aborted. `now` counts from a
    /// moment before the first request that never changes.
    ///
    /// # Errors
    /// When the queue is full or the request can never be computed.
    pub fn submit(&mut self, request: Request, now: Duration) -> Result<(), Rejected> {
        self.check(&request)?;
        let Limits {
            max_model_len,
            rules,
            ..
        } = self.limits;
        let turn = Turn::new(rules.policy, &request.terms, now, self.arrival_count);
        let sequence = Sequence::new(request, turn, max_model_len);
        let needed = self.cache.blocks_for(sequence.cached_count_max());
        let block_count = self.cache.pool().block_count();
        if needed > block_count {
            return Err(Rejected::NeverFits {
                needed,
                block_count,
            });
        }
        self.arrival_count += 1;
        self.waiting.arrive(sequence);
        Ok(())
    }

    /// Drops a sequence and frees its blocks; false when it is not known (any more).
    pub fn abort(&mut self, id: SequenceId) -> bool {
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            let mut sequence = self.running.remove(index);
            sequence.release(&mut self.cache);
            self.waiting.leave(&sequence);
            return true;
        }
        self.waiting.remove(id).is_some()
    }

    /// The next step; none when there is nothing to compute. Its samples go to
    /// [`advance`](Self::advance), also when there are none.
    #[expect(
        clippy::should_implement_trait,
        reason = "a scheduler is no iterator: it has more"
    )]
    pub fn next(&mut self) -> Option<StepBatch> {
        let room = self.pace.room(&self.decodes(), self.limits.rules.max_step);
        let mut step = Step::new(self.limits.max_num_batched_tokens, room, self.running.len());
        let preempted = self.schedule_running(&mut step);
        // What was just preempted must not take the freed blocks back in the same step.
        if !preempted {
            self.admit_waiting(&mut step);
        }
        self.in_flight = Work::of_step(&step.batch.sequences);
        (!step.batch.sequences.is_empty()).then_some(step.batch)
    }

    /// Learns how long the last step took to compute, so that prompts are cut to fit. Without it
    /// they are cut by `max_num_batched_tokens` alone.
    pub fn observe(&mut self, took: Duration) {
        self.pace.observe(&self.in_flight, took);
    }

    /// Gives each sequence its sampled token; those that end leave and free their blocks. What
    /// the step computed can be found from now on. Samples of sequences that were aborted
    /// meanwhile are ignored.
    pub fn advance(&mut self, sampled: &[Sampled]) -> Vec<Output> {
        let mut by_id: Vec<&Sampled> = sampled.iter().collect();
        by_id.sort_by_key(|sample| sample.id);
        let mut outputs = Vec::with_capacity(sampled.len());
        let (cache, waiting) = (&mut self.cache, &mut self.waiting);
        let block_size = self.limits.block_size;
        self.running.retain_mut(|sequence| {
            sequence.commit(cache, block_size);
            let Ok(index) = by_id.binary_search_by_key(&sequence.id, |sample| sample.id) else {
                return true;
            };
            let sample = by_id[index];
            let finish = sequence.append(sample.token);
            waiting.charge(sequence, OUTPUT_TOKEN_SHARE);
            outputs.push(Output {
                id: sample.id,
                token: sample.token,
                logprob: sample.logprob,
                top_logprobs: sample.top_logprobs.clone(),
                finish,
                cached_count: sequence.hit_count.unwrap_or(0),
            });
            if finish.is_some() {
                sequence.release(cache);
                waiting.leave(sequence);
            }
            finish.is_none()
        });
        outputs
    }

    /// Forgets what was computed for sequences that ended; false, and nothing happens, while any
    /// runs.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.cache.clear()
    }

    /// How full it is now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            running_count: self.running.len(),
            waiting_count: self.waiting.count(),
            used_block_count: self.cache.pool().used_count(),
            block_count: self.cache.pool().block_count(),
            kept_block_count: self.cache.kept_count(),
            preemption_count: self.preemption_count,
            prefix: self.prefix,
        }
    }

    /// Whether no sequence is left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.count() == 0
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
        if self.waiting.count() >= max_waiting {
            return Err(Rejected::QueueFull { max_waiting });
        }
        Ok(())
    }

    /// What the running sequences that decode will compute.
    fn decodes(&self) -> Work {
        let mut work = Work::default();
        for sequence in &self.running {
            if sequence.remaining_count() == 1 {
                work.add(sequence.position(), 1);
            }
        }
        work
    }

    /// Says whether a sequence had to give way.
    fn schedule_running(&mut self, step: &mut Step) -> bool {
        let preemptions_before = self.preemption_count;
        let mut index = 0;
        while index < self.running.len() && !step.is_full() {
            let sequence = &self.running[index];
            let count = step.claim(sequence.position(), sequence.remaining_count());
            if count > 0 {
                if !self.make_room(&mut index, count, step) {
                    // It is gone: the next one is in its place, and may have what it held.
                    continue;
                }
                self.take(index, count, step);
            }
            index += 1;
        }
        self.preemption_count > preemptions_before
    }

    fn admit_waiting(&mut self, step: &mut Step) {
        while !step.is_full() && self.running.len() < self.limits.max_num_seqs {
            // Strictly in order: a short request behind a long one waits, so that none starves.
            if !self.admit_head(step) {
                return;
            }
        }
    }

    fn admit_head(&mut self, step: &mut Step) -> bool {
        let Some(head) = self.waiting.head() else {
            return false;
        };
        let token_count = head.token_count();
        let (tokens, chain) = head.text();
        let hit = self.cache.find(tokens, chain);
        let hit_count = hit.token_count(self.limits.block_size);
        let count = step.claim(hit_count, token_count - hit_count);
        if count == 0 {
            return false;
        }
        let Some(admission) = self.cache.admit(hit, token_count) else {
            return false;
        };
        let Some(mut sequence) = self.waiting.pop() else {
            return false;
        };
        if sequence.hit_count.is_none() {
            self.prefix.query_count += token_count as u64;
            self.prefix.hit_count += hit_count as u64;
            self.waiting.charge(&sequence, token_count - hit_count);
        }
        step.batch.copies.extend(admission.copy);
        sequence.begin(admission.blocks, hit_count, self.limits.block_size);
        self.running.push(Box::new(sequence));
        self.take(self.running.len() - 1, count, step);
        true
    }

    /// Gives the running sequence at `index` blocks for `count` more tokens, at the cost of
    /// others whose turn is later; false when it had to give way itself. `index` stays its own.
    fn make_room(&mut self, index: &mut usize, count: usize, step: &mut Step) -> bool {
        let sequence = &self.running[*index];
        let needed = self.cache.blocks_for(sequence.position_after(count));
        let missing = needed.saturating_sub(sequence.blocks.len());
        loop {
            if let Some(blocks) = self.cache.allocate(missing) {
                self.running[*index].blocks.extend(blocks);
                return true;
            }
            let victim = self.victim();
            self.preempt(victim, step);
            if victim == *index {
                return false;
            }
            *index -= usize::from(victim < *index);
        }
    }

    /// Who gives way: the last admitted, or the least urgent where that is another one.
    fn victim(&self) -> usize {
        let last = self.running.len() - 1;
        match self.limits.rules.policy {
            Policy::Fcfs | Policy::Fair => last,
            Policy::Priority | Policy::Deadline => (0..self.running.len())
                .max_by_key(|index| self.running[*index].turn)
                .unwrap_or(last),
        }
    }

    fn preempt(&mut self, victim: usize, step: &mut Step) {
        let mut sequence = self.running.remove(victim);
        step.remove(sequence.id);
        sequence.release(&mut self.cache);
        sequence.rewind();
        self.waiting.push(*sequence);
        self.preemption_count += 1;
    }

    fn take(&mut self, index: usize, count: usize, step: &mut Step) {
        let sequence = &mut self.running[index];
        let block_count = self.cache.blocks_for(sequence.position_after(count));
        step.add(sequence, count, block_count);
    }
}

// === impl Rules ===

impl Default for Rules {
    /// What vLLM does by default, with steps kept short.
    fn default() -> Self {
        Self {
            policy: Policy::Fcfs,
            prefix_caching: true,
            max_step: None,
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
