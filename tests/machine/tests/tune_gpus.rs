//! Node tuning of GPUs through NVML's real C calls: what is set, what is put back, what is left alone.
//!
//! The stand-in library reads its machine's name from the environment, so each step is a process: this
//! program again, running the one test that tunes.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::process::Command;

use berth_node_agent::probe::Place;
use berth_node_agent::tune::apply::{apply, restore};
use berth_node_agent::tune::args::GpuClocks;
use berth_node_agent::tune::gpus::Gpus;
use berth_node_agent::tune::plan::{Change, Plan, Wish, plan};
use berth_node_agent::tune::{Machine, host};
use berth_test_machine::{NVML_MACHINE, nvml_library, raw};
use berth_topology::raw::{Answer, RawMachine, RawSettings};

/// Tells the process what to do, and where its machine is.
const STEP: &str = "BERTH_TEST_TUNE_STEP";
const DIR: &str = "BERTH_TEST_TUNE_DIR";
const PLANNED: &str = "plan.json";
const DONE: &str = "done.json";

/// As after a boot: NVIDIA/nvidia-docker#1076, with three of its graphics clocks.
fn v100() -> RawSettings {
    RawSettings {
        persistence: Answer::Value(false),
        application_clocks_mhz: Answer::Value((877, 1290)),
        supported_clocks_mhz: Answer::Value(vec![(877, vec![1530, 1290, 135])]),
        clocks_restricted: Answer::Value(true),
    }
}

/// A folder with a machine of which the first two GPUs can be set, and the others tell nothing.
fn machine(settings: &RawSettings) -> tempfile::TempDir {
    let mut machine: RawMachine = raw("dgx1-v100");
    let Answer::Value(nvml) = &mut machine.nvml else {
        panic!("it has NVML")
    };
    nvml.gpus.truncate(2);
    nvml.device_count = Answer::Value(2);
    for gpu in &mut nvml.gpus {
        let Answer::Value(gpu) = gpu else { continue };
        gpu.settings = Some(settings.clone());
    }
    let dir = tempfile::tempdir().unwrap();
    let text = serde_json::to_vec(&machine).unwrap();
    std::fs::write(dir.path().join("machine.json"), text).unwrap();
    dir
}

/// All that was set since, GPUs by their number.
fn set(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("machine.json.settings")).unwrap_or_default();
    let machine = raw("dgx1-v100");
    let gpus = &machine.nvml.value().unwrap().gpus;
    let named = |line: &str| {
        let (uuid, what) = line.split_once(' ').unwrap();
        let is_it = |gpu: &Answer<_>| is_uuid(gpu, uuid);
        format!("{} {what}", gpus.iter().position(is_it).unwrap())
    };
    text.lines().map(named).collect()
}

fn is_uuid(gpu: &Answer<berth_topology::raw::RawGpu>, uuid: &str) -> bool {
    let told = gpu.value().and_then(|gpu| gpu.uuid.value());
    told.is_some_and(|told| told == uuid)
}

#[test]
fn a_plan_sets_nothing_and_what_is_applied_is_put_back_clocks_first() {
    let dir = machine(&v100());
    run(dir.path(), "plan");
    assert_eq!(set(dir.path()), [""; 0]);
    assert_eq!(changes(dir.path(), PLANNED).len(), 4);

    run(dir.path(), "apply");
    let applied = [
        "0 persistence 1",
        "1 persistence 1",
        "0 application 877 1530",
        "1 application 877 1530",
    ];
    assert_eq!(set(dir.path()), applied);
    run(dir.path(), "plan");
    assert_eq!(
        changes(dir.path(), PLANNED),
        [],
        "there is nothing left to do"
    );

    run(dir.path(), "restore");
    let restored = [
        "1 application 877 1290",
        "0 application 877 1290",
        "1 persistence 0",
        "0 persistence 0",
    ];
    assert_eq!(set(dir.path())[4..], restored);
}

#[test]
fn a_setting_that_somebody_else_changed_since_is_left() {
    let dir = machine(&v100());
    run(dir.path(), "apply");
    let path = dir.path().join("machine.json.settings");
    let text = std::fs::read_to_string(&path).unwrap();
    let uuid = text.split(' ').next().unwrap().to_owned();
    std::fs::write(&path, format!("{text}{uuid} application 877 135\n")).unwrap();
    run(dir.path(), "restore");
    let back = set(dir.path())[5..].to_vec();
    assert!(
        !back.iter().any(|line| line.starts_with("0 application")),
        "{back:?}"
    );
    assert_eq!(back.len(), 3, "{back:?}");
}

#[test]
fn a_driver_without_application_clocks_has_its_clock_locked_and_unlocked() {
    let dir = machine(&RawSettings {
        persistence: Answer::Value(true),
        application_clocks_mhz: Answer::failed("NVML_ERROR_DEPRECATED"),
        ..v100()
    });
    run(dir.path(), "apply");
    assert_eq!(
        set(dir.path()),
        ["0 locked 1530 1530", "1 locked 1530 1530"]
    );
    run(dir.path(), "restore");
    assert_eq!(set(dir.path())[2..], ["1 unlocked", "0 unlocked"]);
}

#[test]
fn a_gpu_that_tells_nothing_is_not_touched() {
    let dir = machine(&RawSettings::default());
    run(dir.path(), "apply");
    assert_eq!(set(dir.path()), [""; 0]);
    assert_eq!(changes(dir.path(), DONE), []);
}

/// Not a test of its own: what the others run as a process.
#[test]
fn the_process_that_tunes() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let machine = Machine {
        sys: dir.join("sys"),
        proc: dir.join("proc"),
        gpus: Gpus::open(Place::File(&nvml_library())),
    };
    let wish = Wish {
        persistence: true,
        gpu_clocks: Some(GpuClocks::Max),
        ..Wish::default()
    };
    // the tests may be run by anybody; whether this is root is the plan's to ask, and its own tests'
    let host = host::Host {
        is_root: true,
        ..host::read(&machine)
    };
    let Plan { changes, .. } = plan(&host, &wish);
    match std::env::var(STEP).unwrap().as_str() {
        "plan" => write(&dir, PLANNED, &changes),
        "apply" => write(&dir, DONE, &apply(&changes, &machine)),
        _ => assert!(restore(&self::changes(&dir, DONE), &machine)),
    }
}

fn write(dir: &Path, name: &str, changes: &[Change]) {
    std::fs::write(dir.join(name), serde_json::to_vec(changes).unwrap()).unwrap();
}

fn changes(dir: &Path, name: &str) -> Vec<Change> {
    serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap()
}

#[track_caller]
fn run(dir: &Path, step: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_tunes"])
        .env(DIR, dir)
        .env(STEP, step)
        .env(NVML_MACHINE, dir.join("machine.json"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{step}: {text}");
}
