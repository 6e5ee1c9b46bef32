//! Checks over facts of machines that are in order, broken, or unreadable.

mod machine;
mod node;

use std::collections::{BTreeMap, BTreeSet};

use berth_topology::allocation::Allocation;
use berth_topology::assignment::{Assignment, ContainerAssignment, Rank};
use berth_topology::gpu::{Health, HealthState, Sharing};
use berth_topology::kubelet::{Kubelet, Plugin, PluginOwner};
use berth_topology::names;
use berth_topology::node::{Status, Unknown};
use berth_topology::raw::{Answer, RawMachine, RawNvml, RawPci};
use expect_test::{Expect, expect};

use super::check::findings;
use super::facts::*;
use super::finding::Severity;
use super::report;
use crate::paint::Paint;
use crate::source::recorded;

fn status(machine: &str) -> Status {
    let seen = recorded().expect("they parse").into_iter();
    let mut found = seen.filter(|seen| seen.name == machine);
    found.next().expect("a recorded machine").status
}

/// Nothing but what a NodeTopology says.
fn of(status: Status) -> Facts {
    let unread = || "nobody looked".to_owned();
    Facts {
        subject: "it".to_owned(),
        status: Ok(status),
        status_from: "it".to_owned(),
        raw: Err(unread()),
        host: Err(unread()),
        configz: Err(unread()),
        cluster: Err(unread()),
        extender: Err(unread()),
    }
}

fn host() -> Host {
    let files = ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"];
    Host {
        driver_module: Ok(Some("NVRM version: NVIDIA UNIX  550.54.15  x".to_owned())),
        modules: Ok(BTreeSet::from(["nvidia".to_owned()])),
        device_files: Ok(files.map(str::to_owned).to_vec()),
        command_line: Ok("quiet intel_iommu=on".to_owned()),
        iommu_types: BTreeMap::new(),
        acs: BTreeMap::from([("0000:00:01.0".to_owned(), Ok(None))]),
        interrupts: Vec::new(),
        shm_bytes: Ok(8 << 30),
        transparent_huge_pages: Ok("always [madvise] never".to_owned()),
        plugin_sockets: Ok(None),
    }
}

fn cluster() -> InCluster {
    InCluster {
        node: SeenNode {
            is_ready: Some(true),
            kubelet_version: "v1.37.1".to_owned(),
            allocatable: BTreeMap::from([(names::DEFAULT_RESOURCE.to_owned(), "8".to_owned())]),
            ..SeenNode::default()
        },
        lease: Ok(Some(SeenLease {
            renew_time: "2026-11-26T12:00:00Z".to_owned(),
            was_renewed: Some(true),
            watched_seconds: 9,
        })),
        crd: Ok(Some(SeenCrd {
            served: vec!["v1alpha1".to_owned()],
            fields: BTreeSet::from(["status.gpus".to_owned()]),
            expected_fields: BTreeSet::from(["status.gpus".to_owned()]),
        })),
        agents: Ok(vec![SeenAgent {
            name: "berth-node-agent-x".to_owned(),
            phase: "Running".to_owned(),
            is_ready: true,
            restart_count: 0,
            reason: None,
        }]),
        pods: Ok(Vec::new()),
        scheduler: Ok(Some(SeenScheduler {
            wanted: 2,
            ready: 2,
        })),
    }
}

/// What those checks say, a line each, with evidence and fix.
#[track_caller]
fn check(facts: &Facts, checks: &[&str], expected: Expect) {
    let mut findings = findings(facts);
    findings.retain(|finding| checks.contains(&finding.check));
    expected.assert_eq(&report::text("it", &findings, Paint::none()));
}

#[test]
fn nothing_is_ok_where_nothing_could_be_read() {
    let mut facts = of(Status::default());
    facts.status = Err("it did not answer".to_owned());
    for finding in findings(&facts) {
        assert_ne!(finding.severity, Severity::Ok, "{finding:?}");
        assert!(!finding.evidence.is_empty(), "{finding:?}");
    }
}

#[test]
fn every_finding_has_evidence_and_every_bad_one_a_way_out() {
    let mut all = Vec::new();
    for seen in recorded().unwrap() {
        let mut facts = of(seen.status);
        all.extend(findings(&facts));
        facts.host = Ok(host());
        facts.cluster = Ok(cluster());
        all.extend(findings(&facts));
    }
    assert!(all.len() > 17 * 20);
    for finding in all {
        assert!(!finding.evidence.is_empty(), "{finding:?}");
        assert!(
            finding.severity < Severity::Warning || finding.fix.is_some(),
            "{finding:?}"
        );
        assert!(!finding.message.ends_with('.'), "{finding:?}");
    }
}
