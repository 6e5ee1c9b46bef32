//! Minutes of everything at a time against a real engine, then faults: `./x bench soak`.
//!
//! Whole answers, streams, clients that leave, that read slowly or not at all, refusals, and bursts at four
//! times what the engine takes. Prints JSON, and ends with 1 where an answer was neither right nor a 429,
//! memory grew, or a block of the KV cache was not given back.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command that people run"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use serde_json::json;

use engine::Engine;

mod client;
mod dice;
mod engine;
mod faults;
mod load;
mod watch;

/// Sequences that run at a time.
const RUNNING: usize = 16;
/// Sequences that wait beside them.
const WAITING: usize = 48;

/// `./x bench soak`.
#[derive(Debug, Parser)]
struct Args {
    /// A GGUF file or a Hugging Face folder.
    #[arg(long, env = "BERTH_TEST_MODEL")]
    model: PathBuf,
    /// How long the mixed load goes on.
    #[arg(long, default_value_t = 1800)]
    seconds: u64,
    /// Of the dice that choose what each client does.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave the faults out.
    #[arg(long)]
    no_faults: bool,
    /// What cargo gives to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let engine = Engine::start(&args.model)?;
    let watch = watch::Watch::start(engine.process_id(), engine.address());
    let tally = load::run(
        engine.address(),
        Duration::from_secs(args.seconds),
        args.seed,
    );
    let memory = watch.end();
    let left = engine.left_at_rest();
    drop(engine);
    let faults = if args.no_faults {
        vec![]
    } else {
        faults::truncations(&args.model)?
    };
    let mut broken = tally.faults.clone();
    broken.extend(memory.growth());
    broken.extend(left.err().map(|error| format!("{error:#}")));
    broken.extend(faults.iter().filter_map(faults::Outcome::fault));
    let outcomes: Vec<_> = faults.iter().map(faults::Outcome::json).collect();
    println!(
        "{:#}",
        json!({
            "seconds": args.seconds,
            "seed": args.seed,
            "load": tally.json(),
            "memory": memory.json(),
            "faults": outcomes,
            "broken": broken,
        })
    );
    Ok(ExitCode::from(u8::from(!broken.is_empty())))
}
