//! Greedy text of the reference backend against Hugging Face transformers, token for token.
//!
//! `tests/golden/make_golden.py` made the expected tokens from the same GGUF file. The path of
//! that file is asked for in `BERTH_TEST_MODEL`; without it these tests say so and pass.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy sees no test in helpers"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use berth_engine_core::batch::{SequenceId, StepBatch, TokenId};
use berth_engine_core::sampling::Sampling;
use berth_engine_core::schedule::{Limits, Scheduler};
use berth_engine_core::sequence::Request;
use berth_engine_model::backend::{Backend, CacheShape, Collective, Shard};
use berth_engine_model::collective::SharedMemory;
use berth_engine_model::reference::ReferenceBackend;
use berth_engine_model::source::ModelSource;
use serde::Deserialize;

const GOLDEN: &str = include_str!("golden/smollm2-135m-instruct-q4_1.json");
const CACHE: CacheShape = CacheShape {
    block_size: 16,
    block_count: 256,
};
/// One at a time: each run holds half a gigabyte and wants all cores.
static MACHINE: Mutex<()> = Mutex::new(());

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Clone, Deserialize)]
struct Case {
    text: String,
    prompt: Vec<TokenId>,
    tokens: Vec<TokenId>,
}

/// How a run shares the model and the steps.
#[derive(Clone, Copy, Debug)]
struct Setting {
    degree: usize,
    concurrency: usize,
    /// Tokens of one step; smaller than a prompt cuts its prefill into chunks.
    budget: usize,
}

fn golden() -> Vec<Case> {
    let Golden { cases } = serde_json::from_str(GOLDEN).unwrap();
    assert!(cases.len() >= 8, "the issue asks for eight prompts");
    assert!(cases.iter().all(|case| case.tokens.len() == 64));
    cases
}

/// The model for this test, which is skipped where nobody names its file.
fn model(test: &str) -> Option<ModelSource> {
    let path = std::env::var_os("BERTH_TEST_MODEL").map(PathBuf::from);
    if path.is_none() {
        skip(test);
    }
    path.map(|path| ModelSource::open(&path).unwrap())
}

/// Names the skip for `./x test`, which counts such lines. With `CI=true` software may not be missing.
fn skip(test: &str) {
    assert!(
        !std::env::var("CI").is_ok_and(|value| value == "true"),
        "with CI=true BERTH_TEST_MODEL must name SmolLM2-135M-Instruct.Q4_1.gguf"
    );
    println!(
        "SKIP {test} software: set BERTH_TEST_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf, or run ./x \
         test, which fetches it"
    );
}

/// Runs the cases; each one's greedy tokens, as many as it expects.
fn generate(source: &ModelSource, cases: &[Case], setting: Setting) -> Vec<Vec<TokenId>> {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let collective: Arc<dyn Collective> = Arc::new(SharedMemory::new(setting.degree));
    let load = |rank| {
        let shard = Shard {
            rank,
            degree: setting.degree,
        };
        let collective = Arc::clone(&collective);
        ReferenceBackend::load(source, shard, CACHE, collective, &mut |_| {}).unwrap()
    };
    let follow = |rank, steps: Receiver<StepBatch>| {
        let mut backend = load(rank);
        for batch in steps {
            assert_eq!(backend.step(&batch).unwrap(), [], "only rank 0 samples");
        }
    };
    thread::scope(|scope| {
        let follow = &follow;
        let senders: Vec<_> = (1..setting.degree)
            .map(|rank| {
                let (sender, steps) = sync_channel(1);
                scope.spawn(move || follow(rank, steps));
                sender
            })
            .collect();
        let mut backend = load(0);
        let began = Instant::now();
        let texts = drive(cases, setting, |batch| {
            senders
                .iter()
                .for_each(|sender| sender.send(batch.clone()).unwrap());
            backend.step(batch).unwrap()
        });
        let count: usize = texts.iter().map(Vec::len).sum();
        println!("{setting:?}: {count} tokens in {:.1?}", began.elapsed());
        texts
    })
}

fn drive(
    cases: &[Case],
    setting: Setting,
    mut step: impl FnMut(&StepBatch) -> Vec<berth_engine_core::batch::Sampled>,
) -> Vec<Vec<TokenId>> {
    let mut scheduler = Scheduler::new(Limits {
        max_num_seqs: setting.concurrency,
        max_num_batched_tokens: setting.budget,
        max_model_len: 256,
        block_size: CACHE.block_size,
        block_count: u32::try_from(CACHE.block_count).unwrap(),
        max_waiting: 64,
    });
    for (id, case) in (0..).map(SequenceId).zip(cases) {
        scheduler.submit(greedy(id, case)).unwrap();
    }
    let mut texts = BTreeMap::<SequenceId, Vec<TokenId>>::new();
    while let Some(batch) = scheduler.next() {
        for output in scheduler.advance(&step(&batch)) {
            texts.entry(output.id).or_default().push(output.token);
        }
    }
    texts.into_values().collect()
}

fn greedy(id: SequenceId, case: &Case) -> Request {
    Request {
        id,
        prompt: case.prompt.clone(),
        sampling: Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            seed: 0,
        },
        max_tokens: case.tokens.len(),
        min_tokens: 0,
        stop_token_ids: Vec::new(),
    }
}

#[track_caller]
fn check(source: &ModelSource, cases: &[Case], setting: Setting) {
    let texts = generate(source, cases, setting);
    assert_eq!(texts.len(), cases.len());
    for (case, tokens) in cases.iter().zip(texts) {
        assert_eq!(tokens, case.tokens, "{setting:?}: after {:?}", case.text);
    }
}

/// The first `count` tokens of each.
fn shortened(cases: &[Case], count: usize) -> Vec<Case> {
    let mut cases = cases.to_vec();
    cases
        .iter_mut()
        .for_each(|case| case.tokens.truncate(count));
    cases
}

#[test]
fn sixty_four_greedy_tokens_are_those_of_transformers() {
    let Some(source) = model("sixty_four_greedy_tokens_are_those_of_transformers") else {
        return;
    };
    check(
        &source,
        &golden(),
        Setting {
            degree: 1,
            concurrency: 1,
            budget: 512,
        },
    );
}

#[test]
fn sixteen_at_a_time_are_those_of_transformers_too() {
    let Some(source) = model("sixteen_at_a_time_are_those_of_transformers_too") else {
        return;
    };
    let mut cases = golden();
    let more: Vec<Case> = cases
        .iter()
        .cycle()
        .take(16 - cases.len().min(16))
        .cloned()
        .collect();
    cases.extend(more);
    let setting = Setting {
        degree: 1,
        concurrency: 16,
        budget: 48,
    };
    check(&source, &shortened(&cases[..16], 32), setting);
}

#[test]
fn two_and_three_ranks_are_those_of_transformers_too() {
    let Some(source) = model("two_and_three_ranks_are_those_of_transformers_too") else {
        return;
    };
    for degree in [2, 3] {
        let setting = Setting {
            degree,
            concurrency: 3,
            budget: 64,
        };
        check(&source, &shortened(&golden()[..3], 24), setting);
    }
}
