//! The binary: parse, run, exit code.

use std::io::stdout;
use std::process::ExitCode;

use berth_cli::args::Args;
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    berth_cli::exit_code(berth_cli::run(&args, &mut stdout()))
}
