//! Reads what an extender remembers: over HTTP, or out of a file that it wrote.

use std::fs::File;
use std::io::{Read, stdin};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use berth_extender_core::record::archive::{Archive, Opened};

use crate::args::cluster::SourceArgs;

/// A snapshot of thousands of nodes is tens of megabytes.
const BODY_BYTES_MAX: u64 = 512 << 20;
/// It is written while the extender goes on answering.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
/// It is answered from memory.
const READY_WAIT_MAX: Duration = Duration::from_secs(5);
const HOW_TO_REACH: &str =
    "reach it with: kubectl -n berth-system port-forward deploy/berth-scheduler 8888";

/// What the extender at `url` answers to a GET.
pub(crate) fn get(url: &str, path: &str) -> anyhow::Result<String> {
    let url = format!("{}{path}", url.trim_end_matches('/'));
    let asked = ask(&url, ANSWER_WAIT_MAX);
    let (status, body) = asked.with_context(|| format!("asking {url}; {HOW_TO_REACH}"))?;
    if (200..300).contains(&status) {
        return Ok(body);
    }
    let error: Option<serde_json::Value> = serde_json::from_str(&body).ok();
    let sentence = error.as_ref().and_then(|error| error["error"].as_str());
    match sentence {
        Some(sentence) => bail!("{sentence}"),
        None => bail!("{url} answered {status}"),
    }
}

/// Status and text of the extender's `/readyz`.
pub(crate) fn readiness(url: &str) -> anyhow::Result<(u16, String)> {
    ask(
        &format!("{}/readyz", url.trim_end_matches('/')),
        READY_WAIT_MAX,
    )
}

fn ask(url: &str, wait_max: Duration) -> anyhow::Result<(u16, String)> {
    // A proxy from the environment must not stand between us and a forwarded port.
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(wait_max))
        .build()
        .new_agent();
    let mut response = agent.get(url).call()?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(BODY_BYTES_MAX);
    Ok((status, body.read_to_string()?))
}

/// The snapshot that a file holds, or that the extender writes now.
pub(crate) fn snapshot(source: &SourceArgs) -> anyhow::Result<Opened> {
    match &source.from {
        Some(path) => open(path),
        None => read(&get(&source.extender, "/snapshot")?).context("reading the snapshot"),
    }
}

/// The snapshot that a file holds.
pub(crate) fn open(path: &Path) -> anyhow::Result<Opened> {
    let text = text(path, BODY_BYTES_MAX)?;
    read(&text).with_context(|| format!("reading the snapshot {}", path.display()))
}

/// A file's text, or stdin's for `-`.
pub(crate) fn text(path: &Path, bytes_max: u64) -> anyhow::Result<String> {
    let context = || format!("reading {}", path.display());
    let source: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(stdin().lock()),
        false => Box::new(File::open(path).with_context(context)?),
    };
    let mut text = String::new();
    source
        .take(bytes_max + 1)
        .read_to_string(&mut text)
        .with_context(context)?;
    if text.len() as u64 > bytes_max {
        bail!("{} is longer than {bytes_max} bytes", path.display());
    }
    Ok(text)
}

fn read(text: &str) -> anyhow::Result<Opened> {
    let archive: Archive = serde_json::from_str(text)
        .map_err(|error| anyhow!("it is not what `berth snapshot` writes: {error}"))?;
    Ok(archive.open()?)
}
