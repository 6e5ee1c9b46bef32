//! The engine as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::client::answer;
use crate::{RUNNING, WAITING};

const PATIENCE: Duration = Duration::from_secs(300);

/// Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Engine {
    child: Child,
    address: SocketAddr,
}

/// One that may not get as far as to listen.
pub(crate) fn spawn(model: &Path) -> Result<Child> {
    Command::new(env!("CARGO_BIN_EXE_berth-engine"))
        .args(["serve", "--port", "0", "--max-model-len", "1024"])
        .args(["--max-num-seqs", &RUNNING.to_string()])
        .args(["--max-waiting-requests", &WAITING.to_string()])
        .args(["--slow-client-timeout", "5", "--model"])
        .arg(model)
        .stderr(Stdio::piped())
        .spawn()
        .context("starting the engine")
}

/// Reads the log until the engine listens; none where it ends before. The rest of the log is passed on.
pub(crate) fn address(child: &mut Child) -> Result<Option<SocketAddr>> {
    let log = child.stderr.take().context("its log is piped")?;
    let mut lines = BufReader::new(log).lines();
    for line in lines.by_ref() {
        let line = line.context("reading its log")?;
        eprintln!("{line}");
        if let Some((_, address)) = line.split_once("listening on http://") {
            let rest = lines.map_while(Result::ok);
            thread::spawn(move || rest.for_each(|line| eprintln!("{line}")));
            return Ok(Some(address.trim().parse()?));
        }
    }
    Ok(None)
}

// === impl Engine ===

impl Engine {
    pub(crate) fn start(model: &Path) -> Result<Self> {
        let mut child = spawn(model)?;
        let Some(address) = address(&mut child)? else {
            bail!("the engine ended at its start: {}", child.wait()?);
        };
        let engine = Self { child, address };
        let deadline = Instant::now() + PATIENCE;
        while !answer(address, "/ready", None).is_ok_and(|(status, _)| status == 200) {
            ensure!(Instant::now() < deadline, "the engine is never ready");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(engine)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Nothing runs, waits or holds a block once all clients are gone.
    pub(crate) fn left_at_rest(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (_, page) = answer(self.address, "/metrics", None)?;
            let gauges = [
                "num_requests_running",
                "num_requests_waiting",
                "kv_cache_usage_perc",
            ];
            let held: Vec<_> = gauges
                .iter()
                .filter(|gauge| value(&page, gauge) != Some(0.0))
                .collect();
            if held.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "with no client left, these are not 0: {held:?}"
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn value(page: &str, gauge: &str) -> Option<f64> {
    let start = format!("vllm:{gauge}{{");
    let line = page.lines().find(|line| line.starts_with(&start))?;
    line.rsplit(' ').next()?.parse().ok()
}
