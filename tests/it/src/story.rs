//! One story: a folder of its own, a runtime, and an end that is a pass, a failure with its logs, or a
//! skip that says what this machine lacks.

use std::fmt;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::programs;

/// Lines of each log that a failed story prints.
const TAIL_LINES: usize = 15;

/// Where a story happens.
#[derive(Debug)]
pub struct Stage {
    /// As the test runner names it.
    pub name: String,
    folder: TempDir,
}

/// What this machine lacks. A story that ends with it is skipped, not failed.
#[derive(Clone, Debug)]
pub struct Absent {
    kind: Kind,
    /// How to get it.
    how: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A program or a right: a skip on a developer's machine, a failure where `CI=true`.
    Software,
    /// Never a failure.
    Hardware,
}

// === impl Stage ===

impl Stage {
    /// With a folder whose name begins so, which goes with it.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn new(name: &str, prefix: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(prefix).tempdir();
        Ok(Self {
            name: name.to_owned(),
            folder: folder.context("making a folder")?,
        })
    }

    /// The story's folder: logs, keys, data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A folder in it, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn sub_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder().join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }
}

// === impl Absent ===

impl Absent {
    /// A program, a package or a right.
    #[must_use]
    pub fn software(how: &str) -> Self {
        Self {
            kind: Kind::Software,
            how: how.to_owned(),
        }
    }

    /// A device, or a machine with more of something.
    #[must_use]
    pub fn hardware(how: &str) -> Self {
        Self {
            kind: Kind::Hardware,
            how: how.to_owned(),
        }
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Software => "software",
            Kind::Hardware => "hardware",
        };
        write!(out, "{kind}: {}", self.how)
    }
}

impl std::error::Error for Absent {}

/// Tells a story on this machine. Its name is the test function's, read from `tell`'s type.
///
/// # Errors
/// The story's own, after its logs were printed and its folder kept.
pub fn story<F: AsyncFnOnce(&Stage) -> Result<()>>(tell: F) -> Result<()> {
    let stage = Stage::new(&test_name::<F>(), "berth-story-")?;
    let told = catch_unwind(AssertUnwindSafe(|| {
        programs::machine_allows()?;
        programs::control_plane()?;
        runtime()?.block_on(tell(&stage))
    }));
    match told {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => match error.downcast_ref::<Absent>() {
            Some(absent) => skip(&stage.name, absent),
            None => {
                show_logs(stage);
                Err(error)
            }
        },
        Err(panic) => {
            show_logs(stage);
            resume_unwind(panic)
        }
    }
}

/// Tells a story that needs one program and no control plane.
///
/// # Errors
/// The story's own.
pub fn story_with_program(
    name: &str,
    program: impl FnOnce() -> Result<&'static Path>,
    tell: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    match program() {
        Ok(program) => tell(program),
        Err(error) => match error.downcast_ref::<Absent>() {
            Some(absent) => skip(name, absent),
            None => Err(error),
        },
    }
}

/// Says the skip where the test runner does not capture it, at the start of a line: the closing line of
/// `./x test` counts these.
fn skip(name: &str, absent: &Absent) -> Result<()> {
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    if in_ci && absent.kind == Kind::Software {
        anyhow::bail!("with CI=true nothing may be skipped for missing {absent}");
    }
    let line = format!("\nSKIP {name} {absent}\n");
    std::io::stderr()
        .write_all(line.as_bytes())
        .context("saying that a story is skipped")
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("building the story's runtime")
}

/// `stories::quads::a_pod_gets_the_best_quad::{{closure}}` without its crate and its end.
fn test_name<F>() -> String {
    let path = std::any::type_name::<F>();
    let path = path.split("::{{closure}}").next().unwrap_or(path);
    path.split_once("::")
        .map_or(path, |(_, name)| name)
        .to_owned()
}

fn show_logs(stage: Stage) {
    let kept = stage.folder.keep();
    println!(
        "{} failed; its logs are kept in {}",
        stage.name,
        kept.display()
    );
    let entries = std::fs::read_dir(&kept).into_iter().flatten().flatten();
    for path in entries
        .map(|entry| entry.path())
        .filter(|path| is_log(path))
    {
        let text = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        println!("--- the end of {}", path.display());
        for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
            println!("{line}");
        }
    }
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}
