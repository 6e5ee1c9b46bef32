//! `berth-test-machine`: recorded machines as files, from the command line.
//!
//! * `materialize RAW_FILE DIR`: writes sysfs, hwloc's XML and prints the agent's command line
//! * `add-gpus RAW_FILE`: the host in that file with two stand-in GPUs, on stdout

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use berth_test_machine::{NVML_MACHINE, host, materialize};
use berth_topology::raw::RawMachine;

const USAGE: &str = "usage: berth-test-machine materialize RAW_FILE DIR | add-gpus RAW_FILE";

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what the command is for"
)]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = match args[..] {
        ["materialize", raw, dir] => files(raw.as_ref(), dir.as_ref()),
        ["add-gpus", raw] => with_gpus(raw.as_ref()),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match output {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn files(raw: &Path, dir: &Path) -> Result<String, Box<dyn Error>> {
    std::fs::create_dir_all(dir)?;
    let files = materialize(&read(raw)?, dir)?;
    let args = files.agent_args();
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let raw_file = files.raw_file.display();
    Ok(format!(
        "{NVML_MACHINE}={raw_file} berth-node-agent {}",
        args.join(" ")
    ))
}

fn with_gpus(raw: &Path) -> Result<String, Box<dyn Error>> {
    Ok(serde_json::to_string_pretty(&host::with_two_gpus(read(
        raw,
    )?))?)
}

fn read(path: &Path) -> Result<RawMachine, Box<dyn Error>> {
    let text =
        std::fs::read(path).map_err(|error| format!("reading {}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()).into())
}
