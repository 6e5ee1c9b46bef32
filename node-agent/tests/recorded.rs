//! Every recorded machine: what is assembled from `NAME.raw.json` is `NAME.json`.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

use berth_node_agent::assemble::assemble;
use berth_node_agent::history::History;
use berth_node_agent::probe::{Probe, Source};
use berth_topology::node::{NodeTopology, Status};

fn machines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../machines")
}

fn names() -> Vec<String> {
    let files = fs::read_dir(machines())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let files = files.map(|name| name.into_string().unwrap());
    let mut names: Vec<String> = files
        .filter_map(|file| file.strip_suffix(".raw.json").map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn assembled(name: &str) -> Status {
    let path = machines().join(format!("{name}.raw.json"));
    assemble(&Probe::new(Source::Recorded(path)).read().unwrap())
}

/// Which agent looked, and when, is not of the machine.
fn of_the_machine(status: &Status) -> Status {
    Status {
        agent_version: None,
        ..status.without_volatile()
    }
}

#[test]
fn each_recorded_topology_is_what_is_assembled_from_the_recorded_answers() {
    let names = names();
    assert!(names.len() >= 17, "{names:?}");
    for name in names {
        let file = fs::read(machines().join(format!("{name}.json"))).unwrap();
        let topology: NodeTopology = serde_json::from_slice(&file).unwrap();
        let recorded = topology.status.unwrap();
        assert_eq!(
            of_the_machine(&assembled(&name)),
            of_the_machine(&recorded),
            "{name}: regenerate it with machines/generate.py"
        );
    }
}

#[test]
fn seeing_the_same_machine_twice_gives_nothing_to_write() {
    for name in names() {
        let mut history = History::default();
        let mut at = |time: &str| history.complete(assembled(&name), time.parse().unwrap());
        let first = at("2026-01-01T00:00:00Z");
        let second = at("2026-01-02T00:00:00Z");
        assert_ne!(first, second, "{name}: the time is not in it");
        assert_eq!(
            first.without_volatile(),
            second.without_volatile(),
            "{name}"
        );
    }
}

#[test]
fn a_file_that_is_no_record_is_an_error_that_names_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "{}").unwrap();
    let error = Probe::new(Source::Recorded(file.path().to_owned()))
        .read()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&file.path().display().to_string()),
        "{error}"
    );
    let missing = Probe::new(Source::Recorded("/nonexistent.raw.json".into())).read();
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("/nonexistent.raw.json")
    );
}
