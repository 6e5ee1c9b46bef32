//! Hand-made machines, and machines of which random answers fail.

use std::fmt::Write;

use berth_topology::gpu::{Gpu, HealthState};
use berth_topology::link::{Path, Via};
use berth_topology::raw::{
    Answer, RawFabric, RawHwloc, RawNuma, RawNvLink, RawNvml, RawPci, RawSysfs,
};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

const REMOTE_GPU: u32 = 0;
const REMOTE_SWITCH: u32 = 2;
const REMOTE_UNKNOWN: u32 = 255;

fn nvml_bus_id(index: usize) -> String {
    format!("00000000:{:02X}:00.0", 0x10 + index)
}

fn bus_id(index: usize) -> String {
    format!("0000:{:02x}:00.0", 0x10 + index)
}

fn link(remote_type: u32, remote: Answer<String>) -> RawNvLink {
    RawNvLink {
        active: Answer::Value(true),
        version: Answer::Value(2),
        remote_type: Answer::Value(remote_type),
        remote_pci_bus_id: remote,
        speed_mb_per_second: Answer::Value(25_000),
    }
}

fn to_gpu(index: usize) -> RawNvLink {
    link(REMOTE_GPU, Answer::Value(nvml_bus_id(index)))
}

fn to_switch() -> RawNvLink {
    link(REMOTE_SWITCH, Answer::Value("00000000:C4:00.0".to_owned()))
}

fn to_somewhere() -> RawNvLink {
    link(REMOTE_UNKNOWN, Answer::default())
}

/// A GPU that answers all that a healthy one does, with those links.
fn gpu(index: usize, count: usize, nvlinks: Vec<RawNvLink>) -> RawGpu {
    let number = u32::try_from(index).unwrap();
    RawGpu {
        uuid: Answer::Value(format!("GPU-{index}")),
        minor: Answer::Value(number),
        name: Answer::Value("Tesla V100-SXM2-16GB".to_owned()),
        pci_bus_id: Answer::Value(nvml_bus_id(index)),
        memory_total_bytes: Answer::Value(16 << 30),
        compute_capability: Answer::Value((7, 0)),
        pcie_generation: Answer::Value(1),
        pcie_width: Answer::Value(16),
        pcie_max_generation: Answer::Value(3),
        pcie_max_width: Answer::Value(16),
        cpu_affinity: Answer::Value("0-3".parse().unwrap()),
        memory_affinity: Answer::Value(vec![0]),
        common_ancestors: (0..count).map(|other| level(index, other)).collect(),
        p2p_nvlink: vec![Answer::Value(0); count],
        nvlink_count: Answer::Value(u32::try_from(nvlinks.len()).unwrap()),
        nvlinks,
        ..RawGpu::default()
    }
}

fn level(one: usize, other: usize) -> Answer<u32> {
    Answer::Value(if one == other { 0 } else { 30 })
}

fn pci(index: usize) -> (String, RawPci) {
    let pci = RawPci {
        device_path: Some(format!(
            "devices/pci0000:00/0000:00:{index:02x}.0/{}",
            bus_id(index)
        )),
        vendor: Some("0x10de".into()),
        class: Some("0x030200".into()),
        numa_node: Some("0".into()),
        local_cpulist: Some("0-3".into()),
    };
    (bus_id(index), pci)
}

/// A machine of one NUMA node whose GPUs have those links.
fn machine(nvlinks: Vec<Vec<RawNvLink>>) -> RawMachine {
    let count = nvlinks.len();
    let gpus = nvlinks.into_iter().enumerate();
    let gpus = gpus
        .map(|(index, links)| Answer::Value(gpu(index, count, links)))
        .collect();
    let device_count = Answer::Value(u32::try_from(count).unwrap());
    let numa = RawNuma {
        cpulist: Some("0-3".into()),
        distance: Some("10".into()),
        mem_total_kb: Some(1 << 20),
        ..RawNuma::default()
    };
    RawMachine {
        nvml: Answer::Value(RawNvml {
            device_count,
            gpus,
            ..RawNvml::default()
        }),
        sysfs: RawSysfs {
            pci: (0..count).map(pci).collect(),
            numa: [(0, numa)].into(),
            ..RawSysfs::default()
        },
        hwloc: Answer::Value(RawHwloc::default()),
        ..RawMachine::default()
    }
}

