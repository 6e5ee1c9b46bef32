//! `berth doctor` on files, without an agent, and on a node of an API server that a test plays.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use expect_test::expect;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{berth, run, text, transcript};

const MACHINE: &str = include_str!("../../../machines/hgx-a100-4.json");
const RECORD: &str = include_str!("../../../machines/hgx-a100-4.raw.json");

#[track_caller]
fn finding<'a>(report: &'a Value, check: &str, word: &str) -> &'a Value {
    let all = report["findings"].as_array().unwrap();
    let is_it = |finding: &&Value| {
        finding["check"] == check && finding["message"].as_str().unwrap().contains(word)
    };
    let found = all.iter().find(is_it);
    found.unwrap_or_else(|| panic!("{check} {word:?} in {report:#}"))
}

#[test]
fn a_recorded_machine_in_order_ends_with_0_and_its_json_is_complete() {
    let output = run("doctor --machine dgx-h100 --json");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "berth.dev/v1alpha1");
    assert_eq!(report["subject"], "dgx-h100");
    let findings = report["findings"].as_array().unwrap();
    let with = |severity: &str| {
        let same = findings
            .iter()
            .filter(|finding| finding["severity"] == severity);
        same.count()
    };
    for severity in ["ok", "unknown", "note", "warning", "error"] {
        assert_eq!(report["counts"][severity], with(severity), "{severity}");
    }
    assert!(with("ok") > 3 && with("unknown") > 3);
    assert_eq!(finding(&report, "nvlink", "")["severity"], "ok");
}

#[test]
fn problems_end_with_3_and_only_those_that_were_asked_about() {
    let mut machine: Value = serde_json::from_str(MACHINE).unwrap();
    machine["status"]["gpus"][1]["nvlink"]["lanes"] = json!(8);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), machine.to_string()).unwrap();
    let line = format!("doctor --machine {}", file.path().display());
    let shown = transcript(&line);
    assert!(
        shown.contains("\nwarning  nvlink          NVLink lanes are down at GPU 1\n"),
        "{shown}"
    );
    assert!(shown.ends_with("= 3\n"), "{shown}");
    assert!(transcript(&format!("{line} --fail-on error")).ends_with("= 0\n"));
    assert!(!shown.contains('\x1b'));
}

#[test]
fn wrong_words_are_wrong_usage_and_unreadable_files_errors() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    for (content, sentence) in [
        ("{", "reading the NodeTopology"),
        ("{}", "has no status"),
        (
            r#"{"nvml": 7}"#,
            "is not what `berth-node-agent --print raw` prints",
        ),
    ] {
        std::fs::write(file.path(), content).unwrap();
        let shown = transcript(&format!("doctor --machine {path}"));
        assert!(shown.contains(sentence), "{shown}");
        assert!(shown.ends_with("= 1\n"), "{shown}");
    }
    for line in [
        "doctor --machine dgx9",
        "doctor --node a --machine dgx-h100",
        "doctor --node ../../x",
        "doctor --fail-on note",
    ] {
        assert!(transcript(line).ends_with("= 2\n"), "{line}");
    }
    let shown = transcript("doctor --node a --kubeconfig /nonexistent/config");
    expect![[r#"
        ! berth: reading the kubeconfig /nonexistent/config: failed to read kubeconfig from '"/nonexistent/config"': No such file or directory (os error 2): No such file or directory (os error 2)
        = 1
    "#]]
    .assert_eq(&shown);
}

/// A program that prints what an agent would.
fn agent(folder: &TempDir, machine: &str) -> String {
    let answer = folder.path().join("answer.json");
    std::fs::write(&answer, machine).unwrap();
    let path = folder.path().join("agent");
    std::fs::write(&path, format!("#!/bin/sh\ncat {}\n", answer.display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn where_the_driver_is_the_agent_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let [agent, words] = ["agent", "words"].map(|name| folder.path().join(name));
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\nfalse\n", words.display());
    std::fs::write(&agent, script).unwrap();
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
    let agent = agent.display();
    for command in ["doctor", "machine show -"] {
        run(&format!(
            "{command} --agent {agent} --driver-root /run/driver"
        ));
    }
    let words = std::fs::read_to_string(words).unwrap();
    let asked: Vec<&str> = words.lines().collect();
    assert_eq!(
        asked,
        [
            "--once --print raw --sysfs-root /sys --driver-root /run/driver",
            "--once --print json --driver-root /run/driver"
        ]
    );
}

#[test]
fn a_record_tells_the_driver_too() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("it.raw.json");
    std::fs::write(&record, RECORD).unwrap();
    let agent = agent(&folder, MACHINE);
    let line = format!(
        "doctor --json --machine {} --agent {agent}",
        record.display()
    );
    let output = run(&line);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(finding(&report, "driver", "NVML answers")["severity"], "ok");
    assert_eq!(finding(&report, "numa-agreement", "")["severity"], "ok");
}

#[test]
fn a_machine_without_an_agent_is_a_finding_and_no_crash() {
    let folder = tempfile::tempdir().unwrap();
    let (sys, proc) = (folder.path().join("sys"), folder.path().join("proc"));
    let line = format!(
        "doctor --agent /nonexistent/agent --json --sysfs-root {} --proc-root {} --extender http://127.0.0.1:9",
        sys.display(),
        proc.display()
    );
    let output = run(&line);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let agent = finding(&report, "agent", "no agent tells");
    assert_eq!(
        agent["evidence"][0]["value"],
        "berth-node-agent: there is no file /nonexistent/agent"
    );
    assert_eq!(
        finding(&report, "extender", "does not answer")["severity"],
        "error"
    );
}

/// Answers GETs of objects; what is not there is a 404.
fn api_server(
    folder: &TempDir,
    answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || reply(&stream, &*answer));
        }
    });
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "users": [{"name": "it", "user": {}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path.display().to_string()
}

fn reply(mut stream: &TcpStream, answer: &dyn Fn(&str) -> Option<String>) {
    let head: Vec<String> = BufReader::new(stream)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let path = head
        .first()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or_default();
    let (code, body) = match answer(path) {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"}).to_string()),
    };
    let length = body.len();
    // who asked may be gone
    let _ = write!(
        stream,
        "HTTP/1.1 {code}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
}

fn list(items: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}).to_string()
}

