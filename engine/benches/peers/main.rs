//! Our engine and llama.cpp in turns, on one model: `./x bench engine`.
//!
//! Hosts that are shared give a core away for seconds and double their bandwidth for others. So a
//! slice of ours is followed by one of the peer's, each begins with a probe of what the cores
//! multiply and read just then, slices in which two cores have less than 1.8 times what one has
//! are dropped and counted, and what counts is the median of the ratios of pairs. Prints JSON.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command that people run"
)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};

use cell::{CELLS, Cell};
use pairs::Pairs;
use probe::Probe;

mod cell;
mod command;
mod pairs;
mod probe;

/// `./x bench engine`.
#[derive(Debug, Parser)]
#[command(name = "./x bench engine")]
struct Args {
    /// A GGUF file, which both can read.
    #[arg(long, env = "BERTH_TEST_MODEL")]
    model: PathBuf,
    /// The folder with llama.cpp's `llama-bench` and `llama-batched-bench`, built for this machine
    /// (CMake, Release). Without it only ours is measured.
    #[arg(long, value_name = "DIR")]
    llama_cpp: Option<PathBuf>,
    /// Pairs of slices of each cell.
    #[arg(long, default_value_t = 9, value_name = "N")]
    pairs: usize,
    /// Only these cells: prefill-512, decode-1, decode-8, decode-16. Default: all.
    #[arg(long, value_delimiter = ',', value_name = "CELL")]
    cells: Vec<String>,
    /// What cargo gives to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let cells = chosen(&args.cells)?;
    let model_bytes = fs::metadata(&args.model)
        .with_context(|| format!("looking at {}", args.model.display()))?
        .len();
    let mut probe = Probe::new()?;
    let load_before = load();
    let mut results = vec![];
    for cell in cells {
        let pairs = measure(cell, &args, &mut probe)?;
        results.push(pairs.render(cell, model_bytes));
    }
    println!(
        "{:#}",
        json!({
            "model": name(&args.model),
            "modelBytes": model_bytes,
            "tier": probe.tier(),
            "cpus": probe.cpu_count(),
            "load": [load_before, load()],
            "pairs": args.pairs,
            "cells": results,
        })
    );
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Cell>> {
    for name in names {
        let is_one = CELLS.iter().any(|cell| cell.name == name);
        let all: Vec<&str> = CELLS.iter().map(|cell| cell.name).collect();
        ensure!(is_one, "--cells {name}: there are {}", all.join(", "));
    }
    let wanted = |cell: &&Cell| names.is_empty() || names.iter().any(|name| name == cell.name);
    Ok(CELLS.iter().filter(wanted).collect())
}

fn measure(cell: &Cell, args: &Args, probe: &mut Probe) -> Result<Pairs> {
    let mut pairs = Pairs::default();
    for number in 1..=args.pairs {
        eprintln!("{}: pair {number} of {}", cell.name, args.pairs);
        let before_ours = probe.moment();
        let ours = command::ours(cell, &args.model)?;
        let Some(folder) = &args.llama_cpp else {
            pairs.add(before_ours, ours, None);
            continue;
        };
        let before_peer = probe.moment();
        let peer = command::llama_cpp(cell, folder, &args.model)?;
        pairs.add(before_ours, ours, Some((before_peer, peer)));
    }
    Ok(pairs)
}

fn name(model: &Path) -> Option<String> {
    Some(model.file_stem()?.to_string_lossy().into_owned())
}

/// Of the last minute, where the kernel tells.
fn load() -> Option<Value> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let first: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(json!(first))
}