fn gpu_of(machine: &mut RawMachine, index: usize) -> &mut RawGpu {
    let Answer::Value(nvml) = &mut machine.nvml else {
        panic!("a machine with NVML")
    };
    let Answer::Value(gpu) = &mut nvml.gpus[index] else {
        panic!("a GPU that answers")
    };
    gpu
}

/// GPUs with budget and health, pairs, unknowns: a line each.
fn text(machine: &RawMachine) -> String {
    let status = assemble(machine);
    let mut text = String::new();
    for gpu in &status.gpus {
        let nvlink = gpu
            .nvlink
            .as_ref()
            .map_or("no nvlink".to_owned(), |nvlink| {
                format!(
                    "{}/{} lanes {} GB/s",
                    nvlink.lanes, nvlink.lanes_expected, nvlink.gb_per_second
                )
            });
        writeln!(text, "gpu {}: {nvlink}, {}", gpu.index, gpu.health.state).unwrap();
        gpu.health
            .reasons
            .iter()
            .for_each(|reason| writeln!(text, "  {reason}").unwrap());
    }
    for link in status.links.iter().filter(|link| link.nvlink.is_some()) {
        let nvlink = link.nvlink.as_ref().unwrap();
        let (lanes, expected) = (nvlink.lanes, nvlink.lanes_expected);
        let (gb, via) = (nvlink.gb_per_second, nvlink.via);
        writeln!(
            text,
            "{} {}: {lanes}/{expected} lanes {gb} GB/s {via}",
            link.a, link.b
        )
        .unwrap();
    }
    for unknown in &status.unknowns {
        writeln!(text, "? {}: {}", unknown.what, unknown.why).unwrap();
    }
    text
}

#[track_caller]
fn check(machine: &RawMachine, expected: Expect) {
    expected.assert_eq(&text(machine));
}

fn first(machine: &RawMachine) -> Gpu {
    assemble(machine).gpus[0].clone()
}

#[track_caller]
fn check_unknown(machine: &RawMachine, what: &str, why: &str) {
    let unknowns = assemble(machine).unknowns;
    let found = unknowns.iter().find(|unknown| unknown.what == what);
    let found = found.unwrap_or_else(|| panic!("{what} is not among {unknowns:?}"));
    assert!(
        found.why.contains(why),
        "{what}: {:?} does not say {why:?}",
        found.why
    );
}

