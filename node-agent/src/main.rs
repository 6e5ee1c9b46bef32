//! The binary: parse, build, run. Exit codes: 0 yes, 1 error, 2 usage.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use berth_node_agent::args::{Args, Command};
use berth_node_agent::{agent, tune};
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match start(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // nobody is left to tell when standard error itself is closed
            let _ = writeln!(std::io::stderr(), "berth-node-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all that was asked for was done.
fn start(args: &Args) -> anyhow::Result<bool> {
    let filter = EnvFilter::try_new(&args.log).context("--log is not a filter")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    // fails only where one is installed already
    let _ = rustls::crypto::ring::default_provider().install_default();
    // one thread serves: the agent is idle but for one small call every 15 s
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match &args.command {
        Some(Command::Tune(args)) => runtime.block_on(tune::run(args)),
        None => runtime.block_on(agent::run(args)).map(|()| true),
    }
}
