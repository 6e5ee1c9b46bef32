//! The extender's process: started as it is shipped, asked until it is ready, ended with its handle.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Outcome;

/// A machine under load lists 20,000 pods in a few seconds.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// One that is ready.
#[derive(Debug)]
pub(crate) struct Extender {
    /// Up to the verb.
    pub(crate) url: String,
    /// From its start to the first 200 of `/readyz`.
    pub(crate) ready_s: f64,
    child: Child,
}

// === impl Extender ===

impl Extender {
    pub(crate) fn start(api: &str) -> Outcome<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let kubeconfig =
            std::env::temp_dir().join(format!("berth-bench-{}.kubeconfig", std::process::id()));
        fs::write(&kubeconfig, kubeconfig_of(api))?;
        let began = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_berth-extender"))
            .arg(format!("--listen={address}"))
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .env("RUST_LOG", "warn,kube_client=off")
            .stdin(Stdio::null())
            .spawn()?;
        let mut extender = Self {
            url: format!("http://{address}"),
            ready_s: 0.0,
            child,
        };
        extender.wait_until_ready(began)?;
        fs::remove_file(&kubeconfig)?;
        Ok(extender)
    }

    fn wait_until_ready(&mut self, began: Instant) -> Outcome<()> {
        let readyz = format!("{}/readyz", self.url);
        while ureq::get(&readyz).call().is_err() {
            if !self.is_running() {
                return Err("the extender has ended; see above".into());
            }
            if began.elapsed() > READY_WITHIN {
                return Err("the extender was not ready in time".into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.ready_s = began.elapsed().as_secs_f64();
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Memory in RAM now, and at most so far.
    pub(crate) fn rss_mib(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let mib = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key));
            let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            kib.unwrap_or(0) / 1_024
        };
        (mib("VmRSS:"), mib("VmHWM:"))
    }
}

impl Drop for Extender {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kubeconfig_of(api: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": api}}],
        "users": [{"name": "bench", "user": {"token": "bench"}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    })
    .to_string()
}
