//! The binary with a real model: the GGUF file that `BERTH_TEST_MODEL` names.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "helpers of tests: clippy allows it in test functions only"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Loading and computing take their time on a busy machine without hardware for it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Open when SIGTERM comes.
const STREAMS: usize = 8;

/// A running `berth-engine serve`, killed when dropped.
struct Engine {
    child: Child,
    address: String,
}

// === impl Engine ===

impl Engine {
    fn start(model: &PathBuf, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_berth-engine"))
            .args(["serve", "--port", "0", "--max-model-len", "256", "--model"])
            .arg(model)
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(
                log.read_line(&mut line).unwrap(),
                0,
                "the engine ended at its start"
            );
            eprint!("{line}");
            if let Some((_, address)) = line.trim_end().split_once("listening on http://") {
                break address.to_owned();
            }
        };
        thread::spawn(move || {
            log.lines()
                .map_while(Result::ok)
                .for_each(|line| eprintln!("{line}"));
        });
        let engine = Self { child, address };
        let deadline = Instant::now() + PATIENCE;
        while engine.send("GET", "/ready", "").0 != 200 {
            assert!(Instant::now() < deadline, "never ready");
            thread::sleep(Duration::from_millis(50));
        }
        engine
    }

    fn chat(&self, question: &str) -> Value {
        let body = json!({
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 12,
        });
        let (status, body) = self.send("POST", "/v1/chat/completions", &body.to_string());
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// Names of the rank threads, each with the CPUs that the kernel lets it use.
    fn rank_threads(&self) -> Vec<(String, String)> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let mut threads: Vec<(String, String)> = tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok())
            .filter_map(|status| {
                let field = |name: &str| {
                    let line = status.lines().find(|line| line.starts_with(name))?;
                    line.split_once('\t').map(|(_, value)| value.to_owned())
                };
                Some((field("Name:")?, field("Cpus_allowed_list:")?))
            })
            .filter(|(name, _)| name.starts_with("berth-rank-"))
            .collect();
        threads.sort();
        threads
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file for this test, which is skipped where nobody names one.
fn model(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("BERTH_TEST_MODEL").map(PathBuf::from);
    if path.is_none() {
        skip(test);
    }
    path
}

