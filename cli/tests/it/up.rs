//! `berth up`, with stand-ins for the agent (prints a recorded machine) and the engine (a process
//! that does nothing, while this test answers on its port). The real ones run in `tests/it`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use berth_topology::assignment::Assignment;
use tempfile::TempDir;

use crate::program::{berth, run, text};

const WAIT_MAX: Duration = Duration::from_secs(60);

/// A folder with both stand-ins and a model file.
struct Bench {
    folder: TempDir,
}

impl Bench {
    /// `engine` is the body of a shell script; `$DIR` is the folder.
    fn new(machine: &str, engine: &str) -> Self {
        let bench = Self {
            folder: TempDir::new().unwrap(),
        };
        fs::write(bench.path("model.gguf"), "").unwrap();
        fs::write(
            bench.path("machine.json"),
            run(&format!("machine show {machine} --json")).stdout,
        )
        .unwrap();
        bench.script("agent", "cat $DIR/machine.json");
        bench.script("engine", engine);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, body: &str) {
        let path = self.path(name);
        let folder = self.folder.path().display();
        fs::write(&path, format!("#!/bin/sh\nDIR={folder}\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn up(&self, args: &[&str]) -> Command {
        let mut command = berth(&["up"]);
        command.arg("--model").arg(self.path("model.gguf"));
        command
            .arg("--agent")
            .arg(self.path("agent"))
            .arg("--engine")
            .arg(self.path("engine"));
        command.args(args).env("BERTH_CONTAINER", "somebody-else");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// Records how it was started, then waits for its end.
const PATIENT: &str = "
echo \"$@\" > $DIR/args
env > $DIR/env
while [ $# -gt 0 ]; do [ \"$1\" = --assignment ] && cp $2 $DIR/assignment.json; shift; done
trap 'touch $DIR/terminated; exit 0' TERM
touch $DIR/started
while true; do sleep 0.05; done";

fn wait_for(path: &Path) {
    let deadline = Instant::now() + WAIT_MAX;
    while !path.exists() {
        assert!(
            Instant::now() < deadline,
            "{} did not appear",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn end_of(mut child: Child) -> Output {
    let deadline = Instant::now() + WAIT_MAX;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("berth up did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Answers as an engine does, as long as the test runs.
fn answer(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || respond(&stream.unwrap()));
        }
    });
}

fn respond(mut stream: &TcpStream) {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    let mut body_bytes = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            body_bytes = length.trim().parse().unwrap();
        }
        request.push_str(&line);
    }
    let mut body = vec![0; body_bytes];
    reader.read_exact(&mut body).unwrap();
    let answer = match request.split_whitespace().nth(1) {
        Some("/v1/models") => r#"{"data":[{"id":"tiny"}]}"#,
        Some("/v1/chat/completions") if text(&body).contains(r#""model":"tiny""#) => {
            r#"{"choices":[{"message":{"content":"A place to moor."}}],"usage":{"completion_tokens":5}}"#
        }
        _ => "{}",
    };
    let length = answer.len();
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all((head + answer).as_bytes()).unwrap();
}

#[test]
fn once_probes_places_serves_asks_and_ends_the_engine() {
    let bench = Bench::new("l40s-4", PATIENT);
    let port = free_port();
    let child = bench
        .up(&["--once", "--port", &port.to_string()])
        .spawn()
        .unwrap();
    wait_for(&bench.path("started"));
    answer(port);
    let output = end_of(child);
    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", text(&output.stderr));
    for part in [
        "probe\n",
        "GPU0",
        "weakest pair: numa",
        "A place to moor.",
        "tokens per second",
        "curl -s http://127.0.0.1:",
    ] {
        assert!(stdout.contains(part), "{part:?} in {stdout}");
    }
    assert!(bench.path("terminated").exists());

    let given =
        Assignment::decode(&fs::read_to_string(bench.path("assignment.json")).unwrap()).unwrap();
    assert_eq!(given.pod_uid, None);
    assert_eq!(given.containers["engine"].ranks.len(), 2);
    let args = fs::read_to_string(bench.path("args")).unwrap();
    assert!(args.starts_with("serve --device cpu --model "), "{args}");
    assert!(args.contains(&format!("--port {port}")), "{args}");
    assert!(
        !fs::read_to_string(bench.path("env"))
            .unwrap()
            .contains("BERTH_CONTAINER")
    );
}

#[test]
fn a_signal_ends_the_engine_too() {
    let bench = Bench::new("l40s-4", PATIENT);
    let child = bench.up(&["--port", "0"]).spawn().unwrap();
    wait_for(&bench.path("started"));
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = end_of(child);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(bench.path("terminated").exists());
}

#[test]
fn an_engine_that_dies_is_an_error_that_points_to_its_words() {
    let bench = Bench::new("l40s-4", "echo 'no such tensor' >&2; exit 7");
    let output = end_of(bench.up(&["--port", "0"]).spawn().unwrap());
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("no such tensor"), "{stderr}");
    assert!(
        stderr.contains("ended with exit status: 7 before it was ready"),
        "{stderr}"
    );
}

#[test]
fn an_engine_that_never_gets_ready_is_given_up_and_ended() {
    let bench = Bench::new("l40s-4", PATIENT);
    let output = end_of(
        bench
            .up(&["--port", "0", "--startup-timeout", "2"])
            .spawn()
            .unwrap(),
    );
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("was not ready within 2 s; --startup-timeout gives it more"),
        "{stderr}"
    );
    assert!(bench.path("terminated").exists());
}

#[test]
fn a_port_in_use_is_said_before_anything_is_started() {
    let bench = Bench::new("l40s-4", PATIENT);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let output = end_of(bench.up(&["--port", &port.to_string()]).spawn().unwrap());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&format!("port {port} of 127.0.0.1 is in use")));
    assert!(text(&output.stderr).contains("--port"));
    assert!(!bench.path("started").exists());
}

#[test]
fn a_missing_model_is_wrong_usage() {
    let bench = Bench::new("l40s-4", PATIENT);
    let output = end_of(
        berth(&["up", "--model", "/nonexistent.gguf"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("there is nothing at /nonexistent.gguf"));
    assert!(!bench.path("started").exists());
}

#[test]
fn more_ranks_than_gpus_are_refused() {
    let bench = Bench::new("l40s-4", PATIENT);
    let output = end_of(
        bench
            .up(&["--port", "0", "--tensor-parallel-size", "8"])
            .spawn()
            .unwrap(),
    );
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("refused: TooFewGpus"));
    assert!(!bench.path("started").exists());
}
