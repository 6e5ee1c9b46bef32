//! What the scheduler's own work takes in a step: `cargo bench -p berth-engine-core`.
//!
//! One JSON line: microseconds of `next`, `observe` and `advance` together, while 256 sequences
//! decode and 1,000 requests wait, for each policy. The model takes no time.

#![expect(
    clippy::print_stdout,
    reason = "the figures are what a bench is run for"
)]

use std::time::{Duration, Instant};

use berth_engine_core::batch::{Sampled, SequenceId, StepBatch, TokenId};
use berth_engine_core::policy::{Policy, TenantId, Terms};
use berth_engine_core::sampling::Sampling;
use berth_engine_core::schedule::{Limits, Rules, Scheduler};
use berth_engine_core::sequence::Request;

const RUNNING: usize = 256;
const WAITING: u64 = 1_000;
const PROMPT_TOKENS: u32 = 512;
const STEPS: usize = 4_000;

fn main() {
    // Only `cargo bench` says so; whoever builds and runs every target wants no figures.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let policies = [
        ("fcfs", Policy::Fcfs),
        ("priority", Policy::Priority),
        ("deadline", Policy::Deadline),
        ("fair", Policy::Fair),
    ];
    let figures: Vec<String> = policies
        .iter()
        .map(|(name, policy)| {
            let times = measure(*policy);
            let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
            let (middle, late) = (at(50), at(90));
            format!(
                "\"{name}\":{{\"medianMicroseconds\":{middle:.1},\"p90Microseconds\":{late:.1}}}"
            )
        })
        .collect();
    println!(
        "{{\"bench\":\"scheduler step\",\"running\":{RUNNING},\"waiting\":{WAITING},{}}}",
        figures.join(",")
    );
}

/// Sorted durations of single steps, new requests replacing those that end.
fn measure(policy: Policy) -> Vec<Duration> {
    let mut scheduler = Scheduler::new(limits(policy));
    let mut next_id = 0;
    let mut times = Vec::with_capacity(STEPS);
    while times.len() < STEPS {
        while scheduler.stats().waiting_count < 1_000 {
            scheduler
                .submit(request(next_id), Duration::from_millis(next_id))
                .expect("each fits");
            next_id += 1;
        }
        let began = Instant::now();
        let batch = scheduler.next().expect("there is work");
        let chosen = began.elapsed();
        let sampled = sample(&batch);
        let began = Instant::now();
        scheduler.observe(Duration::from_millis(20));
        scheduler.advance(&sampled);
        let took = chosen + began.elapsed();
        // The first steps are those that fill the machine.
        if next_id > WAITING + RUNNING as u64 {
            times.push(took);
        }
    }
    times.sort_unstable();
    times
}

fn limits(policy: Policy) -> Limits {
    Limits {
        max_num_seqs: RUNNING,
        max_num_batched_tokens: 2048,
        max_model_len: 2048,
        block_size: 32,
        block_count: 16_384,
        max_waiting: 1 << 20,
        rules: Rules {
            policy,
            ..Rules::default()
        },
    }
}

fn request(id: u64) -> Request {
    let own = TokenId::try_from(id % 50_000).expect("small");
    Request {
        id: SequenceId(id),
        prompt: (0..PROMPT_TOKENS)
            .map(|at| if at < 100 { at } else { own + at })
            .collect(),
        sampling: Sampling::greedy(),
        max_tokens: 200 + usize::try_from(id % 200).expect("small"),
        min_tokens: 0,
        stop_token_ids: vec![],
        terms: Terms {
            tenant: TenantId(id % 50),
            ..Terms::default()
        },
    }
}

fn sample(batch: &StepBatch) -> Vec<Sampled> {
    let rows = batch.sequences.iter().filter(|part| part.sample.is_some());
    rows.map(|part| Sampled {
        id: part.id,
        token: 7,
        logprob: 0.0,
        top_logprobs: vec![],
    })
    .collect()
}
