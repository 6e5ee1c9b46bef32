//! The folder `machines/`.

use std::path::{Path, PathBuf};

use berth_topology::raw::RawMachine;

const RAW: &str = ".raw.json";

/// Names of all recorded machines, sorted.
///
/// # Panics
///
/// When the folder is not there.
#[must_use]
pub fn names() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).expect("machines/ is part of the tree");
    let name =
        |entry: std::fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(RAW)?.to_owned());
    let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
    names.sort();
    names
}

/// Where `machines/NAME.raw.json` is.
#[must_use]
pub fn raw_file(name: &str) -> PathBuf {
    folder().join(format!("{name}{RAW}"))
}

/// A recorded machine.
///
/// # Panics
///
/// When there is none of that name.
#[must_use]
pub fn raw(name: &str) -> RawMachine {
    let path = raw_file(name);
    let text =
        std::fs::read(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../machines")
}
