//! Lists the recorded machines, so that `berth` knows every one that the tree has.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    // Asked at run time: a tree that was moved keeps its build folder.
    let machines = folder("CARGO_MANIFEST_DIR").join("../machines");
    fs::write(folder("OUT_DIR").join("recorded.rs"), list(&machines)).expect("OUT_DIR is writable");
    println!("cargo:rerun-if-changed={}", machines.display());
}

fn folder(variable: &str) -> PathBuf {
    env::var_os(variable).expect("cargo sets it").into()
}

/// An array of name and text, sorted by name.
fn list(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("the tree has machines/");
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".json")?.to_owned()))
        .filter(|name| !name.contains('.'))
        .collect();
    names.sort();
    let mut list = String::from("&[\n");
    for name in names {
        let path = folder.join(format!("{name}.json"));
        writeln!(list, "    ({name:?}, include_str!({path:?})),").expect("a string takes any text");
    }
    list + "]\n"
}
