//! The binary `berth-engine`: parses, runs, and tells how it ended.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::Context;
use berth_engine::args::{Args, Command};
use berth_engine::{bench, serve};
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Wrong usage ends here, with 2.
    let args = Args::parse();
    install_log();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Serve(args) => serve::serve(args).context("berth-engine serve"),
        Command::Bench(args) => bench::bench(args).context("berth-engine bench"),
    }
}

/// On stderr: stdout is for results.
fn install_log() {
    let default = || EnvFilter::new("info,actix_server=warn");
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| default()))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
