//! `berth explain`, `snapshot` and `plan` on what an extender wrote, from a file and over HTTP.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;

use berth_extender_core::decide::{self, Preference};
use berth_extender_core::fixtures::*;
use berth_extender_core::index::Index;
use berth_extender_core::preempt::{Offer, preempt};
use berth_extender_core::record::archive::{Archive, Now, Replica};
use berth_extender_core::record::{Asked, Inputs, Records};
use berth_topology::node::NodeTopology;
use expect_test::{Expect, expect};
use tempfile::TempDir;

use crate::program::{run, text, transcript};

/// Two nodes whose quads are cut, and a pod `ns/p` of four joined GPUs that was refused on both.
fn archive() -> Archive {
    let mut index = cluster(&["a", "b"]);
    index.apply_pod(&bound(pod("left", 1), "a", &[0]));
    index.apply_pod(&bound(pod("right", 2), "a", &[4, 5]));
    index.apply_pod(&bound(pod("quad", 4), "b", &[0, 1, 2, 3]));
    index.apply_pod(&bound(pod("one", 1), "b", &[4]));
    let mut records = Records::default();
    let names = ["a", "b", "c"];
    let wishes = annotated(pod("p", 4), "berth.dev/link", "nvlink");
    let wishes = annotated(wishes, "berth.dev/link-policy", "require");
    for pod in [wishes, pod("two", 2)] {
        let snapshot = snapshot(&mut index);
        let verdicts = decide::filter(&snapshot, &ask(&pod), &names);
        let inputs = Inputs::of(&snapshot, &ask(&pod), &verdicts.offered, Preference::Pack);
        let at = "2026-11-26T04:00:00Z".to_owned();
        records.filtered(&Asked::of(&pod), at, inputs, &verdicts);
    }
    written(index, &records)
}

/// The same, while the one pod that is in the way is being deleted.
fn ending() -> Archive {
    let mut index = cluster(&["a"]);
    index.apply_pod(&terminating(bound(pod("left", 1), "a", &[0])));
    index.apply_pod(&bound(pod("right", 2), "a", &[4, 5]));
    let (mut records, pod) = (Records::default(), nvlinked(pod("p", 4)));
    let snapshot = snapshot(&mut index);
    let verdicts = decide::filter(&snapshot, &ask(&pod), &["a"]);
    let inputs = Inputs::of(&snapshot, &ask(&pod), &verdicts.offered, Preference::Pack);
    let at = "2026-11-26T04:00:00Z".to_owned();
    records.filtered(&Asked::of(&pod), at, inputs, &verdicts);
    written(index, &records)
}

/// Two full nodes, of which one has pods below `ns/high`, and what preempt said.
fn preempted() -> Archive {
    let mut index = cluster(&["a", "b"]);
    let web = labelled(pod("web", 4), "app", "web");
    index.apply_pod(&ranked(bound(web, "a", &[0, 1, 2, 3]), 1));
    index.apply_pod(&ranked(bound(pod("peer", 4), "a", &[4, 5, 6, 7]), 10));
    index.apply_pod(&ranked(
        bound(pod("whole", 8), "b", &[0, 1, 2, 3, 4, 5, 6, 7]),
        10,
    ));
    index.reset_budgets(&[budget("web", 0)]);
    let (mut records, pod) = (Records::default(), ranked(pod("high", 4), 10));
    let (snapshot, ask) = (snapshot(&mut index), ask(&pod));
    let verdicts = decide::filter(&snapshot, &ask, &["a", "b"]);
    let inputs = Inputs::of(&snapshot, &ask, &verdicts.offered, Preference::Pack);
    let asked = Asked::of(&pod);
    records.filtered(&asked, "2026-11-26T04:00:00Z".to_owned(), inputs, &verdicts);
    let offer = |victims: &[&str]| Offer {
        victims: victims.iter().map(|uid| (*uid).into()).collect(),
        violation_count: 1,
    };
    let offers = [
        ("a".to_owned(), offer(&["u-web", "u-plain"])),
        ("b".to_owned(), offer(&[])),
    ];
    let offers = offers.into();
    let inputs = Inputs::of_preempt(&snapshot, &ask, &offers);
    let answer = preempt(&snapshot, &ask, &offers);
    records.preempted(&asked, "2026-11-26T04:00:01Z".to_owned(), inputs, &answer);
    written(index, &records)
}

fn written(mut index: Index, records: &Records) -> Archive {
    let claims = index.claims();
    let replica = Replica {
        resource: RESOURCE.to_owned(),
        ..Replica::default()
    };
    Archive::of(Now {
        replica,
        snapshot: &snapshot(&mut index),
        claims,
        records: records.iter().cloned().collect(),
    })
    .unwrap()
}

fn file() -> (TempDir, PathBuf) {
    file_of(&archive())
}

fn file_of(archive: &Archive) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("now.json");
    std::fs::write(&path, serde_json::to_string(archive).unwrap()).unwrap();
    (folder, path)
}

#[track_caller]
fn check(line: &str, expected: Expect) {
    check_on(&archive(), line, expected);
}

