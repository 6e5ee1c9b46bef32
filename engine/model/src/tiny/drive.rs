//! Requests for the tiny model, and a scheduler that drives a backend to their ends.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_engine_core::batch::{SequenceId, TokenId};
use berth_engine_core::policy::Terms;
use berth_engine_core::sampling::Sampling;
use berth_engine_core::schedule::{Limits, Rules, Scheduler, Stats};
use berth_engine_core::sequence::Request;

use crate::backend::{Backend, CacheShape};

const BLOCK_SIZE: usize = 4;
const BLOCK_COUNT: u32 = 1024;
/// What most prompts begin with: three blocks and a token.
const COMMON: u32 = 13;

/// The cache that [`drive`] expects of a backend.
pub(crate) const DRIVEN_CACHE: CacheShape = CacheShape {
    block_size: BLOCK_SIZE,
    block_count: BLOCK_COUNT as usize,
};

/// How requests are run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driving {
    pub(crate) concurrency: usize,
    /// Tokens in a step.
    pub(crate) budget: usize,
    pub(crate) prefix_caching: bool,
    /// Blocks that may be used; few make sequences give way.
    pub(crate) block_count: u32,
}

/// What came out.
#[derive(Debug)]
pub(crate) struct Driven {
    /// Of each request: tokens, with the bits of their log-probabilities.
    pub(crate) texts: BTreeMap<SequenceId, Vec<(TokenId, u32)>>,
    pub(crate) stats: Stats,
    /// Blocks that were copied.
    pub(crate) copy_count: usize,
}

// === impl Driving ===

impl Driving {
    /// One request at a time, token by token, all of it computed.
    pub(crate) const PLAIN: Self = Self {
        concurrency: 1,
        budget: 1,
        prefix_caching: false,
        block_count: BLOCK_COUNT,
    };

    fn limits(self) -> Limits {
        Limits {
            max_num_seqs: self.concurrency,
            max_num_batched_tokens: self.budget,
            max_model_len: 64,
            block_size: BLOCK_SIZE,
            block_count: self.block_count,
            max_waiting: 1024,
            rules: Rules {
                prefix_caching: self.prefix_caching,
                ..Rules::default()
            },
        }
    }
}

/// Greedy ones and drawn ones by turns; most begin alike and go on in their own way, at every
/// place of a block; every seventh is one that was there before.
pub(crate) fn requests(count: u64) -> Vec<Request> {
    (0..count).map(request).collect()
}

fn request(id: u64) -> Request {
    let kind = u32::try_from(if id % 7 == 6 { id - 6 } else { id }).expect("small");
    let common = COMMON - kind % 6;
    let length = 14 + kind * 5 % 23;
    let token = |at| {
        if at < common {
            at * 3 % 101
        } else {
            (at * 37 + kind * 11 + 5) % 101
        }
    };
    let sampling = if id.is_multiple_of(2) {
        Sampling::greedy()
    } else {
        Sampling {
            temperature: 0.8,
            seed: id,
            ..Sampling::default()
        }
    };
    Request {
        id: SequenceId(id),
        prompt: (0..length).map(token).collect(),
        sampling,
        max_tokens: 12,
        min_tokens: 0,
        stop_token_ids: vec![],
        terms: Terms::default(),
    }
}

pub(crate) fn drive(backend: &mut dyn Backend, how: Driving, requests: &[Request]) -> Driven {
    let mut scheduler = Scheduler::new(how.limits());
    for request in requests {
        scheduler
            .submit(request.clone(), Duration::ZERO)
            .expect("each fits");
    }
    let mut texts = BTreeMap::<_, Vec<_>>::new();
    let mut copy_count = 0;
    while let Some(batch) = scheduler.next() {
        copy_count += batch.copies.len();
        let sampled = backend.step(&batch).expect("the batch is sound");
        for output in scheduler.advance(&sampled) {
            let bits = output.logprob.to_bits();
            texts
                .entry(output.id)
                .or_default()
                .push((output.token, bits));
        }
    }
    Driven {
        texts,
        stats: scheduler.stats(),
        copy_count,
    }
}

/// Runs the requests in every way that may not matter; `backend` makes a fresh one.
#[track_caller]
pub(crate) fn check_driven(name: &str, mut backend: impl FnMut() -> Box<dyn Backend>, count: u64) {
    let requests = requests(count);
    let plain = drive(&mut *backend(), Driving::PLAIN, &requests);
    assert_eq!(plain.texts.len(), requests.len());
    let mut check = |how: Driving| {
        let driven = drive(&mut *backend(), how, &requests);
        for (id, text) in &plain.texts {
            assert_eq!(driven.texts.get(id), Some(text), "{name}, {how:?}, {id:?}");
        }
        driven
    };
    for budget in (1..10).chain([16, 33, 2048]) {
        let found = check(Driving {
            budget,
            prefix_caching: true,
            ..Driving::PLAIN
        });
        let hit_count = found.stats.prefix.hit_count;
        assert!(hit_count > 0 && found.copy_count > 0, "{name}: {found:?}");
        check(Driving {
            budget,
            concurrency: 64,
            prefix_caching: budget % 2 == 0,
            ..Driving::PLAIN
        });
    }
    for prefix_caching in [false, true] {
        let crowded = check(Driving {
            concurrency: 8,
            budget: 64,
            prefix_caching,
            block_count: 28,
        });
        assert!(crowded.stats.preemption_count > 0, "28 blocks are enough");
    }
}
