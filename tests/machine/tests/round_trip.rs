//! The agent's own probe, with the real hwloc and NVML's real C calls, reads a materialised machine
//! back as it was recorded.
//!
//! The stand-in library reads its machine's name from the environment, so each probe is a process:
//! this program again, running the one test that probes.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::process::Command;

use berth_node_agent::probe::{Found, Paths, Probe, Source};
use berth_test_machine::{
    Materialized, NVML_BREAK, NVML_MACHINE, host, materialize, names, nvml_library, raw,
};
use berth_topology::raw::{Answer, RawMachine, RawMigDevice};

/// Tells the process which machine to probe; it writes the answer beside it.
const DIR: &str = "BERTH_TEST_MACHINE_DIR";
const PROBED: &str = "probed.json";

#[test]
fn every_recorded_machine_reads_back_as_recorded() {
    let names = names();
    assert!(names.len() >= 17, "{names:?}");
    for name in names {
        assert_same(&name, raw(&name));
    }
}

#[test]
fn a_machine_with_broken_parts_reads_back_with_them() {
    let mut machine = raw("dgx-h100");
    let Answer::Value(nvml) = &mut machine.nvml else {
        panic!("it has NVML")
    };
    nvml.gpus[3] = Answer::failed("NVML_ERROR_GPU_IS_LOST");
    for (index, gpu) in nvml.gpus.iter_mut().enumerate() {
        let Answer::Value(gpu) = gpu else { continue };
        gpu.common_ancestors[3] = Answer::failed("NVML_ERROR_GPU_IS_LOST");
        for to_lost in [
            &mut gpu.p2p_nvlink,
            &mut gpu.p2p_read,
            &mut gpu.p2p_write,
            &mut gpu.p2p_atomics,
        ] {
            to_lost[3] = Answer::failed("NVML_ERROR_GPU_IS_LOST");
        }
        if index == 0 {
            gpu.nvlinks[7].active = Answer::Value(false);
            gpu.memory_total_bytes = Answer::failed("NVML_ERROR_NO_PERMISSION");
        }
    }
    let gpu = machine.sysfs.pci.get_mut("0000:1a:00.0").unwrap();
    gpu.numa_node = Some("-1".into());
    gpu.local_cpulist = None;
    assert_same("dgx-h100, broken", machine);
}

/// NVIDIA's guide to MIG: two `3g.20gb` of an A100 lie at the memory slices 0 and 4, four each.
#[test]
fn mig_devices_read_back_with_their_placements() {
    let mut machine = raw("dgx-a100");
    let Answer::Value(nvml) = &mut machine.nvml else {
        panic!("it has NVML")
    };
    let Answer::Value(gpu) = &mut nvml.gpus[2] else {
        panic!("it has a third GPU")
    };
    let mig = |number: u32| RawMigDevice {
        uuid: Answer::Value(format!("MIG-0000000{number}-0000-5000-8000-000000000000")),
        name: Answer::Value("NVIDIA A100-SXM4-40GB MIG 3g.20gb".to_owned()),
        memory_total_bytes: Answer::Value(20 << 30),
        slices: Answer::Value(3),
        gpu_instance_id: Answer::Value(number),
        compute_instance_id: Answer::Value(0),
        placement: Answer::Value((4 * (number - 1), 4)),
    };
    gpu.mig_mode = Answer::Value(1);
    gpu.mig_devices = vec![mig(1), mig(2)];
    assert_same("dgx-a100 with MIG", machine);
}

#[test]
fn a_machine_without_a_driver_says_so() {
    let mut machine = raw("l40s-4");
    machine.nvml = Answer::failed("NVML_ERROR_DRIVER_NOT_LOADED");
    assert_same("l40s-4 without a driver", machine);
}

#[test]
fn the_host_with_two_stand_in_gpus_reads_back_too() {
    let machine = host::with_two_gpus(this_host());
    assert_same("this host", machine);
}

/// Each call that the agent makes is broken in turn: it shows as a failed answer, and nothing else
/// changes that does not follow from it.
#[test]
fn every_call_of_nvml_can_fail_alone() {
    let dir = tempfile::tempdir().unwrap();
    let machine = raw("dgx-h100");
    let files = materialize(&machine, dir.path()).unwrap();
    for call in CALLS {
        let probed = probe(&files, Some(call));
        let text = serde_json::to_string(&probed.nvml).unwrap();
        assert!(
            text.contains("NVML_ERROR_UNKNOWN"),
            "{call} is not seen to fail: {text}"
        );
        assert_eq!(probed.sysfs, machine.sysfs, "{call}");
        assert_eq!(probed.hwloc, machine.hwloc, "{call}");
    }
    let all = probe(&files, Some("all"));
    assert_eq!(all.nvml, Answer::failed("NVML_ERROR_UNKNOWN"));
}

