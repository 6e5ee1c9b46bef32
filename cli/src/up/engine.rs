//! The engine as a child process: it ends with us.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::args::UpArgs;
use crate::{program, say};

use super::stop::Stop;

/// The engine gives running requests 25 s.
const STOP_WAIT_MAX: Duration = Duration::from_secs(40);
/// What a pod's environment would say; here nothing but our file counts.
const POD_VARIABLES: [&str; 4] = [
    "BERTH_ALLOCATION",
    "BERTH_CONTAINER",
    "BERTH_POD_UID",
    "BERTH_NODE",
];

/// A running engine.
pub(super) struct Engine {
    child: Child,
    address: SocketAddr,
}

/// The address that the engine will listen on, seen to be free now.
pub(super) fn free_address(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    match TcpListener::bind((host, port)) {
        Ok(listener) => listener.local_addr().context("asking for the address"),
        Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
            "port {port} of {host} is in use: stop what listens there, or choose another with --port"
        ),
        Err(error) => Err(error).with_context(|| format!("listening on {host} port {port}")),
    }
}

// === impl Engine ===

impl Engine {
    pub(super) fn start(
        args: &UpArgs,
        address: SocketAddr,
        assignment: &Path,
    ) -> anyhow::Result<Self> {
        let program = program::find("berth-engine", args.engine.as_deref())?;
        let mut command = Command::new(&program);
        command
            .args(["serve", "--device", "cpu", "--model"])
            .arg(&args.model)
            .arg("--assignment")
            .arg(assignment)
            .args(["--host", &args.host, "--port", &address.port().to_string()])
            .stdin(Stdio::null())
            // Its own lines are progress, not our answer.
            .stdout(std::io::stderr())
            // Ctrl-C reaches us alone: a second signal would make the engine drop its requests.
            .process_group(0)
            .kill_on_drop(true);
        for variable in POD_VARIABLES {
            command.env_remove(variable);
        }
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        say(&format!(
            "started {} (process {})",
            program.display(),
            child.id().unwrap_or_default()
        ));
        Ok(Self { child, address })
    }

    /// Where to ask it: this machine, if it listens everywhere.
    pub(super) fn address(&self) -> SocketAddr {
        let mut address = self.address;
        match address {
            SocketAddr::V4(v4) if v4.ip().is_unspecified() => address.set_ip([127, 0, 0, 1].into()),
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
                address.set_ip(std::net::Ipv6Addr::LOCALHOST.into());
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => {}
        }
        address
    }

    /// Why it is gone, if it is.
    pub(super) fn early_end(&mut self) -> anyhow::Result<Option<anyhow::Error>> {
        let status = self.child.try_wait().context("looking after the engine")?;
        Ok(status.map(|status| {
            anyhow!(
                "the engine ended with {status} before it was ready; its own lines above say why"
            )
        }))
    }

    /// Waits until it ends by itself, which it should not.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => anyhow!("the engine ended with {status}; its own lines above say why"),
            Err(error) => anyhow::Error::new(error).context("waiting for the engine"),
        }
    }

    /// Asks it to end and waits; another signal to us, or too long a wait, kills it.
    pub(super) async fn stop(&mut self, stop: &mut Stop) -> anyhow::Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        say("stopping the engine");
        // It may have ended by itself since; then there is nobody to ask.
        let _ = kill_process(pid, Signal::TERM);
        let ended: Option<std::io::Result<ExitStatus>> = tokio::select! {
            ended = timeout(STOP_WAIT_MAX, self.child.wait()) => ended.ok(),
            () = stop.wait() => None,
        };
        match ended {
            Some(status) => status.map(|_| ()).context("waiting for the engine to end"),
            None => self.child.kill().await.context("killing the engine"),
        }
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.id()?.try_into().ok()?)
    }
}