#[track_caller]
fn check_on(archive: &Archive, line: &str, expected: Expect) {
    let (_folder, path) = file_of(archive);
    let path = path.display().to_string();
    let told = transcript(&line.replace("FILE", &path));
    expected.assert_eq(&told.replace(&path, "FILE"));
}

#[test]
fn a_pod_is_explained_from_a_file() {
    check(
        "explain pod ns/two --from FILE",
        expect![[r#"
            ns/two: 2 nodes fit, 1 refused (asked 2026-11-26T04:00:00Z)
            NODE  SCORE  FREE     SETS  SET  RUNNER-UP
            a     10     1-3,6-7  10    6,7  1,2
                  bandwidth: NVLink 50.0 GB/s
                  decided by what is cut off: NVLink 0.0 GB/s against NVLink 100.0 GB/s
                  943 points: quality 300, link 300, kept 112, group 200, room 31
            b     10     5-7      3     5,6  5,7
                  bandwidth: NVLink 50.0 GB/s
                  decided by lowest index
                  955 points: quality 300, link 300, kept 112, group 200, room 43
            refused on 1 node: NoTopology: the node has published no GPU topology
              c
            not bound
            = 0
        "#]],
    );
    check(
        "explain pod ns/p --from FILE",
        expect![[r#"
            ns/p: 0 nodes fit, 3 refused (asked 2026-11-26T04:00:00Z)
            refused on 1 node: LinkTooWeak: the free GPUs are not linked as the pod requires; others leaving could help
              a
            refused on 1 node: NoTopology: the node has published no GPU topology
              c
            refused on 1 node: NotEnoughFree: not enough free GPUs; others leaving could help
              b
            not bound
            = 0
        "#]],
    );
    check(
        "explain pod ns/two --why-not b --from FILE",
        expect![[r#"
            ns/two: 2 nodes fit, 1 refused (asked 2026-11-26T04:00:00Z)
            b fits as well as a: both have score 10
            its best set on b: GPUs 5, 6 (link wish met; bandwidth NVLink 50.0 GB/s; NUMA nodes 1; sockets 1; what stays possible 1.000 groups; what is cut off NVLink 100.0 GB/s, PCIe 0, NUMA neighbours 2)
            on b the kubelet may give others: PluginNotOurs
            its best set on a: GPUs 6, 7 (link wish met; bandwidth NVLink 50.0 GB/s; NUMA nodes 1; sockets 1; what stays possible 2.000 groups; what is cut off NVLink 0.0 GB/s, PCIe 6, NUMA neighbours 0)
            = 0
        "#]],
    );
    check(
        "explain pod ns/nobody --from FILE",
        expect![[r#"
        ! berth: FILE holds no decision about ns/nobody
        = 1
    "#]],
    );
}

/// A recorded machine with sixteen GPUs and one with eight; a pod of two containers, so that sets are long.
fn wide() -> Archive {
    let recorded = [
        ("node-a-01", include_str!("../../../machines/dgx2.json")),
        (
            "node-a-02",
            include_str!("../../../machines/a100-pcie-01.json"),
        ),
    ];
    let machines = recorded.map(|(name, text)| {
        let machine: NodeTopology = serde_json::from_str(text).unwrap();
        NodeTopology::new(name, machine.status.unwrap())
    });
    let mut index = cluster_of(RESOURCE, &machines);
    let mut records = Records::default();
    let mut pod = pod("wide", 6);
    let containers = &mut pod.spec.as_mut().unwrap().containers;
    let mut second = containers[0].clone();
    second.name = "d".to_owned();
    let limits = serde_json::from_value(serde_json::json!({"limits": {RESOURCE: "2"}}));
    second.resources = limits.unwrap();
    containers.push(second);
    let snapshot = snapshot(&mut index);
    let names = ["node-a-01", "node-a-02"];
    let verdicts = decide::filter(&snapshot, &ask(&pod), &names);
    let inputs = Inputs::of(&snapshot, &ask(&pod), &verdicts.offered, Preference::Pack);
    let at = "2026-11-26T04:00:00Z".to_owned();
    records.filtered(&Asked::of(&pod), at, inputs, &verdicts);
    written(index, &records)
}

#[test]
fn long_sets_stay_within_eighty_columns() {
    check_on(
        &wide(),
        "explain pod ns/wide --from FILE",
        expect![[r#"
            ns/wide: 2 nodes fit, 0 refused (asked 2026-11-26T04:00:00Z)
            NODE       SCORE  FREE  SETS  SET          RUNNER-UP
            node-a-01  10     0-15  8008  0,1,2,3,4,5  0,1,2,3,4,6
                  container c
                  bandwidth: NVLink 150.0 GB/s
                  decided by lowest index
                  825 points: quality 300, link 300, kept 0, group 200, room 25
                                    120   0,1          0,2
                  container d
                  bandwidth: NVLink 150.0 GB/s
                  decided by lowest index
                  gets 6,7: by the kubelet's rules, and beside the others
            node-a-02  10     0-7   28    0,1,2,3,4,5  0,1,2,3,6,7
                  container c
                  bandwidth: PCIe SYS, gen x width 64
                  decided by lowest index
                  550 points: quality 300, link 0, kept 0, group 200, room 50
                                    28    0,1          2,3
                  container d
                  bandwidth: NVLink 309.4 GB/s
                  decided by lowest index
                  gets 6,7: by the kubelet's rules, and beside the others
            not bound
            = 0
        "#]],
    );
    let (_folder, path) = file_of(&wide());
    let told = transcript(&format!("explain pod ns/wide --from {}", path.display()));
    let widest = told.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "{told}");
}

#[test]
fn a_preemption_is_told_and_replays() {
    let told = preempted();
    check_on(
        &told,
        "explain pod ns/high --from FILE",
        expect![[r#"
        ns/high: 0 nodes fit, 2 refused (asked 2026-11-26T04:00:00Z)
        refused on 2 nodes: NotEnoughFree: not enough free GPUs; others leaving could help
          a, b
        preempt: 1 node would fit without these pods (asked 2026-11-26T04:00:01Z)
        NODE  EVICTS   PRIORITY  GPUS
        a     ns/web   1         0,1,2,3
        a     u-plain  -         -
        on a that violates 1 disruption budget
        left out 1 node: NotEnoughFree: would not fit without any pod of lower priority: not enough free GPUs
          b
        not bound
        = 0
    "#]],
    );
    check_on(
        &told,
        "explain pod ns/high --why-not b --from FILE",
        expect![[r#"
            ns/high: 0 nodes fit, 2 refused (asked 2026-11-26T04:00:00Z)
            b was refused: NotEnoughFree: not enough free GPUs
            pods that leave the node could change that
            free GPUs: none
            ns/whole holds GPUs 0, 1, 2, 3, 4, 5, 6, 7
            preemption left b out: would not fit without any pod of lower priority: not enough free GPUs
            = 0
        "#]],
    );
    check_on(
        &told,
        "explain replay FILE",
        expect![[r#"
        2 records: 2 decided the same again, 0 otherwise, 0 without kept inputs
        = 0
    "#]],
    );
}

#[test]
fn records_replay_and_a_changed_one_is_told() {
    check(
        "explain replay FILE",
        expect![[r#"
        2 records: 2 decided the same again, 0 otherwise, 0 without kept inputs
        = 0
    "#]],
    );
    let (_folder, path) = file();
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = text.replacen("{\"fits\":", "{\"fits\":1", 1);
    assert_ne!(text, changed);
    std::fs::write(&path, changed).unwrap();
    let told = transcript(&format!("explain replay {}", path.display()));
    assert!(
        told.starts_with("2 records: 1 decided the same again, 1 otherwise"),
        "{told}"
    );
    assert!(
        told.ends_with("! berth: 1 of 2 records are decided otherwise now\n= 1\n"),
        "{told}"
    );
}

#[test]
fn a_plan_names_who_moves_and_whereto() {
    check(
        "plan repack ns/p --from FILE",
        expect![[r#"
        MOVE     FROM  GPUS  TO  GPUS  SCORE
        ns/left  a     0     a   6     10
        ns/p fits a, GPUs 0,1,2,3, once 1 pod with 1 GPU has moved
        = 0
    "#]],
    );
    check(
        "plan repack ns/two --from FILE",
        expect![[r#"
        ns/two fits a, GPUs 6,7, as it is: nobody has to move
        = 0
    "#]],
    );
    check_on(
        &ending(),
        "plan repack ns/p --from FILE",
        expect![[r#"
        ns/p fits a, GPUs 0,1,2,3, once ns/left has ended: waiting is enough
        = 0
    "#]],
    );
    check(
        "plan repack ns/nobody --from FILE",
        expect![[r#"
        ! berth: no decision about ns/nobody is remembered: kube-scheduler has not asked about it yet
        = 1
    "#]],
    );
}

/// Answers one request with that body.
fn serve_once(status: &'static str, body: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4_096]).unwrap();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
    });
    format!("http://{address}")
}

#[test]
fn a_snapshot_is_what_the_extender_writes() {
    let written = serde_json::to_string(&archive()).unwrap();
    let url = serve_once("200 OK", written.clone());
    let output = run(&format!("snapshot --extender {url}"));
    assert_eq!(text(&output.stdout), format!("{written}\n"));
    let url = serve_once("200 OK", written);
    let told = transcript(&format!("plan repack ns/two --json --extender {url}"));
    assert!(told.contains("\"feasible\":true"), "{told}");
}

#[test]
fn what_the_extender_refuses_and_where_none_is_are_said() {
    let url = serve_once("404 Not Found", "{\"error\":\"no decision\"}".to_owned());
    assert_eq!(
        transcript(&format!("explain pod ns/p --extender {url}")),
        "! berth: no decision\n= 1\n"
    );
    let told = transcript("snapshot --extender http://127.0.0.1:1");
    assert!(
        told.contains("kubectl -n berth-system port-forward"),
        "{told}"
    );
    assert!(told.ends_with("= 1\n"));
    assert!(transcript("explain pod p").contains("allowed: NAMESPACE/NAME"));
}
