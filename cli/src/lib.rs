//! People's view: machines, placement, the loop on this machine.
//!
//! JSON and results go to stdout, sentences to stderr. Exit codes are part of the interface: 0 yes,
//! 1 error, 2 wrong usage, 3 refused.

#![forbid(unsafe_code)]

pub mod args;
mod doctor;
mod explain;
mod extender;
mod list;
mod paint;
mod place;
mod plan;
mod program;
mod replay;
mod show;
mod simulate;
mod snapshot;
mod source;
mod table;
mod up;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use args::cluster::{ExplainCommand, PlanCommand};
use args::{Args, Command, MachineCommand};

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked.
    Done,
    /// The answer is no: placement refused, no plan was found, an expectation did not hold, or the
    /// doctor found something.
    Refused,
}

/// What was asked makes no sense for this machine: exit code 2, as for a wrong flag.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Runs one command; results go to `out`.
///
/// # Errors
/// When something it needs cannot be read, started or written.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    match &args.command {
        Command::Machine(MachineCommand::List(args)) => list::list(args, out),
        Command::Machine(MachineCommand::Show(args)) => show::show(args, out),
        Command::Place(args) => place::place(args, out),
        Command::Explain(ExplainCommand::Pod(args)) => explain::explain(args, out),
        Command::Explain(ExplainCommand::Replay(args)) => replay::replay(args, out),
        Command::Snapshot(args) => snapshot::snapshot(args, out),
        Command::Simulate(args) => simulate::simulate(args, out),
        Command::Plan(PlanCommand::Repack(args)) => plan::plan_repack(args, out),
        Command::Doctor(args) => doctor::doctor(args, out),
        Command::Up(args) => up::up(args, out),
    }
}

/// The process's exit code; says on stderr what went wrong.
#[must_use]
pub fn exit_code(result: anyhow::Result<Outcome>) -> ExitCode {
    let error = match result {
        Ok(Outcome::Done) => return ExitCode::SUCCESS,
        Ok(Outcome::Refused) => return ExitCode::from(3),
        Err(error) => error,
    };
    // Who closes our pipe (`berth … | head`) has seen enough.
    let io_kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    if io_kind == Some(io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    say(&format!("berth: {error:#}"));
    if error.is::<Usage>() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// A sentence for people. Nothing can be done where stderr is closed.
pub(crate) fn say(sentence: &str) {
    let _ = writeln!(io::stderr(), "{sentence}");
}
