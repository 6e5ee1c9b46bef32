//! One slice: a program that runs alone and prints tokens per second.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cell::{Cell, Phase};

/// Tokens per second of our engine.
pub(crate) fn ours(cell: &Cell, model: &Path) -> Result<f64> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth-engine"));
    command.args(["bench", "--backend", "cpu", "--model"]);
    command.arg(model);
    for (flag, number) in [
        ("--input-len", cell.input_len),
        ("--output-len", cell.output_len),
        ("--concurrency", cell.concurrency),
    ] {
        command.args([flag, &number.to_string()]);
    }
    let field = match cell.phase {
        Phase::Prefill => "prefillTokensPerSecond",
        Phase::Decode => "decodeTokensPerSecond",
    };
    number(&run(&mut command)?, field)
}

/// Tokens per second of llama.cpp, whose programs are in `folder`.
pub(crate) fn llama_cpp(cell: &Cell, folder: &Path, model: &Path) -> Result<f64> {
    let threads = thread::available_parallelism()?.to_string();
    let (input_len, output_len) = (cell.input_len.to_string(), cell.output_len.to_string());
    if cell.concurrency == 1 {
        let mut command = Command::new(folder.join("llama-bench"));
        command.args(["-o", "json", "-r", "1", "-t", &threads, "-m"]);
        command.arg(model);
        match cell.phase {
            Phase::Prefill => command.args(["-p", &input_len, "-n", "0"]),
            Phase::Decode => command.args(["-p", "0", "-n", &output_len, "-d", &input_len]),
        };
        return number(&run(&mut command)?, "avg_ts");
    }
    let concurrency = cell.concurrency.to_string();
    let context = (cell.concurrency * (cell.input_len + cell.output_len)).to_string();
    let mut command = Command::new(folder.join("llama-batched-bench"));
    command.args(["--output-format", "jsonl", "-t", &threads, "-tb", &threads]);
    command.args(["-c", &context, "-npl", &concurrency]);
    command.args(["-npp", &input_len, "-ntg", &output_len, "-m"]);
    command.arg(model);
    number(&run(&mut command)?, "speed_tg")
}

fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {name}"))?;
    let log = String::from_utf8_lossy(&output.stderr);
    let last = log.lines().last().unwrap_or_default();
    ensure!(output.status.success(), "{name}: {}: {last}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Of an object, of an array's last, or of the last line that is one.
fn number(text: &str, field: &str) -> Result<f64> {
    let whole = serde_json::from_str(text).ok();
    let lines = || {
        text.lines()
            .rev()
            .find_map(|line| serde_json::from_str(line).ok())
    };
    let value: Option<Value> = whole.or_else(lines);
    let object = match &value {
        Some(Value::Array(several)) => several.last(),
        other => other.as_ref(),
    };
    let number = object.and_then(|object| object.get(field)?.as_f64());
    number.with_context(|| format!("no {field} in what it printed: {text}"))
}
