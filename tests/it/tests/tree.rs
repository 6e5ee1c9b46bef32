//! The tree's own rules: who may use whom, and which words may stand where.
//!
//! A rule here is one that ARCHITECTURE.md states; a failure names the crate or file and the rule.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which of our crates a crate may use, and which of others' it must never.
const EDGES: [(&str, &[&str], &[&str]); 13] = [
    (
        "berth-topology",
        &[],
        &["tokio", "kube", "actix-web", "candle-core"],
    ),
    (
        "berth-placement",
        &["berth-topology"],
        &["tokio", "kube", "actix-web", "candle-core"],
    ),
    (
        "berth-node-agent",
        &["berth-topology", "berth-placement"],
        &["actix-web", "candle-core"],
    ),
    (
        "berth-extender-core",
        &["berth-topology", "berth-placement"],
        &["tokio", "kube", "actix-web", "candle-core"],
    ),
    (
        "berth-extender",
        &["berth-topology", "berth-placement", "berth-extender-core"],
        &["nvml-wrapper", "hwlocality", "candle-core", "cudarc"],
    ),
    (
        "berth-proof",
        &["berth-topology", "berth-placement", "berth-extender-core"],
        &["tokio", "kube", "actix-web", "candle-core"],
    ),
    ("berth-engine-core", &[], &["*"]),
    (
        "berth-engine-cpu",
        &["berth-engine-core"],
        &["kube", "actix-web", "tokio", "candle-core", "rayon"],
    ),
    (
        "berth-engine-text",
        &[],
        &["kube", "actix-web", "tokio", "candle-core"],
    ),
    (
        "berth-engine-model",
        &["berth-engine-core", "berth-engine-cpu", "berth-topology"],
        &["kube", "actix-web", "tokio"],
    ),
    (
        "berth-engine",
        &[
            "berth-engine-core",
            "berth-engine-cpu",
            "berth-engine-model",
            "berth-engine-text",
            "berth-topology",
        ],
        &["kube"],
    ),
    (
        "berth-run",
        &["berth-topology"],
        &["tokio", "kube", "actix-web", "candle-core", "nvml-wrapper"],
    ),
    (
        "berth-cli",
        &["berth-topology", "berth-placement", "berth-extender-core"],
        &["candle-core", "actix-web"],
    ),
];

/// Words that a pure crate's sources never hold, by its folder.
const PURE: [(&str, &[&str]); 4] = [
    (
        "topology/src",
        &[
            "std::fs",
            "std::net",
            "std::env",
            "SystemTime",
            "Instant::now",
        ],
    ),
    (
        "placement/src",
        &[
            "std::fs",
            "std::net",
            "std::env",
            "SystemTime",
            "Instant::now",
        ],
    ),
    // Its fixtures and tests read the clock that they then hand in.
    (
        "extender/core/src",
        &["std::fs", "std::net", "std::env", "SystemTime"],
    ),
    (
        "engine/core/src",
        &[
            "std::fs",
            "std::net",
            "std::env",
            "SystemTime",
            "Instant::now",
        ],
    ),
];

/// Past this a file has outgrown its idea.
const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The workspace's packages with their declared dependencies.
fn packages() -> Vec<Value> {
    let cargo = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        cargo.status.success(),
        "{}",
        String::from_utf8_lossy(&cargo.stderr)
    );
    let metadata: Value = serde_json::from_slice(&cargo.stdout).expect("metadata is JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

/// Names of what a package is built from; what only its tests use is free.
fn dependencies(package: &Value) -> Vec<String> {
    let list = package["dependencies"].as_array().expect("dependencies");
    let built_from = list
        .iter()
        .filter(|dependency| dependency["kind"].is_null());
    built_from
        .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
        .collect()
}

/// Every Rust source below a folder of the repository.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let packages = packages();
    for (name, ours, never) in EDGES {
        let package = packages.iter().find(|package| package["name"] == name);
        let dependencies = dependencies(package.unwrap_or_else(|| panic!("{name} is a member")));
        for dependency in &dependencies {
            let is_ours = dependency.starts_with("berth-");
            assert!(
                !is_ours || ours.contains(&dependency.as_str()),
                "{name} must not use {dependency}"
            );
            let forbidden = never.contains(&dependency.as_str()) || never.contains(&"*");
            assert!(is_ours || !forbidden, "{name} must not use {dependency}");
        }
    }
}

#[test]
fn pure_crates_touch_no_file_no_network_and_no_clock() {
    for (folder, words) in PURE {
        let mut found = Vec::new();
        sources(&root().join(folder), &mut found);
        assert!(!found.is_empty(), "{folder} has sources");
        for file in found {
            let text = fs::read_to_string(&file).expect("a source");
            let word = words.iter().find(|word| text.contains(**word));
            assert!(word.is_none(), "{} holds {word:?}", file.display());
        }
    }
}

#[test]
fn every_source_says_what_it_holds_and_none_has_outgrown_its_idea() {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    for file in found {
        let text = fs::read_to_string(&file).expect("a source");
        assert!(
            text.starts_with("//!"),
            "{} does not open by saying what it holds",
            file.display()
        );
        let lines = text.lines().count();
        assert!(
            lines <= FILE_LINES_MAX,
            "{} has {lines} lines",
            file.display()
        );
    }
}

/// Images may not be published without them.
#[test]
fn of_every_crate_that_a_program_is_linked_from_there_is_a_licence_text() {
    let static_target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    for (program, target, crates) in [
        ("berth-node-agent", None, ["kube-client", "ring", "tonic"]),
        (
            "berth-extender",
            None,
            ["actix-web", "libmimalloc-sys", "ring"],
        ),
        (
            "berth-engine",
            None,
            ["candle-core", "onig_sys", "tokenizers"],
        ),
        ("berth-run", Some(static_target), ["clap", "rustix", "musl"]),
    ] {
        let mut script = Command::new(root().join("images/notices.py"));
        let output = script.arg(program).args(target).output();
        let output = output.expect("notices.py starts");
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {why}");
        let notices = String::from_utf8_lossy(&output.stdout);
        for name in crates {
            let listed = notices.lines().filter(|line| line.starts_with(name));
            // once with its licence, once above a text
            assert!(listed.count() >= 2, "{program}: {name}");
        }
    }
}
