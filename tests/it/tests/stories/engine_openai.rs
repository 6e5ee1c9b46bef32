//! The openai client, as people install it, against the engine.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use berth_it::engine::{Engine, model};
use berth_it::openai;
use berth_it::programs::repository;
use berth_it::story::{Stage, story_with_program};

/// What it asks is in this script, one function for each.
const CONTRACT: &str = "engine/tests/openai/contract.py";
const FLAGS: [&str; 6] = [
    "--served-model-name",
    "smollm2",
    // Fewer than one of the checks sends at a time.
    "--max-waiting-requests",
    "32",
    "--max-model-len",
    "1024",
];

#[test]
fn the_openai_client_gets_what_it_relies_on() -> Result<()> {
    let name = "engine_openai::the_openai_client_gets_what_it_relies_on";
    story_with_program(name, openai::client, |client| {
        let stage = Stage::new(name, "berth-story-")?;
        let engine = Engine::serve(&model()?, &FLAGS, stage.folder())?;
        contract_holds(client, engine.port)
    })
}

fn contract_holds(client: &Path, port: u16) -> Result<()> {
    let output = Command::new("python3")
        .arg(repository().join(CONTRACT))
        .arg(format!("http://127.0.0.1:{port}"))
        .env("PYTHONPATH", client)
        .output()
        .context("running python3")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}\n{why}");
    Ok(())
}
