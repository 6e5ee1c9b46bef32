//! The scheduler against a fake model that really reads the paged cache.
//!
//! The model's next token is a hash of what it finds in the blocks, so a block given twice, a
//! position skipped or a random stream lost changes the text.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::batch::{BlockId, StepSequence};
use crate::policy::{TenantId, Terms};
use fake::{FakeModel, expected, limits, request};

mod fake;
mod operations;
mod policies;
mod prefix;

const START: Duration = Duration::ZERO;

type Finished = BTreeMap<SequenceId, (Vec<TokenId>, FinishReason)>;

/// Runs to the end; aborts `aborts[n]` before step n. Checks each step on the way.
#[track_caller]
fn run(limits: Limits, requests: &[Request], aborts: &[Option<u64>]) -> (Finished, Stats) {
    let mut scheduler = Scheduler::new(limits);
    let mut model = FakeModel::new(limits.block_size);
    let mut texts: BTreeMap<SequenceId, Vec<TokenId>> = BTreeMap::new();
    let mut finished = Finished::new();
    for request in requests {
        scheduler.submit(request.clone(), START).unwrap();
    }
    for step_index in 0.. {
        assert!(step_index < 20_000, "the scheduler makes no progress");
        if let Some(Some(id)) = aborts.get(step_index) {
            scheduler.abort(SequenceId(*id));
        }
        let Some(batch) = scheduler.next() else { break };
        check_step(&batch, &limits);
        for output in scheduler.advance(&model.step(&batch)) {
            let text = texts.entry(output.id).or_default();
            text.push(output.token);
            if let Some(reason) = output.finish {
                finished.insert(output.id, (text.clone(), reason));
            }
        }
    }
    assert!(
        scheduler.is_idle(),
        "a scheduler without a next step has nothing left"
    );
    let stats = scheduler.stats();
    assert_eq!(stats.used_block_count, 0, "all blocks come back");
    (finished, stats)
}

#[track_caller]
fn check_step(batch: &StepBatch, limits: &Limits) {
    assert!(
        batch.token_count() <= limits.max_num_batched_tokens,
        "budget exceeded"
    );
    assert!(
        batch.sequences.len() <= limits.max_num_seqs,
        "too many sequences"
    );
    let mut blocks: Vec<BlockId> = vec![];
    for sequence in &batch.sequences {
        let end = sequence.first_position + sequence.tokens.len();
        assert!(!sequence.tokens.is_empty());
        assert_eq!(sequence.blocks.len(), end.div_ceil(limits.block_size));
        // Those before are shared, and only read.
        blocks.extend(&sequence.blocks[sequence.first_position / limits.block_size..]);
    }
    let count = blocks.len();
    blocks.sort_unstable();
    blocks.dedup();
    assert_eq!(blocks.len(), count, "two sequences write to one block");
}

