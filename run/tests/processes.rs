//! The real program with real commands: environments, masks, failing ranks, signals.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// No wait in here is a proof: what is waited for comes much sooner.
const DEADLINE: Duration = Duration::from_secs(60);

/// `berth-run` with an allocation and nothing inherited that could decide for it.
fn berth_run(allocation: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth-run"));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null());
    if let Some(allocation) = allocation {
        command.env("BERTH_ALLOCATION", allocation);
    }
    command
}

fn ended(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("berth-run starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// One CPU that this test may use.
fn one_cpu() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let list = line.expect("a mask").trim();
    let first = list.split([',', '-']).next().expect("a CPU");
    first.to_owned()
}

/// `count` ranks on that CPU.
fn cpu_ranks(count: usize) -> String {
    let cpu = one_cpu();
    let rank = |rank| format!("{{\"rank\":{rank},\"cpus\":\"{cpu}\",\"numaNode\":0}}");
    let ranks: Vec<String> = (0..count).map(rank).collect();
    format!("{{\"ranks\":[{}]}}", ranks.join(","))
}

/// A driver's folder with three GPUs, of which the second is not in the container.
fn devices() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a folder");
    let dev = root.path().join("dev");
    fs::create_dir(&dev).expect("dev");
    for (minor, (uuid, bus)) in [("GPU-a", "ca"), ("GPU-b", "4b"), ("GPU-c", "1a")]
        .iter()
        .enumerate()
    {
        let at = format!("0000:{bus}:00.0");
        let folder = root.path().join("proc/driver/nvidia/gpus").join(&at);
        fs::create_dir_all(&folder).expect("the driver's folder");
        let text =
            format!("GPU UUID: \t {uuid}\nBus Location: \t {at}\nDevice Minor: \t {minor}\n");
        fs::write(folder.join("information"), text).expect("information");
        if minor != 1 {
            fs::write(dev.join(format!("nvidia{minor}")), "").expect("a device file");
        }
    }
    root
}

#[test]
fn a_command_becomes_the_process_with_its_variables_and_its_mask() {
    let root = devices();
    let cpu = one_cpu();
    let allocation = format!(
        "{{\"ranks\":[{{\"rank\":0,\"gpu\":\"GPU-a\",\"cpus\":\"{cpu}\"}},\
         {{\"rank\":1,\"gpu\":\"GPU-c\",\"cpus\":\"{cpu}\"}}]}}"
    );
    let mut command = berth_run(Some(&allocation));
    command.arg("--device-root").arg(root.path()).args([
        "--",
        "sh",
        "-c",
        "echo $CUDA_DEVICE_ORDER $CUDA_VISIBLE_DEVICES; grep Cpus_allowed_list /proc/self/status; exit 7",
    ]);
    let (code, stdout, stderr) = ended(&mut command);
    assert_eq!(code, 7, "{stderr}");
    let expected = format!("PCI_BUS_ID 1,0\nCpus_allowed_list:\t{cpu}\n");
    assert_eq!(stdout, expected, "{stderr}");
    assert!(stderr.contains("ranks 0: GPU 1 CPUs"), "{stderr}");
}

#[test]
fn a_gpu_that_is_not_here_stops_the_truth_and_leaves_the_intent_alone() {
    let root = devices();
    let container = "{\"ranks\":[{\"rank\":0,\"gpu\":\"GPU-b\"}]}";
    let mut truth = berth_run(Some(container));
    truth
        .arg("--device-root")
        .arg(root.path())
        .args(["--", "echo", "ran"]);
    let (code, stdout, stderr) = ended(&mut truth);
    assert_eq!((code, stdout.as_str()), (125, ""));
    assert!(
        stderr.contains("does not have it; it has GPU-c, GPU-a"),
        "{stderr}"
    );

    let file = root.path().join("assignment");
    let text =
        format!("{{\"schema\":\"berth.dev/v1alpha1\",\"containers\":{{\"a\":{container}}}}}");
    fs::write(&file, text).expect("an assignment");
    let intent = |flags: &[&str]| {
        let mut command = berth_run(None);
        command.args(flags).arg("--assignment").arg(&file);
        command.arg("--device-root").arg(root.path());
        ended(command.args(["--", "sh", "-c", "echo ran ${CUDA_VISIBLE_DEVICES-unset}"]))
    };
    let (code, stdout, stderr) = intent(&[]);
    assert_eq!((code, stdout.as_str()), (0, "ran unset\n"), "{stderr}");
    assert!(stderr.contains("runs unchanged"), "{stderr}");
    assert_eq!(intent(&["--require"]).0, 125);
}

#[test]
fn without_an_assignment_the_command_runs_unchanged_and_a_line_says_so() {
    let (code, stdout, stderr) = ended(berth_run(None).args(["--", "echo", "ran"]));
    assert_eq!((code, stdout.as_str()), (0, "ran\n"));
    assert!(stderr.contains("runs unchanged"), "{stderr}");
    let (code, _, stderr) = ended(berth_run(None).args(["--require", "--", "echo", "ran"]));
    assert_eq!(code, 125, "{stderr}");
}

#[test]
fn commands_that_are_not_there_or_cannot_be_run_end_as_in_a_shell() {
    for flags in [&[][..], &["--per-rank"]] {
        for (name, expected) in [("/nonexistent/x", 127), ("/etc/passwd", 126)] {
            let mut command = berth_run(Some(&cpu_ranks(2)));
            let (code, _, stderr) = ended(command.args(flags).args(["--", name]));
            assert_eq!(code, expected, "{stderr}");
            assert!(stderr.contains(&format!("cannot run {name:?}")), "{stderr}");
        }
    }
}