/// A node `gpu-7` whose agent renews its Lease at each look.
fn objects(path: &str, looks: &AtomicUsize) -> Option<String> {
    let machine: Value = serde_json::from_str(MACHINE).unwrap();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    Some(match path {
        "/api/v1/nodes/gpu-7" => json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "gpu-7", "labels": {"nvidia.com/gpu.clique": "abc.1"}},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "allocatable": {"cpu": "64", "nvidia.com/gpu": "4"},
                "nodeInfo": {"architecture": "amd64", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "v1.37.1", "machineID": "", "operatingSystem": "linux", "osImage": "", "systemUUID": ""},
            },
        }).to_string(),
        "/apis/berth.dev/v1alpha1/nodetopologies/gpu-7" => json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "NodeTopology", "metadata": {"name": "gpu-7"},
            "status": machine["status"],
        }).to_string(),
        "/apis/coordination.k8s.io/v1/namespaces/berth-system/leases/gpu-7" => {
            let seconds = looks.fetch_add(1, Ordering::Relaxed).min(59);
            json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "gpu-7"},
                "spec": {"renewTime": format!("2026-11-26T12:00:{seconds:02}.000000Z")},
            }).to_string()
        }
        "/api/v1/nodes/gpu-7/proxy/configz" => json!({"kubeletconfig": {
            "topologyManagerPolicy": "restricted", "cpuManagerPolicy": "static", "reservedSystemCPUs": "0-1",
        }}).to_string(),
        "/api/v1/namespaces/berth-system/pods" if query.contains("labelSelector") => list(&json!([])),
        "/api/v1/pods" => list(&json!([{
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default", "uid": "u", "annotations": {"berth.dev/assignment": "{\u{1b}"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]},
        }])),
        _ => return None,
    })
}

#[test]
fn a_node_is_read_through_the_api_server() {
    let folder = tempfile::tempdir().unwrap();
    let looks = AtomicUsize::new(0);
    let kubeconfig = api_server(&folder, move |path| objects(path, &looks));
    let args = [
        "doctor",
        "--node",
        "gpu-7",
        "--json",
        "--kubeconfig",
        &kubeconfig,
    ];
    let output = berth(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let severity = |check: &str, word: &str| finding(&report, check, word)["severity"].clone();
    assert_eq!(severity("cluster", "the Node is ready"), "ok");
    assert_eq!(severity("cluster", "renews its Lease"), "ok");
    assert_eq!(severity("cluster", "the CRD is not there"), "error");
    assert_eq!(severity("extender", "no Deployment"), "note");
    assert_eq!(severity("fabric", "nvidia.com/gpu.clique"), "warning");
    assert_eq!(
        severity("kubelet", "nothing in the kubelet's policies"),
        "ok"
    );
    assert_eq!(
        severity("shared-memory", "mount nothing at /dev/shm"),
        "note"
    );
    let promise = finding(&report, "promises", "did not get what they were promised");
    assert_eq!(
        promise["evidence"][0]["value"],
        "default/p: reading the assignment"
    );
    assert_eq!(severity("acs", "it takes the machine itself"), "unknown");
}

#[test]
fn a_node_that_is_not_there_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = api_server(&folder, |_| None);
    let shown = transcript(&format!("doctor --node gpu-8 --kubeconfig {kubeconfig}"));
    expect![[r#"
        ! berth: --node: the cluster has no Node "gpu-8"
        = 2
    "#]]
    .assert_eq(&shown);
}

#[test]
fn a_cluster_that_does_not_answer_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": format!("http://{closed}")}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "users": [{"name": "it", "user": {}}],
    });
    std::fs::write(&path, config.to_string()).unwrap();
    let shown = transcript(&format!("doctor --node a --kubeconfig {}", path.display()));
    assert!(shown.starts_with("! berth: reading Node a: "), "{shown}");
    assert!(shown.ends_with("= 1\n"), "{shown}");
}
