//! A model file that is cut off while the engine loads it, or after.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::client::answer;
use crate::engine::{address, spawn};

/// After the start: before the file is opened, while it is read, when it is loaded.
const DELAYS_MS: [u64; 8] = [0, 5, 20, 50, 100, 200, 500, 5000];
const PATIENCE: Duration = Duration::from_secs(120);

/// What became of one engine.
#[derive(Debug)]
pub(crate) struct Outcome {
    delay_ms: u64,
    /// It ended so; none where it serves.
    ended: Option<std::process::ExitStatus>,
    /// And answers.
    answers: bool,
}

/// # Errors
/// When the model cannot be copied or the engine not started.
pub(crate) fn truncations(model: &Path) -> Result<Vec<Outcome>> {
    DELAYS_MS
        .iter()
        .map(|delay_ms| truncation(model, *delay_ms))
        .collect()
}

fn truncation(model: &Path, delay_ms: u64) -> Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let copy = folder
        .path()
        .join(model.file_name().context("the model is a file")?);
    fs::copy(model, &copy).context("copying the model")?;
    let mut child = spawn(&copy)?;
    thread::sleep(Duration::from_millis(delay_ms));
    let length = fs::metadata(&copy)?.len();
    File::options()
        .write(true)
        .open(&copy)?
        .set_len(length / 2)?;
    let mut outcome = Outcome {
        delay_ms,
        ended: None,
        answers: false,
    };
    let Some(address) = address(&mut child)? else {
        outcome.ended = Some(child.wait()?);
        return Ok(outcome);
    };
    let deadline = Instant::now() + PATIENCE;
    while outcome.ended.is_none() && !outcome.answers && Instant::now() < deadline {
        outcome.ended = child.try_wait()?;
        let body = json!({"prompt": "One, two,", "max_tokens": 4});
        outcome.answers =
            answer(address, "/v1/completions", Some(&body)).is_ok_and(|(status, _)| status == 200);
        thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
    Ok(outcome)
}

// === impl Outcome ===

impl Outcome {
    /// It must say what is wrong and end with 1, or serve what it has loaded.
    pub(crate) fn fault(&self) -> Option<String> {
        let delay_ms = self.delay_ms;
        let found = match self.ended {
            Some(status) if status.code() == Some(1) => return None,
            None if self.answers => return None,
            Some(status) => format!("code {:?}, signal {:?}", status.code(), status.signal()),
            None => "neither end nor answer".to_owned(),
        };
        Some(format!("model truncated after {delay_ms} ms: {found}"))
    }

    pub(crate) fn json(&self) -> Value {
        let code = self.ended.and_then(|status| status.code());
        json!({"truncatedAfterMs": self.delay_ms, "exitCode": code, "answers": self.answers})
    }
}
