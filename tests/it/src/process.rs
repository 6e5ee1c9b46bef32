//! A program that a story runs: logged, in a process group of its own, restarted where asked, and gone
//! with its handle, or with this process however that ends.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};

/// As the kubelet's first restart, but sooner: its back-off is not what the stories are about.
const RESTART_AFTER: Duration = Duration::from_millis(300);
/// Sets the host name of its own UTS namespace, then becomes the program.
const WITH_HOST_NAME: &str = r#"echo "$0" > /proc/sys/kernel/hostname && exec "$@""#;

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// For the log's file name and for messages.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment but `PATH`.
    pub env: Vec<(String, String)>,
    /// A host name of its own (`unshare --uts`).
    pub host_name: Option<String>,
}

/// What happens when it ends by itself or is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// It stays ended.
    Stay,
    /// It is started again, as a kubelet would.
    StartAgain,
}

/// A program that runs. Dropping it kills the whole process group.
#[derive(Debug)]
pub struct Process {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    program: Program,
    on_exit: OnExit,
    log: PathBuf,
    state: Mutex<State>,
    /// Told when the handle is dropped, so that a restart's delay ends early.
    changed: Condvar,
}

/// Changed by the keeper thread; `stopping` by the handle.
#[derive(Debug, Default)]
struct State {
    pid: Option<u32>,
    starts: u32,
    stopping: bool,
    last_exit: Option<String>,
}

// === impl Program ===

impl Program {
    /// A program without arguments.
    #[must_use]
    pub fn new(name: &str, path: &Path) -> Self {
        Self {
            name: name.to_owned(),
            path: path.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            host_name: None,
        }
    }

    /// With these arguments after those it has.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// With this variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In a UTS namespace with this host name.
    #[must_use]
    pub fn host_name(mut self, name: &str) -> Self {
        self.host_name = Some(name.to_owned());
        self
    }

    /// Each of these only execs the next, so the child's pid is the program's. `setpriv` ends it with
    /// the thread that started it: the keeper, which lives as long as this process.
    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Some(host_name) = &self.host_name {
            command.args([
                "unshare",
                "--uts",
                "--",
                "sh",
                "-c",
                WITH_HOST_NAME,
                host_name,
            ]);
        }
        command.arg(&self.path).args(&self.args);
        command.env_clear().envs(self.env.iter().cloned());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).process_group(0);
        command
    }
}

// === impl Process ===

impl Process {
    /// Starts it; its output goes to `NAME.log` in `folder`, after what is there.
    ///
    /// # Errors
    /// When the log cannot be opened. A program that cannot be started says so in its log.
    pub fn start(program: Program, on_exit: OnExit, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{}.log", program.name));
        open_log(&log)?;
        let shared = Arc::new(Shared {
            program,
            on_exit,
            log,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let kept = Arc::clone(&shared);
        let keeper = std::thread::Builder::new()
            .name(format!("keep {}", shared.program.name))
            .spawn(move || keep(&kept))
            .context("starting the thread that keeps a program")?;
        Ok(Self {
            shared,
            keeper: Some(keeper),
        })
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.shared.lock().pid
    }

    /// How often it was started.
    #[must_use]
    pub fn starts(&self) -> u32 {
        self.shared.lock().starts
    }

    /// How its last run ended; absent while the first one lasts.
    #[must_use]
    pub fn last_exit(&self) -> Option<String> {
        self.shared.lock().last_exit.clone()
    }

    /// `kill -9`; a supervised program is then started again.
    pub fn kill(&self) {
        signal_group(self.shared.lock().pid, Signal::KILL);
    }

    /// SIGTERM, as a kubelet sends it first; a supervised program is then started again.
    pub fn terminate(&self) {
        signal_group(self.shared.lock().pid, Signal::TERM);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stopping = true;
            signal_group(state.pid, Signal::KILL);
        }
        self.shared.changed.notify_all();
        if let Some(keeper) = self.keeper.take() {
            // A keeper that panicked has nothing left to clean up.
            drop(keeper.join());
        }
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keeper's life: start, wait, start again.
fn keep(shared: &Shared) {
    while let Some(mut child) = start_unless_stopping(shared) {
        let ended = child.wait();
        let mut state = shared.lock();
        state.pid = None;
        state.last_exit = Some(ended.map_or_else(|error| error.to_string(), |s| s.to_string()));
        if shared.on_exit == OnExit::Stay {
            return;
        }
        let stopping = |state: &mut State| !state.stopping;
        drop(
            shared
                .changed
                .wait_timeout_while(state, RESTART_AFTER, stopping),
        );
    }
}

/// Under the lock, so that a handle that is dropped meanwhile either prevents it or sees its pid.
fn start_unless_stopping(shared: &Shared) -> Option<Child> {
    let mut state = shared.lock();
    if state.stopping {
        return None;
    }
    match spawn(shared) {
        Ok(child) => {
            state.pid = Some(child.id());
            state.starts += 1;
            Some(child)
        }
        Err(error) => {
            state.last_exit = Some(format!("{error:#}"));
            None
        }
    }
}

fn spawn(shared: &Shared) -> Result<Child> {
    let log = open_log(&shared.log)?;
    let errors = log
        .try_clone()
        .context("sharing a log between two streams")?;
    let mut command = shared.program.command();
    command.stdout(log).stderr(errors);
    command
        .spawn()
        .with_context(|| format!("starting {}", shared.program.name))
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening the log {}", path.display()))
}

fn signal_group(pid: Option<u32>, signal: Signal) {
    let group = pid
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw);
    if let Some(group) = group {
        // It may have ended a moment ago, which is what was asked.
        let _ = kill_process_group(group, signal);
    }
}
