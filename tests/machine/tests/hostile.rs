//! Hostile texts of NVML's C calls, through the agent's own probe to what it would publish: bounded, without
//! control characters, and no GPU under an identity that is not its own.
//!
//! Each probe is a process, as in `round_trip.rs`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::process::Command;

use berth_node_agent::assemble::assemble;
use berth_node_agent::probe::{Paths, Probe, Source};
use berth_test_machine::{NVML_MACHINE, NVML_UNTERMINATED, nvml_library, raw};
use berth_topology::node::Status;
use berth_topology::raw::{Answer, RawGpu, RawMachine};
use serde_json::Value;

/// Tells the process which machine to probe; it writes what would be published beside it.
const DIR: &str = "BERTH_TEST_HOSTILE_DIR";
const ASSEMBLED: &str = "assembled.json";
/// What the agent publishes of any text.
const CHARS_MAX: usize = 512;
/// Clears a terminal, ends a line, quotes, and is two bytes of UTF-8.
const CONTROL: &str = "\u{1b}[2J\n\"\\\u{9f}";

#[test]
fn control_characters_are_published_as_what_they_are_not() {
    let status = probe(
        |gpu| gpu.name = Answer::Value(format!("Tesla{CONTROL}")),
        &[],
    );
    assert_eq!(status.gpus.len(), 4);
    assert_eq!(status.gpus[0].model, "Tesla\u{fffd}[2J\u{fffd}\"\\\u{fffd}");
    assert_bounded(&status);
}

#[test]
fn a_name_that_no_buffer_holds_is_unknown_however_nvml_says_so() {
    let long = |gpu: &mut RawGpu| gpu.name = Answer::Value(format!("{CONTROL}x").repeat(1_000));
    for more in [&[][..], &[NVML_UNTERMINATED]] {
        let status = probe(long, more);
        assert_eq!(status.gpus.len(), 4, "{more:?}");
        assert_eq!(status.gpus[0].model, "", "{more:?}");
        let told = "nvmlDeviceGetName: NVML_ERROR_INSUFFICIENT_SIZE";
        assert_told(&status, "gpu 0: model", told);
        assert_bounded(&status);
    }
}

#[test]
fn a_gpu_whose_identity_is_hostile_or_cut_is_not_listed() {
    for (uuid, why) in [
        (
            format!("GPU-{CONTROL}"),
            "NVML gives it an identity that is none",
        ),
        (
            "GPU-".repeat(3_000),
            "nvmlDeviceGetUUID: NVML_ERROR_INSUFFICIENT_SIZE",
        ),
    ] {
        let hostile = |gpu: &mut RawGpu| gpu.uuid = Answer::Value(uuid.clone());
        let status = probe(hostile, &[NVML_UNTERMINATED]);
        assert_eq!(status.gpus.len(), 3);
        assert_told(&status, "gpu 0", why);
        assert_bounded(&status);
    }
}

#[test]
fn an_address_without_an_end_is_unknown() {
    let endless = |gpu: &mut RawGpu| {
        let address = gpu.pci_bus_id.value().unwrap().clone();
        gpu.pci_bus_id = Answer::Value(address + &"0".repeat(10_000));
    };
    let status = probe(endless, &[NVML_UNTERMINATED]);
    assert_eq!(status.gpus.len(), 4);
    assert_eq!(status.gpus[0].bus_id, None);
    let told = "nvmlDeviceGetPciInfo: NVML_ERROR_INSUFFICIENT_SIZE";
    assert_told(&status, "gpu 0: busId", told);
    assert_bounded(&status);
}

/// Not a test of its own: what the others run as a process.
#[test]
fn the_process_that_probes() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let mut probe = Probe::new(Source::Machine(Paths {
        nvml_library: Some(nvml_library()),
        driver_root: None,
        sysfs_root: dir.join("sys"),
        hwloc_xml: None,
        kubelet_config: None,
    }));
    let status = assemble(&probe.read().unwrap());
    std::fs::write(dir.join(ASSEMBLED), serde_json::to_vec(&status).unwrap()).unwrap();
}

/// What would be published of four GPUs, after a change of the first.
#[track_caller]
fn probe(change: impl FnOnce(&mut RawGpu), variables: &[&str]) -> Status {
    let mut machine: RawMachine = raw("l40s-4");
    let Answer::Value(nvml) = &mut machine.nvml else {
        panic!("it has NVML")
    };
    let Answer::Value(gpu) = &mut nvml.gpus[0] else {
        panic!("it has a first GPU")
    };
    change(gpu);
    let dir = tempfile::tempdir().unwrap();
    let raw_file = dir.path().join("machine.json");
    std::fs::write(&raw_file, serde_json::to_vec(&machine).unwrap()).unwrap();
    run(dir.path(), &raw_file, variables);
    serde_json::from_slice(&std::fs::read(dir.path().join(ASSEMBLED)).unwrap()).unwrap()
}

#[track_caller]
fn run(dir: &Path, raw_file: &Path, variables: &[&str]) {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", "the_process_that_probes"]);
    process.env(DIR, dir).env(NVML_MACHINE, raw_file);
    process.envs(variables.iter().map(|name| (name, "1")));
    let output = process.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

#[track_caller]
fn assert_told(status: &Status, what: &str, why: &str) {
    let unknowns = &status.unknowns;
    let told = unknowns
        .iter()
        .any(|unknown| unknown.what == what && unknown.why.contains(why));
    assert!(told, "{what}: {why} is not in {unknowns:?}");
}

#[track_caller]
fn assert_bounded(status: &Status) {
    each_text(&serde_json::to_value(status).unwrap(), &mut |text| {
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(text.chars().count() <= CHARS_MAX, "{text:?}");
    });
}

fn each_text(value: &Value, check: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => check(text),
        Value::Array(values) => values.iter().for_each(|value| each_text(value, check)),
        Value::Object(fields) => {
            for (name, value) in fields {
                check(name);
                each_text(value, check);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
