//! The real program on a made-up tree: `tune report` writes nothing, `tune apply` puts back what it
//! changed when it is told to end.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What is waited for takes milliseconds; a loaded machine may take longer.
const DEADLINE: Duration = Duration::from_secs(60);
const AFFINITY: &str = "proc/irq/40/smp_affinity_list";

/// One NUMA node of two CPUs out of four, and a GPU there whose interrupt may go anywhere.
fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let gpu = "sys/bus/pci/devices/0000:1a:00.0";
    for (name, text) in [
        ("sys/devices/system/cpu/online", "0-3"),
        ("sys/devices/system/node/node0/cpulist", "0-1"),
        (&format!("{gpu}/vendor"), "0x10de"),
        (&format!("{gpu}/class"), "0x030200"),
        (&format!("{gpu}/numa_node"), "0"),
        (&format!("{gpu}/msi_irqs/40"), "msix"),
        (AFFINITY, "0-3"),
    ] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, format!("{text}\n")).expect("a file");
    }
    folder
}

fn tune(tree: &Path, step: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth-node-agent"));
    command.args(["tune", step, "--irq-affinity"]).args(more);
    command.arg("--sysfs-root").arg(tree.join("sys"));
    command.arg("--procfs-root").arg(tree.join("proc"));
    command
}

fn affinity(tree: &Path) -> String {
    let text = fs::read_to_string(tree.join(AFFINITY)).expect("the interrupt");
    text.trim().to_owned()
}

fn await_affinity(tree: &Path, expected: &str) {
    let started = Instant::now();
    while affinity(tree) != expected {
        assert!(started.elapsed() < DEADLINE, "still {}", affinity(tree));
        thread::sleep(Duration::from_millis(10));
    }
}

fn terminate(child: &Child) {
    let kill = format!("kill -TERM {}", child.id());
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.expect("a shell").success());
}

#[test]
fn a_report_says_what_would_change_and_changes_nothing() {
    let tree = tree();
    let output = tune(tree.path(), "report", &["-o", "json"])
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(plan["schema"], "berth.dev/v1alpha1");
    assert_eq!(plan["changes"][0]["target"]["irqAffinity"]["irq"], 40);
    assert_eq!(plan["changes"][0]["to"], "0-1");
    assert_eq!(affinity(tree.path()), "0-3");
}

#[test]
fn what_is_applied_lasts_until_the_signal_and_then_the_former_value_is_back() {
    let tree = tree();
    let state = tree.path().join("state.json");
    let state_text = state.to_str().expect("text");
    let mut apply = tune(tree.path(), "apply", &["--state", state_text]);
    apply.stdout(Stdio::null());
    let mut child = apply.spawn().expect("it starts");
    // Signals are held before the first change, so from here on one undoes it.
    await_affinity(tree.path(), "0-1");
    assert!(state.exists());
    terminate(&child);
    await_affinity(tree.path(), "0-3");
    assert!(child.wait().expect("it ends").success());
    assert!(!state.exists());
}

#[test]
fn the_library_is_looked_for_below_the_drivers_root_and_nowhere_else() {
    let tree = tree();
    let root = tree.path().join("driver");
    for by_flag in [true, false] {
        let mut report = tune(tree.path(), "report", &["--persistence", "-o", "json"]);
        match by_flag {
            true => report.arg("--driver-root").arg(&root),
            false => report.env("BERTH_DRIVER_ROOT", &root),
        };
        let output = report.output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        let told = String::from_utf8_lossy(&output.stdout);
        let sentence = "libnvidia-ml.so.1 is not below the driver root";
        assert!(told.contains(sentence), "{told}");
    }
}

#[test]
fn a_publishing_flag_beside_tune_is_wrong_usage() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth-node-agent"));
    let output = command.args(["--once", "tune", "report"]).output();
    assert_eq!(output.expect("it starts").status.code(), Some(2));
}
