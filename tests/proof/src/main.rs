//! `berth-proof`: plays seeds, and tells the story of one.

use std::io::Write as _;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use berth_proof::run::{Failure, play, replay};
use berth_proof::sabotage::Sabotage;
use clap::{Parser, Subcommand};
use serde_json::json;

/// Seeds between two lines of progress.
const PROGRESS_EVERY: u64 = 100_000;
/// Failures whose stories are told.
const STORIES_MAX: usize = 3;

/// Plays the extender's decisions through seeded interleavings.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays a range of seeds; ends with 1 if one breaks a promise.
    Run {
        /// First seed and the one after the last, as `0..5000`.
        #[arg(long, value_parser = range)]
        seeds: Range<u64>,
        /// Seeds played at once.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// The result as JSON on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Tells what happens in one seed's world, cut to what breaks a promise.
    Replay {
        /// The seed.
        seed: u64,
    },
}

fn main() -> Result<ExitCode> {
    match Args::parse().command {
        Command::Run { seeds, jobs, json } => run(&seeds, jobs, json),
        Command::Replay { seed } => tell(seed),
    }
}

fn run(seeds: &Range<u64>, jobs: usize, is_json: bool) -> Result<ExitCode> {
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let failures: Mutex<Vec<u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| work(seeds, &next, &failures, began));
        }
    });
    let mut failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    failures.sort_unstable();
    let seconds = began.elapsed().as_secs_f64();
    let count = seeds.end - seeds.start;
    for seed in failures.iter().take(STORIES_MAX) {
        if let Err(failure) = replay(*seed, Sabotage::Nothing) {
            show(&failure)?;
        }
    }
    let text = if is_json {
        let first: Vec<u64> = failures.iter().take(100).copied().collect();
        json!({"seeds": count, "from": seeds.start, "failures": failures.len(), "failed": first,
            "seconds": seconds})
        .to_string()
    } else {
        format!("{count} seeds, {} failures, {seconds:.1} s", failures.len())
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn work(seeds: &Range<u64>, next: &AtomicU64, failures: &Mutex<Vec<u64>>, began: Instant) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end {
            return;
        }
        if play(seed, Sabotage::Nothing).is_some() {
            failures
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(seed);
        }
        let done = seed + 1 - seeds.start;
        if done.is_multiple_of(PROGRESS_EVERY) {
            let failed = failures
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .len();
            let seconds = began.elapsed().as_secs();
            // Nobody to tell: the run goes on.
            let _ = writeln!(
                std::io::stderr(),
                "{done} seeds, up to {seed}, {failed} failures, {seconds} s"
            );
        }
    }
}

fn tell(seed: u64) -> Result<ExitCode> {
    match replay(seed, Sabotage::Nothing) {
        Ok(log) => {
            writeln!(std::io::stdout(), "{}\nevery promise held", log.join("\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            show(&failure)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn show(failure: &Failure) -> Result<()> {
    let Failure {
        seed,
        violation,
        event_count,
        log,
    } = failure;
    let mut out = std::io::stdout();
    writeln!(out, "{}", log.join("\n"))?;
    writeln!(
        out,
        "seed {seed} broke a promise after {event_count} events: {violation}"
    )?;
    Ok(())
}

fn range(text: &str) -> Result<Range<u64>> {
    let (start, end) = text.split_once("..").context("as 0..5000")?;
    let range = start.parse()?..end.parse()?;
    ensure!(range.start < range.end, "no seeds in {text}");
    Ok(range)
}
