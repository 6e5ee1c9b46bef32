//! The binary `berth-engine`: parses, runs, and tells how it ended.

use std::env;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::Context;
use berth_engine::args::{Args, Command};
use berth_engine::{bench, serve};
use clap::Parser;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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
    let asked = env::var("RUST_LOG").unwrap_or_default();
    tracing_subscriber::fmt()
        .with_env_filter(log_filter(&asked))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && is_colour_wanted())
        .init();
}

/// What `asked` says, else info. The HTTP server tells of its own start from debug on only, unless
/// it was asked by name.
fn log_filter(asked: &str) -> EnvFilter {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse_lossy(asked);
    if asked.contains("actix") || filter.max_level_hint() > Some(LevelFilter::INFO) {
        return filter;
    }
    filter.add_directive("actix_server=warn".parse().expect("a directive of ours"))
}

/// As <https://no-color.org> says: set to anything but nothing, there is none.
fn is_colour_wanted() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(asked: &str, expected: &str) {
        let filter = log_filter(asked).to_string();
        let mut directives: Vec<&str> = filter.split(',').collect();
        directives.sort_unstable();
        assert_eq!(directives.join(","), expected, "for {asked:?}");
    }

    #[test]
    fn the_http_server_is_quiet_until_debug() {
        check("", "actix_server=warn,info");
        check("info", "actix_server=warn,info");
        check("debug", "debug");
        check("info,actix_server=info", "actix_server=info,info");
    }
}