/// Names the skip for `./x test`, which counts such lines. With `CI=true` software may not be missing.
fn skip(test: &str) {
    assert!(
        !std::env::var("CI").is_ok_and(|value| value == "true"),
        "with CI=true BERTH_TEST_MODEL must name SmolLM2-135M-Instruct.Q4_1.gguf"
    );
    println!(
        "SKIP {test} software: set BERTH_TEST_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf, or run ./x \
         test, which fetches it"
    );
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn a_real_model_answers_alone_and_together_with_the_same_text_and_over_ranks() {
    let Some(model) =
        model("a_real_model_answers_alone_and_together_with_the_same_text_and_over_ranks")
    else {
        return;
    };
    let question = "Name the capital of France.";
    let engine = Engine::start(&model, &[]);
    let alone = engine.chat(question);
    assert!(text(&alone).contains("Paris"), "{alone}");
    let together: Vec<Value> = thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| engine.chat(question)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for answer in &together {
        assert_eq!(text(answer), text(&alone));
    }
    drop(engine);
    for backend in ["cpu", "reference"] {
        let flags = ["--backend", backend, "--tensor-parallel-size", "3"];
        let ranks = Engine::start(&model, &flags);
        // Another degree and another backend round elsewhere.
        let answer = ranks.chat(question);
        assert!(text(&answer).contains("Paris"), "{backend}: {answer}");
        assert_eq!(ranks.rank_threads().len(), 3);
    }
}

#[test]
fn ranks_run_where_the_assignment_file_says() {
    let Some(model) = model("ranks_run_where_the_assignment_file_says") else {
        return;
    };
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"))
        .unwrap();
    let cpu = own.split([',', '-']).next().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let rank = |rank: usize| json!({"rank": rank, "gpu": format!("GPU-{rank}"), "cpus": cpu});
    let container = json!({"ranks": [rank(0), rank(1)]});
    let assignment = json!({"schema": "berth.dev/v1alpha1", "containers": {"engine": container}});
    std::fs::write(file.path(), assignment.to_string()).unwrap();
    let engine = Engine::start(&model, &["--assignment", file.path().to_str().unwrap()]);
    let expected = [
        ("berth-rank-0".to_owned(), cpu.to_owned()),
        ("berth-rank-1".to_owned(), cpu.to_owned()),
    ];
    assert_eq!(engine.rank_threads(), expected);
    let (_, metrics) = engine.send("GET", "/metrics", "");
    assert!(
        metrics.contains("gpu=\"GPU-1\"") && metrics.contains("state=\"ok\""),
        "{metrics}"
    );
}

#[test]
fn sigterm_lets_the_answer_in_flight_finish_and_ends_with_0() {
    let Some(model) = model("sigterm_lets_the_answer_in_flight_finish_and_ends_with_0") else {
        return;
    };
    let mut engine = Engine::start(&model, &["--shutdown-timeout", "300"]);
    let answer = thread::scope(|scope| {
        let chat = scope.spawn(|| engine.chat("Count to twenty."));
        let deadline = Instant::now() + PATIENCE;
        let is_running = || {
            let (_, metrics) = engine.send("GET", "/metrics", "");
            let line =
                |line: &str| line.starts_with("vllm:num_requests_running{") && line.ends_with(" 1");
            metrics.lines().any(line)
        };
        while !is_running() {
            assert!(
                Instant::now() < deadline && !chat.is_finished(),
                "never seen running"
            );
        }
        engine.terminate();
        chat.join().unwrap()
    });
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(engine.child.wait().unwrap().code(), Some(0));
}

/// Streams that are open go on to their last event; who comes now is told to go elsewhere.
#[test]
fn sigterm_takes_no_new_work_and_loses_no_stream() {
    let Some(model) = model("sigterm_takes_no_new_work_and_loses_no_stream") else {
        return;
    };
    let mut engine = Engine::start(&model, &["--shutdown-timeout", "300"]);
    let mut body = json!({"prompt": "Once upon a time", "temperature": 0, "max_tokens": 240});
    body["ignore_eos"] = true.into();
    body["stream"] = true.into();
    let body = body.to_string();
    let completions = "/v1/completions";
    thread::scope(|scope| {
        let stream = || engine.send("POST", completions, &body);
        let streams: Vec<_> = (0..STREAMS).map(|_| scope.spawn(stream)).collect();
        let deadline = Instant::now() + PATIENCE;
        let all_run = || {
            let (_, page) = engine.send("GET", "/metrics", "");
            let running = format!(" {STREAMS}");
            let is_it = |line: &str| {
                line.starts_with("vllm:num_requests_running{") && line.ends_with(&running)
            };
            page.lines().any(is_it)
        };
        while !all_run() {
            let ended = streams.iter().any(thread::ScopedJoinHandle::is_finished);
            assert!(Instant::now() < deadline && !ended, "never seen together");
        }
        engine.terminate();
        while engine.send("GET", "/ready", "").0 == 200 {
            assert!(Instant::now() < deadline, "never draining");
        }
        let (status, refused) = engine.send("POST", completions, &body);
        assert!(
            status == 503 && refused.contains("shutting down"),
            "{status} {refused}"
        );
        for stream in streams {
            let (status, events) = stream.join().unwrap();
            assert_eq!(status, 200, "{events}");
            let ends = ["\"finish_reason\":\"length\"", "data: [DONE]"];
            assert!(ends.iter().all(|end| events.contains(end)), "{events}");
        }
    });
    assert_eq!(engine.child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_cannot_start_says_why_and_ends_with_1_or_2() {
    let run = |line: &str| {
        let binary = env!("CARGO_BIN_EXE_berth-engine");
        let output = Command::new(binary)
            .args(line.split_whitespace())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, log) = run("serve --model /nonexistent.gguf");
    assert!(
        code == Some(1) && log.contains("/nonexistent.gguf"),
        "{code:?} {log}"
    );
    let (code, log) = run("serve --model /nonexistent.gguf --device cuda");
    assert!(
        code == Some(1) && log.contains("no CUDA backend"),
        "{code:?} {log}"
    );
    let (code, log) = run("serve");
    assert!(code == Some(2) && log.contains("--model"), "{code:?} {log}");
}
