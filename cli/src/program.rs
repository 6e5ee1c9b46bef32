//! Our other programs: where they are, and what one prints.

use std::env;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// An agent's answer takes a tenth of it.
const OUTPUT_BYTES_MAX: u64 = 4 << 20;
/// A probe takes a second or two; a broken driver can hang it for good.
const OUTPUT_WAIT_MAX: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The program at `given`; else the one beside this program; else the one in `PATH`.
pub(crate) fn find(name: &str, given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        if !path.is_file() {
            bail!("{name}: there is no file {}", path.display());
        }
        return Ok(path.to_owned());
    }
    let here = env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.to_owned()));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = here.into_iter().chain(env::split_paths(&path));
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()));
    found.with_context(|| {
        format!("{name} is neither beside this program nor in PATH; build it with `cargo build -p {name}`")
    })
}

/// What the program prints on stdout; its stderr goes to ours.
pub(crate) fn output(program: &Path, args: &[&OsStr]) -> anyhow::Result<String> {
    let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let context = || format!("running {} {}", program.display(), words.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(context)?;
    let stdout = child.stdout.take().context("its stdout is a pipe")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout
            .take(OUTPUT_BYTES_MAX)
            .read_to_string(&mut text)
            .map(|_| text)
    });
    let deadline = Instant::now() + OUTPUT_WAIT_MAX;
    let status = loop {
        if let Some(status) = child.try_wait().with_context(context)? {
            break status;
        }
        if Instant::now() > deadline {
            child
                .kill()
                .and_then(|()| child.wait())
                .with_context(context)?;
            bail!(
                "{} gave no answer within {} s",
                program.display(),
                OUTPUT_WAIT_MAX.as_secs()
            );
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    if !status.success() {
        bail!("{} ended with {status}", program.display());
    }
    let text = reader.join().ok().context("reading its output")?;
    text.with_context(context)
}
