//! One process of the real binary, gone with its handle. There is no cluster, so the scheduler's verbs say
//! 503.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const NOWHERE: &str = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "c",
    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    "users": [{"name": "u", "user": {}}]}"#;

/// The process, and where it listens.
pub(crate) struct Extender {
    process: Child,
    /// Address and port.
    pub(crate) address: String,
}

// === impl Extender ===

impl Extender {
    /// Starts it with these arguments beside its own; its files go to `folder`.
    pub(crate) fn start<S: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>) -> Self {
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, NOWHERE).expect("a file can be written");
        let mut process = Command::new(env!("CARGO_BIN_EXE_berth-extender"))
            .args(["--listen", "127.0.0.1:0", "--kubeconfig"])
            .arg(kubeconfig)
            .args(args)
            .env("RUST_LOG", "info")
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is there");
        let mut log = BufReader::new(process.stderr.take().expect("it is piped")).lines();
        let line = log.find_map(|line| line.ok().filter(|line| line.contains("listening")));
        // What it says later must not fill the pipe.
        std::thread::spawn(move || log.for_each(drop));
        let line = line.expect("it listens");
        let (_, address) = line.rsplit_once("address=").expect("it says where");
        let address = address.trim().to_owned();
        Self { process, address }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Extender {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
