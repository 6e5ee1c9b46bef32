//! The page on recorded machines, docs/metrics.md, and the real promtool.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_topology::allocation::Allocation;
use berth_topology::kubelet::{Plugin, PluginOwner};

use super::*;
use crate::fixtures::recorded;
use crate::tally::{Outcome, Tally};

#[path = "../../../tests/promtool.rs"]
mod promtool;

/// Every metric with at least one sample.
fn used(machine: &str) -> String {
    let mut status = recorded(machine);
    status.plugins = vec![Plugin {
        resource: "nvidia.com/gpu".to_owned(),
        owner: PluginOwner::Berth,
        registered: true,
        exact: false,
        unaligned: false,
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
    let page = used("hgx-a100-4");
    let uuid = recorded("hgx-a100-4").gpus[2].uuid.clone();
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
        let first = recorded("hgx-a100-4").gpus[0].uuid.clone();
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
    let page = used("dgx2");
    assert!(page.len() < 64 << 10, "{}", page.len());
    assert!(page.lines().count() < 700, "{}", page.lines().count());
}

#[test]
fn hostile_names_stay_inside_their_label() {
    let mut status = recorded("hgx-a100-4");
    status.gpus[0].model = format!("a\"}} 1\n# EOF\\ \x1b{}", "x".repeat(9_000));
    let counts = Counts {
        status: Some(Arc::new(status)),
        ..Counts::default()
    };
    let page = page(&counts, Instant::now());
    assert!(page.contains("model=\"a\\\"} 1\\n# EOF\\\\ \u{fffd}xxx"));
    assert!(page.lines().all(|line| line.len() < 1_000));
}

#[test]
fn the_page_about_metrics_lists_exactly_what_the_agent_exports() {
    let exported = promtool::exported(&used("hgx-a100-4"));
    assert_eq!(promtool::listed("berth_node_"), exported);
}

#[test]
fn promtool_finds_no_fault_with_the_agents_names_and_format() {
    promtool::check(&used("hgx-a100-4"));
}