/// Sizes of each sequence's part: `id:first_position+count`, with `*` where it is sampled.
fn shape(batch: &StepBatch) -> String {
    let part = |sequence: &StepSequence| {
        let mark = if sequence.sample.is_some() { "*" } else { "" };
        let count = sequence.tokens.len();
        format!(
            "{}:{}+{count}{mark}",
            sequence.id.0, sequence.first_position
        )
    };
    batch
        .sequences
        .iter()
        .map(part)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn a_long_prompt_is_cut_into_chunks_beside_decodes() {
    let mut scheduler = Scheduler::new(Limits {
        max_num_batched_tokens: 8,
        ..limits()
    });
    let mut model = FakeModel::new(4);
    scheduler.submit(request(0, 3, 9), START).unwrap();
    scheduler.submit(request(1, 17, 9), START).unwrap();
    let mut shapes = vec![];
    for _ in 0..5 {
        let batch = scheduler.next().unwrap();
        scheduler.advance(&model.step(&batch));
        shapes.push(shape(&batch));
    }
    assert_eq!(
        shapes,
        [
            "0:0+3* 1:0+5",
            "0:3+1* 1:5+7",
            "0:4+1* 1:12+5*",
            "0:5+1* 1:17+1*",
            "0:6+1* 1:18+1*"
        ]
    );
}

#[test]
fn the_last_admitted_gives_way_and_continues_where_it_was() {
    let limits = Limits {
        block_count: 5,
        ..limits()
    };
    let requests = [request(0, 4, 12), request(1, 4, 12)];
    let (finished, stats) = run(limits, &requests, &[]);
    assert!(
        stats.preemption_count > 0,
        "five blocks cannot hold both to their ends"
    );
    for request in &requests {
        assert_eq!(finished[&request.id], expected(request, 64));
    }
}

#[test]
fn a_request_is_admitted_only_when_its_whole_prompt_fits() {
    let mut scheduler = Scheduler::new(Limits {
        block_count: 6,
        ..limits()
    });
    scheduler.submit(request(0, 12, 4), START).unwrap();
    scheduler.submit(request(1, 16, 4), START).unwrap();
    scheduler.submit(request(2, 1, 4), START).unwrap();
    assert_eq!(shape(&scheduler.next().unwrap()), "0:0+12*");
    assert_eq!(
        scheduler.stats().waiting_count,
        2,
        "the small one does not overtake"
    );
}

#[test]
fn a_second_step_without_results_asks_for_nothing() {
    let mut scheduler = Scheduler::new(limits());
    scheduler.submit(request(0, 3, 4), START).unwrap();
    assert!(scheduler.next().is_some());
    assert_eq!(scheduler.next(), None);
}

#[test]
fn results_of_an_aborted_sequence_are_ignored() {
    let mut scheduler = Scheduler::new(limits());
    scheduler.submit(request(0, 3, 4), START).unwrap();
    let batch = scheduler.next().unwrap();
    assert!(scheduler.abort(SequenceId(0)));
    assert!(!scheduler.abort(SequenceId(0)));
    assert_eq!(scheduler.advance(&FakeModel::new(4).step(&batch)), []);
    assert_eq!(scheduler.stats().used_block_count, 0);
}

#[track_caller]
fn check_rejected(limits: Limits, request: Request, expected: &str) {
    let mut scheduler = Scheduler::new(limits);
    let waiting = Request {
        id: SequenceId(9),
        ..request.clone()
    };
    let message = match scheduler.submit(request, START) {
        Ok(()) => scheduler.submit(waiting, START).unwrap_err().to_string(),
        Err(rejected) => rejected.to_string(),
    };
    assert_eq!(message, expected);
}

#[test]
fn what_can_never_run_is_rejected_with_a_sentence() {
    check_rejected(limits(), request(0, 0, 1), "the prompt has no tokens");
    check_rejected(
        limits(),
        request(0, 1, 0),
        "max_tokens is 0, at least 1 is needed",
    );
    check_rejected(
        limits(),
        request(0, 64, 1),
        "the prompt has 64 tokens, but prompt and output together may have 64",
    );
    check_rejected(
        Limits {
            block_count: 2,
            ..limits()
        },
        request(0, 5, 5),
        "the request may need 3 KV blocks, but there are 2",
    );
    check_rejected(
        Limits {
            max_waiting: 1,
            ..limits()
        },
        request(0, 1, 1),
        "1 requests are waiting already",
    );
}

fn any_request(id: u64) -> impl Strategy<Value = Request> {
    let terms = (-2..3, 0_u64..3).prop_map(|(priority, tenant)| Terms {
        priority,
        tenant: TenantId(tenant),
        ..Terms::default()
    });
    // Prompts of one family begin alike.
    let sizes = (1_usize..30, 1_usize..40, 0_usize..6, 0_u64..4);
    (sizes, vec(0_u32..50, 0..4), terms).prop_map(
        move |((prompt_count, max_tokens, min_tokens, family), stop_token_ids, terms)| Request {
            prompt: request(family, prompt_count, 1).prompt,
            min_tokens,
            stop_token_ids,
            terms,
            ..request(id, 1, max_tokens)
        },
    )
}

fn any_requests() -> impl Strategy<Value = Vec<Request>> {
    (1_u64..12).prop_flat_map(|count| (0..count).map(any_request).collect::<Vec<_>>())
}

/// Small enough to preempt often, large enough for each request alone.
fn any_limits() -> impl Strategy<Value = Limits> {
    let rules = prop_oneof![
        Just(Policy::Fcfs),
        Just(Policy::Priority),
        Just(Policy::Deadline),
        Just(Policy::Fair),
    ];
    let rules = (rules, any::<bool>()).prop_map(|(policy, prefix_caching)| Rules {
        policy,
        prefix_caching,
        max_step: None,
    });
    (1_usize..6, 1_usize..40, 1_usize..9, 0_u32..20, rules).prop_map(
        |(max_num_seqs, max_num_batched_tokens, block_size, spare, rules)| Limits {
            rules,
            max_num_seqs,
            max_num_batched_tokens,
            block_size,
            block_count: u32::try_from(64_usize.div_ceil(block_size)).unwrap() + spare,
            ..limits()
        },
    )
}

proptest! {
    /// Whatever the budget, the chunks and the preemptions, each request gives what it gives
    /// alone, and each accepted request finishes.
    #[test]
    fn text_does_not_depend_on_the_schedule(limits in any_limits(), requests in any_requests()) {
        let (finished, _) = run(limits, &requests, &[]);
        for request in &requests {
            prop_assert_eq!(&finished[&request.id], &expected(request, limits.max_model_len));
        }
    }

    /// Aborts at any time change nobody else's text and lose no block.
    #[test]
    fn an_abort_concerns_only_its_own_sequence(
        limits in any_limits(),
        requests in any_requests(),
        aborts in vec(proptest::option::weighted(0.2, 0_u64..12), 0..60),
    ) {
        let (finished, _) = run(limits, &requests, &aborts);
        for request in &requests {
            match finished.get(&request.id) {
                Some(text) => prop_assert_eq!(text, &expected(request, limits.max_model_len)),
                None => prop_assert!(aborts.contains(&Some(request.id.0)), "one was lost"),
            }
        }
    }
}