#[test]
fn hostile_assignments_are_refused_in_one_clean_line() {
    for text in [
        "{",
        "{\"ranks\":[{\"rank\":5}]}",
        "{\"ranks\":[{\"rank\":0,\"cpus\":\"\\u001b[2J\"}]}",
    ] {
        let (code, stdout, stderr) = ended(berth_run(Some(text)).args(["--", "echo", "ran"]));
        assert_eq!((code, stdout.as_str()), (125, ""), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(!stderr.trim_end().contains(char::is_control), "{stderr:?}");
    }
}

#[test]
fn a_dry_run_prints_the_plan_and_runs_nothing() {
    let mut command = berth_run(Some(&cpu_ranks(2)));
    let (code, stdout, _) =
        ended(command.args(["--dry-run", "-o", "json", "--", "/nonexistent/x"]));
    let plan: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(code, 0);
    assert_eq!(plan["schema"], "berth.dev/v1alpha1");
    assert_eq!(plan["ranks"].as_array().map(Vec::len), Some(2));
    let (_, text, _) = ended(berth_run(Some(&cpu_ranks(1))).args(["--dry-run", "--", "x"]));
    assert!(text.contains("OMP_NUM_THREADS=1"), "{text}");
}

#[test]
fn every_rank_knows_its_number_and_all_good_ends_are_a_good_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = "echo $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR:$MASTER_PORT > $RANK";
    let mut command = berth_run(Some(&cpu_ranks(3)));
    command.current_dir(folder.path()).arg("--per-rank");
    let (code, _, stderr) = ended(command.args(["--", "sh", "-c", script]));
    assert_eq!(code, 0, "{stderr}");
    for rank in 0..3 {
        let told = fs::read_to_string(folder.path().join(rank.to_string())).expect("it ran");
        assert_eq!(told, format!("{rank}/3 127.0.0.1:29500\n"));
    }
}

#[test]
fn the_first_failure_ends_the_others_and_gives_the_exit_code() {
    let script = "if [ $RANK = 1 ]; then exit 42; fi; exec sleep 600";
    let mut command = berth_run(Some(&cpu_ranks(3)));
    let started = Instant::now();
    let (code, _, stderr) = ended(command.args(["--per-rank", "--", "sh", "-c", script]));
    assert_eq!(code, 42, "{stderr}");
    assert!(
        stderr.contains("rank 1 ended with exit code 42"),
        "{stderr}"
    );
    assert!(started.elapsed() < DEADLINE);
}

#[test]
fn who_does_not_end_within_the_grace_time_is_killed_with_all_that_it_started() {
    let folder = tempfile::tempdir().expect("a folder");
    // Rank 0 is deaf and has a deaf child; rank 1 fails once both are there.
    let script = "if [ $RANK = 1 ]; then until [ -s child ]; do sleep 0.05; done; exit 3; fi; \
                  trap '' TERM; sleep 600 & echo $! > child; wait; sleep 600";
    let mut command = berth_run(Some(&cpu_ranks(2)));
    command.current_dir(folder.path());
    command.args([
        "--per-rank",
        "--grace-seconds",
        "1",
        "--",
        "sh",
        "-c",
        script,
    ]);
    let (code, _, stderr) = ended(&mut command);
    assert_eq!(code, 3, "{stderr}");
    await_end_of(pid_in(&folder.path().join("child")));
}

#[test]
fn signals_reach_every_rank() {
    let script = "trap 'echo heard $RANK' USR1; trap 'exit 5' TERM; echo ready; \
                  while :; do sleep 0.05; done";
    let mut command = berth_run(Some(&cpu_ranks(2)));
    command.args(["--per-rank", "--", "sh", "-c", script]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!([next(), next()], ["ready", "ready"]);
    kill_process(Pid::from_child(&child), Signal::USR1).expect("it runs");
    let mut heard = [next(), next()];
    heard.sort();
    assert_eq!(heard, ["heard 0", "heard 1"]);
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(5));
}

#[test]
fn ranks_die_with_the_launcher() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = "echo $$ > pid.tmp; mv pid.tmp pid; echo ready; exec sleep 600";
    let mut command = berth_run(Some(&cpu_ranks(1)));
    command.current_dir(folder.path());
    command.args(["--per-rank", "--", "sh", "-c", script]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    await_end_of(pid_in(&folder.path().join("pid")));
}

#[test]
fn it_installs_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, _, stderr) = ended(berth_run(None).arg("--install").arg(folder.path()));
    assert_eq!(code, 0, "{stderr}");
    let mut installed = Command::new(folder.path().join("berth-run"));
    let (code, stdout, _) = ended(installed.arg("--version"));
    assert_eq!(code, 0);
    assert!(stdout.starts_with("berth-run "), "{stdout}");
}

fn pid_in(path: &Path) -> Pid {
    let text = fs::read_to_string(path).expect("a process id");
    Pid::from_raw(text.trim().parse().expect("a number")).expect("not 0")
}

/// Gone, or a zombie that some first process will reap.
fn await_end_of(pid: Pid) {
    let started = Instant::now();
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let is_zombie = || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "));
    while test_kill_process(pid).is_ok() && !is_zombie() {
        assert!(started.elapsed() < DEADLINE, "{pid:?} still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
}