/// A list in a file is read at every call, so that NVML can break under a running agent.
#[test]
fn a_file_can_name_the_broken_calls() {
    let dir = tempfile::tempdir().unwrap();
    let files = materialize(&raw("hgx-a100-4"), dir.path()).unwrap();
    let list = dir.path().join("broken");
    std::fs::write(&list, "nvmlDeviceGetName, nvmlDeviceGetUUID\n").unwrap();
    let probed = probe(&files, Some(&format!("@{}", list.display())));
    let gpu = probed.nvml.value().unwrap().gpus[0].value().unwrap();
    assert_eq!(gpu.name.error(), Some("NVML_ERROR_UNKNOWN"));
    assert_eq!(gpu.uuid.error(), Some("NVML_ERROR_UNKNOWN"));
    assert_eq!(gpu.minor.value(), Some(&0));
}

/// Not a test of its own: what the others run as a process.
#[test]
fn the_process_that_probes() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let xml = dir.join("hwloc.xml");
    let mut probe = Probe::new(Source::Machine(Paths {
        nvml_library: Some(nvml_library()),
        driver_root: None,
        sysfs_root: dir.join("sys"),
        hwloc_xml: xml.exists().then_some(xml),
        kubelet_config: None,
    }));
    let probed = probe.read().unwrap();
    // what may change is, asked alone, as it was when everything was asked
    let nvml = probed.nvml.value();
    if nvml.is_some_and(|nvml| nvml.device_count.value().is_some()) {
        assert_eq!(probe.refresh().unwrap(), Found::Same);
    }
    std::fs::write(dir.join(PROBED), serde_json::to_vec(&probed).unwrap()).unwrap();
}

/// What the agent calls on a machine that answers everything but MIG.
const CALLS: [&str; 39] = [
    "nvmlInit_v2",
    "nvmlSystemGetDriverVersion",
    "nvmlSystemGetNVMLVersion",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetMinorNumber",
    "nvmlDeviceGetModuleId",
    "nvmlDeviceGetName",
    "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetCurrPcieLinkGeneration",
    "nvmlDeviceGetCurrPcieLinkWidth",
    "nvmlDeviceGetMaxPcieLinkGeneration",
    "nvmlDeviceGetMaxPcieLinkWidth",
    "nvmlDeviceGetCpuAffinityWithinScope",
    "nvmlDeviceGetMemoryAffinity",
    "nvmlDeviceGetNumaNodeId",
    "nvmlDeviceGetTopologyCommonAncestor",
    "nvmlDeviceGetP2PStatus",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetNvLinkState",
    "nvmlDeviceGetNvLinkVersion",
    "nvmlDeviceGetNvLinkRemoteDeviceType",
    "nvmlDeviceGetNvLinkRemotePciInfo_v2",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetGpuFabricInfoV",
    "nvmlDeviceGetTotalEccErrors",
    "nvmlDeviceGetRemappedRows",
    "nvmlDeviceGetRetiredPagesPendingStatus",
    "nvmlDeviceGetPowerManagementDefaultLimit",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetPowerManagementLimitConstraints",
    "nvmlDeviceGetTemperatureThreshold",
    "nvmlDeviceGetC2cModeInfoV",
    "nvmlDeviceGetVirtualizationMode",
    "nvmlDeviceGetUUID,nvmlDeviceGetName",
    "nvmlDeviceGetCount_v2,nvmlDeviceGetHandleByIndex_v2",
];

#[track_caller]
fn assert_same(name: &str, mut machine: RawMachine) {
    let dir = tempfile::tempdir().unwrap();
    let files = materialize(&machine, dir.path()).unwrap();
    let probed = probe(&files, None);
    // of the host that reads, and of the file, not of the machine
    machine.boot_id.clone_from(&probed.boot_id);
    machine.source = None;
    let lines = |machine: &RawMachine| serde_json::to_string_pretty(machine).unwrap();
    let (read, recorded) = (lines(&probed), lines(&machine));
    let differing = read
        .lines()
        .zip(recorded.lines())
        .find(|(read, recorded)| read != recorded);
    assert!(
        read == recorded,
        "{name}: the agent reads another machine; first: {differing:?}"
    );
}

#[track_caller]
fn probe(files: &Materialized, broken: Option<&str>) -> RawMachine {
    let dir: &Path = files.raw_file.parent().unwrap();
    let mut process = Command::new(std::env::current_exe().unwrap());
    process
        .args(["--exact", "the_process_that_probes"])
        .env_remove(NVML_BREAK);
    process.env(DIR, dir).env(NVML_MACHINE, &files.raw_file);
    if let Some(broken) = broken {
        process.env(NVML_BREAK, broken);
    }
    let output = process.output().unwrap();
    assert!(
        output.status.success(),
        "{broken:?}: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    serde_json::from_slice(&std::fs::read(dir.join(PROBED)).unwrap()).unwrap()
}

fn this_host() -> RawMachine {
    let paths = Paths {
        nvml_library: None,
        driver_root: None,
        sysfs_root: "/sys".into(),
        hwloc_xml: None,
        kubelet_config: None,
    };
    Probe::new(Source::Machine(paths)).read().unwrap()
}
