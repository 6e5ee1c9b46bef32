//! Random operations on whole schedulers: whatever comes in whatever order, every text is what it
//! would be alone, every block is somebody's or free, and everybody gets their turn.
//!
//! `BERTH_SCHEDULER_OPERATIONS` says how many; `./x test --deep` does a million.

use std::collections::HashMap;

use super::fake::{FakeModel, expected, limits, request};
use super::*;

const OPERATIONS_DEFAULT: u64 = 100_000;
/// In one world, before another one with other limits begins.
const OPERATIONS_A_WORLD: u64 = 2_000;
/// Between a request's arrival and its end; 24 requests of at most 80 tokens wait or run.
const STEPS_MAX: u64 = 6_000;

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn size(&mut self, below: u64) -> usize {
        usize::try_from(self.roll(below)).expect("small")
    }

    fn token(&mut self, below: u64) -> TokenId {
        TokenId::try_from(self.roll(below)).expect("small")
    }

    fn limits(&mut self) -> Limits {
        let policies = [
            Policy::Fcfs,
            Policy::Priority,
            Policy::Deadline,
            Policy::Fair,
        ];
        let block_size = 1 + self.size(8);
        let fewest = 64_usize.div_ceil(block_size);
        Limits {
            max_num_seqs: 1 + self.size(8),
            max_num_batched_tokens: 1 + self.size(40),
            block_size,
            block_count: u32::try_from(fewest + self.size(40)).expect("small"),
            max_waiting: 16,
            rules: Rules {
                policy: policies[self.size(4)],
                prefix_caching: self.roll(8) > 0,
                max_step: None,
            },
            ..limits()
        }
    }

    /// Texts of few tokens that often begin alike and seldom go on alike.
    fn request(&mut self, id: u64) -> Request {
        let family = self.token(3);
        let count = 1 + self.size(40);
        let common = self.size(1 + count as u64);
        let prompt = (0..count).map(|at| if at < common { family } else { self.token(2) });
        let prompt = prompt.collect();
        let (max_tokens, min_tokens) = (1 + self.size(40), self.size(6));
        let salt = self.roll(4) == 0;
        Request {
            prompt,
            min_tokens,
            stop_token_ids: vec![self.token(50)],
            terms: Terms {
                priority: i32::try_from(self.roll(5)).expect("small") - 2,
                first_token: (self.roll(2) == 0).then(|| Duration::from_secs(self.roll(90))),
                tenant: TenantId(self.roll(4)),
                cache_salt: salt.then(|| "salt".to_owned()),
            },
            ..request(id, 1, max_tokens)
        }
    }
}

struct World {
    limits: Limits,
    scheduler: Scheduler,
    model: FakeModel,
    /// Requests that have not ended, with their text so far and the step of their arrival.
    open: HashMap<SequenceId, (Request, Vec<TokenId>, u64)>,
    next_id: u64,
    step_count: u64,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            scheduler: Scheduler::new(limits),
            model: FakeModel::new(limits.block_size),
            open: HashMap::new(),
            next_id: 0,
            step_count: 0,
        }
    }

    fn operate(&mut self, dice: &mut Dice) {
        match dice.roll(100) {
            0..25 => self.submit(dice),
            25..29 => self.abort(dice),
            29 => {
                let is_idle = self.scheduler.stats().running_count == 0;
                assert_eq!(self.scheduler.reset_prefix_cache(), is_idle);
            }
            _ => self.step(dice),
        }
        self.check_blocks();
    }

    fn submit(&mut self, dice: &mut Dice) {
        let request = dice.request(self.next_id);
        let now = Duration::from_secs(self.step_count);
        self.next_id += 1;
        match self.scheduler.submit(request.clone(), now) {
            Ok(()) => {
                self.open
                    .insert(request.id, (request, vec![], self.step_count));
            }
            Err(rejected) => assert_eq!(rejected, Rejected::QueueFull { max_waiting: 16 }),
        }
    }

    fn abort(&mut self, dice: &mut Dice) {
        let id = SequenceId(self.next_id.saturating_sub(dice.roll(40)));
        let was_open = self.open.remove(&id).is_some();
        assert_eq!(self.scheduler.abort(id), was_open);
    }

    /// Sometimes a client leaves while its step is computed.
    fn step(&mut self, dice: &mut Dice) {
        self.step_count += 1;
        let Some(batch) = self.scheduler.next() else {
            assert!(self.open.is_empty(), "there is work, but no step");
            return;
        };
        check_step(&batch, &self.limits);
        let sampled = self.model.step(&batch);
        if dice.roll(16) == 0 {
            self.abort(dice);
        }
        self.scheduler
            .observe(Duration::from_micros(100 + dice.roll(900)));
        for output in self.scheduler.advance(&sampled) {
            self.take(output);
        }
    }

    fn take(&mut self, output: Output) {
        let (request, text, arrived) = self.open.get_mut(&output.id).expect("it is open");
        text.push(output.token);
        assert!(
            output.cached_count < request.prompt.len(),
            "one is computed"
        );
        assert!(self.step_count - *arrived < STEPS_MAX, "it starves");
        if let Some(reason) = output.finish {
            let alone = expected(request, self.limits.max_model_len);
            assert_eq!((&*text, reason), (&alone.0, alone.1));
            self.open.remove(&output.id);
        }
    }

    /// Each block has as many holders as sequences have it; only a sequence's last block may
    /// have room left.
    fn check_blocks(&self) {
        let pool = self.scheduler.cache.pool();
        let mut holders: BTreeMap<BlockId, u32> = BTreeMap::new();
        for sequence in &self.scheduler.running {
            for block in &sequence.blocks {
                *holders.entry(*block).or_default() += 1;
            }
            let needed = sequence.token_count().div_ceil(self.limits.block_size);
            assert!(sequence.blocks.len() <= needed, "an idle block is held");
        }
        assert_eq!(pool.used_count(), holders.len());
        assert_eq!(pool.used_count() + pool.free_count(), pool.block_count());
        for (block, count) in holders {
            assert_eq!(pool.holder_count(block), count, "{block:?}");
        }
    }
}

#[test]
fn any_order_of_operations_keeps_texts_blocks_and_turns() {
    // When it is compiled: this crate asks its environment nothing.
    let asked = option_env!("BERTH_SCHEDULER_OPERATIONS");
    let count = asked.map_or(OPERATIONS_DEFAULT, |count| count.parse().unwrap());
    let (mut hit_count, mut preemption_count) = (0, 0);
    for world_seed in 0..count.div_ceil(OPERATIONS_A_WORLD) {
        let mut dice = Dice(world_seed);
        let mut world = World::new(dice.limits());
        println!("seed {world_seed}: {:?}", world.limits);
        (0..OPERATIONS_A_WORLD).for_each(|_| world.operate(&mut dice));
        while !world.scheduler.is_idle() {
            world.step(&mut dice);
        }
        assert!(world.open.is_empty(), "one was lost");
        let stats = world.scheduler.stats();
        hit_count += stats.prefix.hit_count;
        preemption_count += stats.preemption_count;
    }
    println!("{count} operations: {hit_count} tokens found, {preemption_count} preemptions");
    assert!(hit_count > 0 && preemption_count > 0);
}
