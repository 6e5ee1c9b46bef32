//! Runs the binary.

use std::process::{Command, Output};

/// `berth` without anything from the environment that it would read.
pub(crate) fn berth(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(args);
    for variable in [
        "BERTH_MODEL",
        "BERTH_ENGINE",
        "BERTH_AGENT",
        "BERTH_EXTENDER",
    ] {
        command.env_remove(variable);
    }
    command
}

/// What it answers to a line of arguments.
pub(crate) fn run(line: &str) -> Output {
    let args: Vec<&str> = line.split_whitespace().collect();
    berth(&args).output().unwrap()
}

/// Its output as a reader of the terminal has it: stdout, stderr marked, then the exit code.
pub(crate) fn transcript(line: &str) -> String {
    let output = run(line);
    let stderr: String = text(&output.stderr)
        .lines()
        .map(|line| format!("! {line}\n"))
        .collect();
    format!(
        "{}{stderr}= {}\n",
        text(&output.stdout),
        output.status.code().unwrap()
    )
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
