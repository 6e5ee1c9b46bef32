//! Makes a recorded machine out of files, so that the agent reads it as it reads a node. For tests.
//!
//! Three parts, given to the agent by its own flags: a sysfs tree (`--sysfs-root`), hwloc's XML
//! (`--hwloc-xml`) and the stand-in for `libnvidia-ml` (`--nvml-library`), which answers from the
//! raw file that `BERTH_NVML_MACHINE` names.

#![forbid(unsafe_code)]

mod cpuset;
pub mod host;
mod hwloc;
mod recorded;
mod sysfs;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use berth_topology::raw::RawMachine;
// Its shared library is opened at run time; depending on it is what builds it.
use nvidia_ml as _;

pub use recorded::{names, raw, raw_file};

/// What the stand-in library reads its machine from.
pub const NVML_MACHINE: &str = "BERTH_NVML_MACHINE";
/// Names calls that the stand-in library fails: `all`, a list with commas, or `@FILE` with a list.
pub const NVML_BREAK: &str = "BERTH_NVML_BREAK";

/// If set, the stand-in library writes texts that are too long without an end.
pub const NVML_UNTERMINATED: &str = "BERTH_NVML_UNTERMINATED";

/// A machine as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Materialized {
    /// Root of its sysfs.
    pub sysfs_root: PathBuf,
    /// hwloc's XML; absent where hwloc could not be asked.
    pub hwloc_xml: Option<PathBuf>,
    /// Its raw file, for [`NVML_MACHINE`].
    pub raw_file: PathBuf,
}

// === impl Materialized ===

impl Materialized {
    /// The agent's flags that make it read this machine.
    #[must_use]
    pub fn agent_args(&self) -> Vec<OsString> {
        let flag = |name: &str, path: &Path| [OsString::from(name), path.as_os_str().to_owned()];
        let mut args = flag("--nvml-library", &nvml_library()).to_vec();
        args.extend(flag("--sysfs-root", &self.sysfs_root));
        args.extend(
            self.hwloc_xml
                .iter()
                .flat_map(|xml| flag("--hwloc-xml", xml)),
        );
        args
    }
}

/// Writes `raw` below `dir`: `sys/`, `hwloc.xml` and `machine.raw.json`.
///
/// # Errors
///
/// When a file cannot be written, or a recorded path leads out of `dir`.
pub fn materialize(raw: &RawMachine, dir: &Path) -> io::Result<Materialized> {
    let sysfs_root = dir.join("sys");
    sysfs::write(&raw.sysfs, &sysfs_root)?;
    let hwloc_xml = raw.hwloc.value().map(|_| dir.join("hwloc.xml"));
    if let (Some(path), Some(hwloc)) = (&hwloc_xml, raw.hwloc.value()) {
        std::fs::write(path, hwloc::xml(hwloc))?;
    }
    let raw_file = dir.join("machine.raw.json");
    std::fs::write(&raw_file, serde_json::to_vec_pretty(raw)?)?;
    Ok(Materialized {
        sysfs_root,
        hwloc_xml,
        raw_file,
    })
}

/// The stand-in for `libnvidia-ml`: beside this program, or one folder up (tests run in `deps/`).
///
/// # Panics
///
/// When it was not built, which depending on this package prevents.
#[must_use]
pub fn nvml_library() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let folders = program.ancestors().skip(1).take(2);
    let places = folders.flat_map(|dir| {
        [
            dir.join("libnvidia_ml.so"),
            dir.join("deps/libnvidia_ml.so"),
        ]
    });
    places
        .into_iter()
        .find(|path| path.exists())
        .expect("cargo builds berth-nvml-standin's shared library before its dependants")
}
