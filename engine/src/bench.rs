//! `berth-engine bench`: prefill and decode speed of a model file, without HTTP; or of kernels.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use berth_engine_core::batch::{SequenceId, TokenId};
use berth_engine_core::policy::Terms;
use berth_engine_core::sampling::Sampling;
use berth_engine_core::schedule::{Limits, Rejected, Scheduler};
use berth_engine_core::sequence::Request;
use serde_json::{Value, json};

use crate::args::{BenchArgs, BenchCommand, BenchWhat};
use crate::model::{self, Model};
use crate::team::{self, Team};

pub mod kernels;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kernels could not be measured.
    #[error(transparent)]
    Kernels(#[from] kernels::Error),
    /// The model cannot be run as asked.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// A rank failed.
    #[error("running the engine")]
    Engine(#[from] team::Error),
    /// The workload does not fit the model or its cache.
    #[error("queueing sequences of {input_len} and {output_len} tokens")]
    Workload {
        /// Prompt tokens.
        input_len: usize,
        /// Output tokens.
        output_len: usize,
        /// Why not.
        #[source]
        source: Rejected,
    },
    /// Nobody takes the result.
    #[error("writing the result")]
    Write(#[from] io::Error),
}

/// What was computed in how long. A step that has any prompt tokens counts as prefill.
#[derive(Debug, Default)]
struct Measured {
    prefill_tokens: usize,
    prefill: Duration,
    decode_tokens: usize,
    decode: Duration,
}

/// Measures what was asked for and prints one JSON object.
///
/// # Errors
/// When that is not possible.
pub fn bench(command: &BenchCommand) -> Result<(), Error> {
    match command {
        BenchCommand::What(BenchWhat::Kernels(args)) => Ok(kernels::kernels(args)?),
        BenchCommand::Model(args) => bench_model(args),
    }
}

/// Loads the model and runs the workload once.
fn bench_model(args: &BenchArgs) -> Result<(), Error> {
    let model = model::open(&args.model)?;
    let started = Instant::now();
    let (team, _) = Team::load(&model.places.places, &model.load)?;
    let load = started.elapsed();
    let mut scheduler = queue(args, &model)?;
    let measured = run(&mut scheduler, &team)?;
    let result = render(args, &model, load, &measured);
    Ok(writeln!(io::stdout(), "{result}")?)
}

fn queue(args: &BenchArgs, model: &Model) -> Result<Scheduler, Error> {
    let limits = Limits {
        max_waiting: args.concurrency,
        ..model.limits
    };
    let mut scheduler = Scheduler::new(limits);
    for sequence in 0..args.concurrency {
        let request = request(args, model.vocab_size, sequence);
        scheduler
            .submit(request, Duration::ZERO)
            .map_err(|source| Error::Workload {
                input_len: args.input_len,
                output_len: args.output_len,
                source,
            })?;
    }
    Ok(scheduler)
}

/// Prompts that differ, of tokens that every vocabulary has.
fn request(args: &BenchArgs, vocab_size: usize, sequence: usize) -> Request {
    let token = |position: usize| {
        let token = (position * 31 + sequence * 7 + 1) % vocab_size;
        TokenId::try_from(token).unwrap_or(0)
    };
    Request {
        id: SequenceId(sequence as u64),
        prompt: (0..args.input_len).map(token).collect(),
        sampling: Sampling::greedy(),
        max_tokens: args.output_len,
        min_tokens: 0,
        stop_token_ids: vec![],
        terms: Terms::default(),
    }
}

fn run(scheduler: &mut Scheduler, team: &Team) -> Result<Measured, Error> {
    let mut measured = Measured::default();
    while let Some(batch) = scheduler.next() {
        let token_count = batch.token_count();
        // A prompt's last chunk yields output 0, every decode a later one.
        let is_decode = batch.sequences.iter().all(|sequence| {
            sequence
                .sample
                .as_ref()
                .is_some_and(|row| row.output_position > 0)
        });
        let started = Instant::now();
        let sampled = team.step(batch)?;
        measured.add(is_decode, token_count, started.elapsed());
        scheduler.advance(&sampled);
    }
    Ok(measured)
}

fn render(args: &BenchArgs, model: &Model, load: Duration, measured: &Measured) -> Value {
    json!({
        "model": model.name,
        "backend": model.backend.name(),
        "cpuTier": model.backend.tier(),
        "ranks": model.places.places.len(),
        "concurrency": args.concurrency,
        "inputLen": args.input_len,
        "outputLen": args.output_len,
        "loadSeconds": load.as_secs_f64(),
        "prefillTokens": measured.prefill_tokens,
        "prefillTokensPerSecond": per_second(measured.prefill_tokens, measured.prefill),
        "decodeTokens": measured.decode_tokens,
        "decodeTokensPerSecond": per_second(measured.decode_tokens, measured.decode),
    })
}

/// None where nothing was computed.
#[expect(
    clippy::cast_precision_loss,
    reason = "token counts are far below 2^52"
)]
fn per_second(token_count: usize, time: Duration) -> Option<f64> {
    (token_count > 0).then(|| token_count as f64 / time.as_secs_f64())
}

// === impl Measured ===

impl Measured {
    fn add(&mut self, is_decode: bool, token_count: usize, time: Duration) {
        let (tokens, total) = if is_decode {
            (&mut self.decode_tokens, &mut self.decode)
        } else {
            (&mut self.prefill_tokens, &mut self.prefill)
        };
        *tokens += token_count;
        *total += time;
    }
}
