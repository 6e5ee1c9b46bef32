//! The page on recorded machines, docs/metrics.md, and the real promtool.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use berth_topology::allocation::Allocation;
use berth_topology::kubelet::{Plugin, PluginOwner};
use berth_topology::node::NodeTopology;

use super::*;
use crate::tally::{Outcome, Tally};

fn status(machine: &str) -> Status {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../machines")
        .join(machine);
    let text = std::fs::read_to_string(path).expect("a recorded machine");
    let object: NodeTopology = serde_json::from_str(&text).expect("a NodeTopology");
    object.status.expect("a status")
}

/// Every metric with at least one sample.
fn used(machine: &str) -> String {
    let mut status = status(machine);
    status.plugins = vec![Plugin {
        resource: "nvidia.com/gpu".to_owned(),
        owner: PluginOwner::Berth,
        registered: true,
        exact: false,
    }];
    status.allocations = vec![Allocation {
        devices: vec![status.gpus[1].uuid.clone()],
        ..Allocation::default()
    }];
    status.gpus[0].nvlink.as_mut().unwrap().lanes -= 1;
    status.gpus[2].health.state = HealthState::Failed;
    let tally = Tally::default();
    drop(tally.probing());
    tally.publish_failed();
    tally.allocated("nvidia.com/gpu", Outcome::Promised);
    tally.mismatched("nvidia.com/gpu", 1);
    let now = Instant::now();
    tally.published(Some(&status), Some(now));
    page(&tally.counts(), now + Duration::from_secs(2))
}

#[test]
fn gpus_links_and_the_agents_own_doings_are_told() {
    let page = used("hgx-a100-4.json");
    let uuid = status("hgx-a100-4.json").gpus[2].uuid.clone();
    for line in [
        "berth_node_gpu_nvlink_lanes{gpu=\"GPU0\",index=\"0\"} 11",
        "berth_node_gpu_nvlink_lanes_expected{gpu=\"GPU0\",index=\"0\"} 12",
        "berth_node_link_lanes{a=\"0\",b=\"3\"} 4",
        "berth_node_link_lanes_expected{a=\"0\",b=\"3\"} 4",
        "berth_node_gpu_health{gpu=\"GPU2\",index=\"2\",state=\"failed\"} 1",
        "berth_node_gpu_health{gpu=\"GPU2\",index=\"2\",state=\"healthy\"} 0",
        "berth_node_gpu_allocated{gpu=\"GPU2\",index=\"2\"} 0",
        "berth_node_plugin_registered{resource=\"nvidia.com/gpu\",owner=\"berth\"} 1",
        "berth_node_plugin_exact{resource=\"nvidia.com/gpu\",owner=\"berth\"} 0",
        "berth_node_allocate_total{resource=\"nvidia.com/gpu\",outcome=\"promised\"} 1",
        "berth_node_promise_mismatches{resource=\"nvidia.com/gpu\"} 1",
        "berth_node_lease_age_seconds 2",
        "berth_node_publish_errors_total 1",
        "berth_node_probe_seconds_bucket{le=\"+Inf\"} 1",
    ] {
        let first = status("hgx-a100-4.json").gpus[0].uuid.clone();
        let line = line
            .replace("GPU0", first.as_str())
            .replace("GPU2", uuid.as_str());
        assert!(page.lines().any(|other| other == line), "{line} in\n{page}");
    }
}

#[test]
fn what_is_unknown_has_no_sample() {
    let page = page(&Tally::default().counts(), Instant::now());
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let names: BTreeSet<&str> = samples
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    assert!(!names.contains("berth_node_probe_age_seconds"));
    assert!(!names.contains("berth_node_gpu_info"));
    assert!(names.contains("berth_node_unknown_facts"));
}

#[test]
fn a_page_of_sixteen_gpus_is_small_enough_to_be_read_often() {
    let page = used("dgx2.json");
    assert!(page.len() < 64 << 10, "{}", page.len());
    assert!(page.lines().count() < 700, "{}", page.lines().count());
}

#[test]
fn hostile_names_stay_inside_their_label() {
    let mut status = status("hgx-a100-4.json");
    status.gpus[0].model = format!("a\"}} 1\n# EOF\\ \x1b{}", "x".repeat(9_000));
    let counts = Counts {
        status: Some(Arc::new(status)),
        ..Counts::default()
    };
    let page = page(&counts, Instant::now());
    assert!(page.contains("model=\"a\\\"} 1\\n# EOF\\\\ \u{fffd}xxx"));
    assert!(page.lines().all(|line| line.len() < 1_000));
}

/// Name, type and labels of every metric.
fn exported() -> BTreeSet<String> {
    let text = used("hgx-a100-4.json");
    let of_type = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        let is_sample = |line: &&str| {
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            line[..end].trim_end_matches("_bucket") == name
        };
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = samples
            .into_iter()
            .find(is_sample)
            .expect("each has a sample");
        let labels = sample.split_once('{').map_or("", |(_, rest)| rest);
        let labels = labels
            .split("\",")
            .filter_map(|label| Some(label.split_once('=')?.0));
        let labels: Vec<_> = labels.filter(|label| *label != "le").collect();
        Some(format!("{name} {kind} {}", labels.join(",")))
    };
    text.lines().filter_map(of_type).collect()
}

#[test]
fn the_page_about_metrics_lists_exactly_what_the_agent_exports() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let cells = |line: &str| -> Option<String> {
        let cells: Vec<_> = line
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect();
        cells.get(1)?.starts_with("berth_node_").then(|| {
            let labels = cells[3].replace(' ', "");
            format!("{} {} {labels}", cells[1], cells[2])
        })
    };
    let listed: BTreeSet<String> = page.lines().filter_map(cells).collect();
    assert_eq!(listed, exported());
}

/// `promtool` of the PATH, or the one that `./x test` unpacks.
fn promtool() -> Option<PathBuf> {
    let given = std::env::var_os("BERTH_PROMTOOL").map(PathBuf::from);
    let of_path = std::env::var_os("PATH").into_iter();
    let of_path = of_path.flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let mut all = given
        .into_iter()
        .chain(of_path.map(|folder| folder.join("promtool")));
    all.find(|path| path.is_file())
}

#[test]
fn promtool_finds_no_fault_with_the_agents_names_and_format() {
    let Some(promtool) = promtool() else {
        assert!(
            !std::env::var("CI").is_ok_and(|value| value == "true"),
            "with CI=true promtool must be there, or BERTH_PROMTOOL name it"
        );
        println!("SKIP promtool_finds_no_fault software: ./x test fetches promtool");
        return;
    };
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = used("hgx-a100-4.json");
    check
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