#[test]
fn direct_links_count_for_the_pair_that_they_join() {
    let links = vec![
        vec![to_gpu(1), to_gpu(1), to_gpu(2)],
        vec![to_gpu(0), to_gpu(0)],
        vec![to_gpu(0)],
    ];
    check(
        &machine(links),
        expect![[r#"
        gpu 0: 3/3 lanes 75 GB/s, healthy
        gpu 1: 2/2 lanes 50 GB/s, healthy
        gpu 2: 1/1 lanes 25 GB/s, healthy
        GPU-0 GPU-1: 2/2 lanes 50 GB/s direct
        GPU-0 GPU-2: 1/1 lanes 25 GB/s direct
    "#]],
    );
}

#[test]
fn behind_switches_every_pair_has_the_lesser_of_both_budgets() {
    let mut machine = machine(vec![
        vec![to_switch(); 6],
        vec![to_switch(); 6],
        vec![to_switch(); 6],
    ]);
    gpu_of(&mut machine, 1).nvlinks[5].active = Answer::Value(false);
    check(
        &machine,
        expect![[r#"
        gpu 0: 6/6 lanes 150 GB/s, healthy
        gpu 1: 5/6 lanes 125 GB/s, degraded
          5 of 6 NVLinks are active
        gpu 2: 6/6 lanes 150 GB/s, healthy
        GPU-0 GPU-1: 5/6 lanes 125 GB/s switch
        GPU-0 GPU-2: 6/6 lanes 150 GB/s switch
        GPU-1 GPU-2: 5/6 lanes 125 GB/s switch
    "#]],
    );
}

#[test]
fn a_direct_link_that_is_down_on_one_side_is_down() {
    let mut machine = machine(vec![vec![to_gpu(1); 2], vec![to_gpu(0); 2]]);
    gpu_of(&mut machine, 0).nvlinks[1].active = Answer::Value(false);
    check(
        &machine,
        expect![[r#"
        gpu 0: 1/2 lanes 25 GB/s, degraded
          1 of 2 NVLinks are active
        gpu 1: 2/2 lanes 50 GB/s, healthy
        GPU-0 GPU-1: 1/2 lanes 25 GB/s direct
    "#]],
    );
}

#[test]
fn inactive_links_of_a_card_are_normal() {
    let dark = RawNvLink {
        active: Answer::Value(false),
        ..RawNvLink::default()
    };
    let links = |peer| [vec![to_gpu(peer); 12], vec![dark.clone(); 6]].concat();
    let mut machine = machine(vec![links(1), links(0)]);
    for index in [0, 1] {
        gpu_of(&mut machine, index).name = Answer::Value("NVIDIA H100 PCIe".into());
    }
    check(
        &machine,
        expect![[r#"
        gpu 0: 12/12 lanes 300 GB/s, healthy
        gpu 1: 12/12 lanes 300 GB/s, healthy
        GPU-0 GPU-1: 12/12 lanes 300 GB/s direct
    "#]],
    );
}

#[test]
fn a_module_whose_links_are_all_dark_is_degraded_where_it_has_company() {
    let dark = RawNvLink {
        active: Answer::Value(false),
        ..RawNvLink::default()
    };
    let mut machine = machine(vec![vec![dark; 18], vec![to_switch(); 18]]);
    for index in [0, 1] {
        gpu_of(&mut machine, index).name = Answer::Value("NVIDIA H100 80GB HBM3".into());
    }
    check(
        &machine,
        expect![[r#"
        gpu 0: 0/18 lanes 0 GB/s, degraded
          0 of 18 NVLinks are active
        gpu 1: 18/18 lanes 450 GB/s, healthy
        GPU-0 GPU-1: 0/18 lanes 0 GB/s switch
    "#]],
    );
}

#[test]
fn links_of_a_virtual_machine_that_end_nowhere_are_taken_for_a_switch_where_peers_have_access() {
    let mut machine = machine(vec![vec![to_somewhere(); 2]; 3]);
    for index in [0, 1] {
        gpu_of(&mut machine, index).p2p_nvlink[2] = Answer::Value(5);
    }
    check(
        &machine,
        expect![[r#"
        gpu 0: 2/2 lanes 50 GB/s, healthy
        gpu 1: 2/2 lanes 50 GB/s, healthy
        gpu 2: 2/2 lanes 50 GB/s, healthy
        GPU-0 GPU-1: 2/2 lanes 50 GB/s switch
        ? gpu 0: nvlink: what 2 active links end at cannot be told; taken for an NVSwitch
        ? gpu 1: nvlink: what 2 active links end at cannot be told; taken for an NVSwitch
        ? gpu 2: nvlink: what 2 active links end at cannot be told; taken for an NVSwitch
    "#]],
    );
}

#[test]
fn an_active_link_that_peers_may_not_use_carries_nothing() {
    let mut machine = machine(vec![vec![to_gpu(1); 2], vec![to_gpu(0); 2]]);
    gpu_of(&mut machine, 1).p2p_nvlink[0] = Answer::Value(4);
    check(
        &machine,
        expect![[r#"
        gpu 0: 2/2 lanes 50 GB/s, degraded
          NVLink to gpu 1 is active but peer access is refused: disabled in the driver's registry
        gpu 1: 2/2 lanes 50 GB/s, degraded
          NVLink to gpu 0 is active but peer access is refused: disabled in the driver's registry
        GPU-0 GPU-1: 0/2 lanes 0 GB/s direct
    "#]],
    );
}

#[test]
fn a_speed_that_the_driver_does_not_tell_is_the_models() {
    let mut machine = machine(vec![vec![to_gpu(1)], vec![to_gpu(0)]]);
    for index in [0, 1] {
        gpu_of(&mut machine, index).nvlinks[0].speed_mb_per_second = Answer::default();
    }
    assert_eq!(
        first(&machine).nvlink.unwrap().gb_per_second.to_string(),
        "25"
    );
    gpu_of(&mut machine, 0).compute_capability = Answer::Value((99, 0));
    assert_eq!(
        first(&machine).nvlink.unwrap().gb_per_second.to_string(),
        "0"
    );
    check_unknown(&machine, "gpu 0: nvlink", "speed");
}

#[test]
fn numa_minus_one_is_unknown_and_not_node_zero() {
    let mut machine = machine(vec![vec![]]);
    machine.sysfs.pci.get_mut(&bus_id(0)).unwrap().numa_node = Some("-1".into());
    assert_eq!(first(&machine).numa_node, None);
    check_unknown(&machine, "gpu 0: numaNode", "-1");
}

#[test]
fn where_nvml_and_sysfs_disagree_sysfs_is_taken_and_it_is_noted() {
    let mut machine = machine(vec![vec![]]);
    gpu_of(&mut machine, 0).memory_affinity = Answer::Value(vec![3]);
    gpu_of(&mut machine, 0).cpu_affinity = Answer::Value("64-67".parse().unwrap());
    assert_eq!(first(&machine).numa_node.map(|node| node.0), Some(0));
    assert_eq!(first(&machine).cpus.unwrap().to_string(), "0-3");
    check_unknown(&machine, "gpu 0: numaNode", "NVML's memory affinity [3]");
    check_unknown(&machine, "gpu 0: cpus", "NVML's CPU affinity 64-67");
}

#[test]
fn without_sysfs_cpus_are_those_of_nvml() {
    let mut machine = machine(vec![vec![]]);
    machine.sysfs = RawSysfs::default();
    assert_eq!(first(&machine).cpus.unwrap().to_string(), "0-3");
    check_unknown(&machine, "gpu 0: numaNode", "sysfs");
    check_unknown(&machine, "numa", "neither sysfs nor hwloc");
    check_unknown(&machine, "nics", "no PCI device");
}

#[test]
fn a_machine_without_nvml_says_so() {
    let mut machine = machine(vec![]);
    machine.nvml = Answer::failed("libnvidia-ml cannot be opened");
    assert!(assemble(&machine).gpus.is_empty());
    check_unknown(&machine, "gpus", "libnvidia-ml cannot be opened");
}

#[test]
fn gpus_without_an_identity_are_among_the_unknowns_and_the_others_keep_their_index() {
    let mut machine = machine(vec![vec![], vec![], vec![]]);
    gpu_of(&mut machine, 1).uuid = Answer::failed("NVML_ERROR_UNKNOWN");
    let Answer::Value(nvml) = &mut machine.nvml else {
        unreachable!()
    };
    nvml.gpus[0] = Answer::failed("NVML_ERROR_GPU_IS_LOST");
    let status = assemble(&machine);
    let listed: Vec<u32> = status.gpus.iter().map(|gpu| gpu.index.0).collect();
    assert_eq!(listed, [2]);
    check_unknown(&machine, "gpu 0", "NVML_ERROR_GPU_IS_LOST");
    check_unknown(&machine, "gpu 1", "NVML_ERROR_UNKNOWN");
}

#[track_caller]
fn check_health(change: impl Fn(&mut RawGpu), state: HealthState, reason: &str) {
    let mut machine = machine(vec![vec![]]);
    change(gpu_of(&mut machine, 0));
    let health = first(&machine).health;
    assert_eq!(health.state, state, "{:?}", health.reasons);
    assert!(
        health.reasons.iter().any(|text| text.contains(reason)),
        "{:?}",
        health.reasons
    );
}

#[test]
fn health_follows_memory_errors_the_fabric_and_the_bus() {
    let yes = || Answer::Value(true);
    check_health(
        |gpu| gpu.remapped_rows_failed = yes(),
        HealthState::Failed,
        "failed",
    );
    check_health(
        |gpu| gpu.remapped_rows_pending = yes(),
        HealthState::Degraded,
        "reset",
    );
    check_health(
        |gpu| gpu.retired_pages_pending = yes(),
        HealthState::Degraded,
        "reset",
    );
    let count = |gpu: &mut RawGpu| gpu.ecc_uncorrected_volatile = Answer::Value(2);
    check_health(count, HealthState::Degraded, "uncorrected");
    let lost = |gpu: &mut RawGpu| gpu.memory_total_bytes = Answer::failed("NVML_ERROR_GPU_IS_LOST");
    check_health(lost, HealthState::Failed, "fell off the bus");
    let starting = |gpu: &mut RawGpu| gpu.fabric = fabric(2, 0, "00");
    check_health(starting, HealthState::Degraded, "in progress");
}

fn fabric(state: u32, status: u32, byte: &str) -> Answer<RawFabric> {
    let cluster_uuid = byte.repeat(16);
    Answer::Value(RawFabric {
        cluster_uuid,
        clique_id: 1,
        state,
        status,
        health_mask: 0,
        health_summary: 0,
    })
}

#[test]
fn fabric_membership_takes_completion_success_and_an_identity() {
    let cases = [
        (fabric(3, 0, "a1"), true, HealthState::Healthy),
        (fabric(3, 0, "00"), false, HealthState::Healthy),
        (fabric(3, 23, "a1"), false, HealthState::Degraded),
        (fabric(2, 0, "a1"), false, HealthState::Degraded),
        (fabric(0, 0, "00"), false, HealthState::Healthy),
    ];
    for (fabric, is_member, state) in cases {
        let mut machine = machine(vec![vec![]]);
        gpu_of(&mut machine, 0).fabric = fabric.clone();
        let gpu = first(&machine);
        assert_eq!(
            (gpu.fabric.is_some(), gpu.health.state),
            (is_member, state),
            "{fabric:?}"
        );
    }
}

#[test]
fn a_path_that_nvml_does_not_tell_is_that_of_sysfs() {
    let mut machine = machine(vec![vec![], vec![]]);
    for (index, other) in [(0, 1), (1, 0)] {
        gpu_of(&mut machine, index).common_ancestors[other] = Answer::failed("NVML_ERROR_UNKNOWN");
    }
    assert_eq!(assemble(&machine).links[0].path, Path::HostBridge);
    machine.sysfs.pci.clear();
    assert_eq!(assemble(&machine).links[0].path, Path::Unknown);
    check_unknown(&machine, "gpu 0 - gpu 1: path", "NVML_ERROR_UNKNOWN");
}

#[test]
fn memory_only_numa_nodes_are_listed_without_cpus() {
    let mut machine = machine(vec![]);
    let memory = RawNuma {
        cpulist: Some(String::new()),
        ..machine.sysfs.numa[&0].clone()
    };
    machine.sysfs.numa.insert(9, memory);
    let numa = assemble(&machine).numa;
    assert_eq!(
        numa.iter().map(|node| node.cpus.len()).collect::<Vec<_>>(),
        [4, 0]
    );
}

/// A document with some of its answers failed: `chances` decides for each in turn.
fn with_failures(value: &mut serde_json::Value, chances: &mut impl Iterator<Item = bool>) {
    match value {
        serde_json::Value::Object(map) if map.contains_key("error") => {}
        serde_json::Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let is_answer = !NOT_ANSWERS.contains(&key.as_str());
                if is_answer && chances.next() == Some(true) {
                    *value = serde_json::json!({"error": "NVML_ERROR_UNKNOWN"});
                } else {
                    with_failures(value, chances);
                }
            }
        }
        serde_json::Value::Array(items) => {
            items
                .iter_mut()
                .for_each(|item| with_failures(item, chances));
        }
        _ => {}
    }
}

/// Fields of [`RawNvml`] and [`RawGpu`] that are lists of answers, not answers.
const NOT_ANSWERS: [&str; 8] = [
    "gpus",
    "commonAncestors",
    "p2pNvlink",
    "p2pRead",
    "p2pWrite",
    "p2pAtomics",
    "nvlinks",
    "migDevices",
];

/// Each fact that is absent, by the name that it has among the unknowns.
fn absent(status: &Status) -> Vec<String> {
    let mut absent = Vec::new();
    for gpu in &status.gpus {
        let pcie = gpu.pcie.clone().unwrap_or_default();
        let facts = [
            ("minor", gpu.minor.is_none()),
            ("model", gpu.model.is_empty()),
            ("memoryBytes", gpu.memory_bytes.is_none()),
            ("computeCapability", gpu.compute_capability.is_none()),
            ("busId", gpu.bus_id.is_none()),
            ("numaNode", gpu.numa_node.is_none()),
            ("cpus", gpu.cpus.is_none()),
            ("pcie generation", pcie.generation.is_none()),
            ("pcie width", pcie.width.is_none()),
            ("pcie maxGeneration", pcie.max_generation.is_none()),
            ("pcie maxWidth", pcie.max_width.is_none()),
        ];
        let facts = facts.into_iter().filter(|(_, is_absent)| *is_absent);
        absent.extend(facts.map(|(fact, _)| format!("gpu {}: {fact}", gpu.index)));
    }
    let pairs = status
        .links
        .iter()
        .filter(|link| link.path == Path::Unknown);
    let index = |uuid| status.gpu(uuid).unwrap().index;
    absent
        .extend(pairs.map(|link| format!("gpu {} - gpu {}: path", index(&link.a), index(&link.b))));
    absent
}

proptest! {
    #[test]
    fn whatever_fails_the_rest_is_assembled_and_each_missing_fact_says_why(
        chances in prop::collection::vec(prop::bool::weighted(0.15), 300),
        switched in any::<bool>(),
    ) {
        let links = |peer| if switched { vec![to_switch(); 3] } else { vec![to_gpu(peer); 3] };
        let mut machine = machine(vec![links(1), links(0), links(1)]);
        let mut nvml = serde_json::to_value(&machine.nvml).unwrap();
        with_failures(&mut nvml, &mut chances.into_iter());
        machine.nvml = serde_json::from_value(nvml).unwrap();
        let status = assemble(&machine);
        for what in absent(&status) {
            prop_assert!(status.unknowns.iter().any(|unknown| unknown.what == what), "{}", what);
        }
        for index in 0..3_u32 {
            let is_listed = status.gpus.iter().any(|gpu| gpu.index.0 == index);
            let what = [format!("gpu {index}"), "gpus".to_owned()];
            let is_noted = status.unknowns.iter().any(|unknown| what.contains(&unknown.what));
            prop_assert!(is_listed || is_noted, "gpu {} vanished", index);
        }
        let direct = status.links.iter().filter_map(|link| link.nvlink.as_ref());
        for nvlink in direct {
            prop_assert!(nvlink.lanes <= nvlink.lanes_expected, "{:?}", nvlink);
            prop_assert!(nvlink.via != Via::Unknown);
        }
    }
}
