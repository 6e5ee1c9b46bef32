//! Every recorded machine: what is assembled from `NAME.raw.json` is `NAME.json`.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

use berth_node_agent::assemble::assemble;
use berth_node_agent::history::History;
use berth_node_agent::probe::{Probe, Source};
use berth_topology::details::{C2c, PeerAccess, PowerLimits, Temperatures};
use berth_topology::gpu::MigPlacement;
use berth_topology::node::{NodeTopology, Status};
use berth_topology::raw::{Answer, RawGpu, RawMachine, RawMigDevice};

fn machines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../machines")
}

fn names() -> Vec<String> {
    let files = fs::read_dir(machines())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let files = files.map(|name| name.into_string().unwrap());
    let mut names: Vec<String> = files
        .filter_map(|file| file.strip_suffix(".raw.json").map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn assembled(name: &str) -> Status {
    assemble(&raw(name))
}

fn raw(name: &str) -> RawMachine {
    let path = machines().join(format!("{name}.raw.json"));
    Probe::new(Source::Recorded(path)).read().unwrap()
}

fn first_of(machine: &mut RawMachine) -> &mut RawGpu {
    let Answer::Value(nvml) = &mut machine.nvml else {
        panic!("it has NVML")
    };
    let Answer::Value(gpu) = &mut nvml.gpus[0] else {
        panic!("it has a GPU")
    };
    gpu
}

fn why(status: &Status, what: &str) -> Option<String> {
    let mut unknowns = status.unknowns.iter();
    let found = unknowns.find(|unknown| unknown.what == what);
    found.map(|unknown| unknown.why.clone())
}

/// Which agent looked, and when, is not of the machine.
fn of_the_machine(status: &Status) -> Status {
    Status {
        agent_version: None,
        ..status.without_volatile()
    }
}

#[test]
fn each_recorded_topology_is_what_is_assembled_from_the_recorded_answers() {
    let names = names();
    assert!(names.len() >= 17, "{names:?}");
    for name in names {
        let file = fs::read(machines().join(format!("{name}.json"))).unwrap();
        let topology: NodeTopology = serde_json::from_slice(&file).unwrap();
        let recorded = topology.status.unwrap();
        assert_eq!(
            of_the_machine(&assembled(&name)),
            of_the_machine(&recorded),
            "{name}: regenerate it with machines/generate.py"
        );
    }
}

#[test]
fn seeing_the_same_machine_twice_gives_nothing_to_write() {
    for name in names() {
        let mut history = History::default();
        let mut at = |time: &str| history.complete(assembled(&name), time.parse().unwrap());
        let first = at("2026-01-01T00:00:00Z");
        let second = at("2026-01-02T00:00:00Z");
        assert_ne!(first, second, "{name}: the time is not in it");
        assert_eq!(
            first.without_volatile(),
            second.without_volatile(),
            "{name}"
        );
    }
}

#[test]
fn a_file_that_is_no_record_is_an_error_that_names_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "{}").unwrap();
    let error = Probe::new(Source::Recorded(file.path().to_owned()))
        .read()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&file.path().display().to_string()),
        "{error}"
    );
    let missing = Probe::new(Source::Recorded("/nonexistent.raw.json".into())).read();
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("/nonexistent.raw.json")
    );
}

#[test]
fn alike_nvlinks_are_told_together_with_version_end_and_speed() {
    let mut machine = raw("dgx-h100");
    let links = |machine: &RawMachine| assemble(machine).gpus[0].nvlinks.clone();
    let [all] = &links(&machine)[..] else {
        panic!("they are all alike")
    };
    assert_eq!(all.links.to_string(), "0-17");
    assert_eq!((all.active, all.gb_per_second), (Some(true), Some(26.562)));
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    assert_eq!([text(&all.version), text(&all.remote)], ["4.0", "switch"]);

    first_of(&mut machine).nvlinks[7].active = Answer::Value(false);
    let links = links(&machine);
    let numbers: Vec<String> = links.iter().map(|one| one.links.to_string()).collect();
    assert_eq!(numbers, ["0-6,8-17", "7"]);
    assert_eq!(links[1].active, Some(false));
}

#[test]
fn a_gpu_of_36_links_tells_them_all() {
    let mut machine = raw("hgx-b200");
    let gpu = first_of(&mut machine);
    gpu.nvlinks = vec![gpu.nvlinks[0].clone(); 36];
    gpu.nvlink_count = Answer::Value(36);
    let links = &assemble(&machine).gpus[0].nvlinks;
    assert_eq!(links[0].links.to_string(), "0-35");
}

#[test]
fn peer_access_is_told_by_what_works() {
    let access = |name: &str| assembled(name).gpus[0].peer_access.clone();
    let told = |gpus: &str, both: &str, atomics: &str| PeerAccess {
        gpus: gpus.parse().unwrap(),
        read: Some(both.to_owned()),
        write: Some(both.to_owned()),
        atomics: Some(atomics.to_owned()),
    };
    assert_eq!(access("dgx2"), [told("1-15", "ok", "ok")]);
    let pairs = [told("1,3-7", "ok", "not-supported"), told("2", "ok", "ok")];
    assert_eq!(access("a100-pcie-02"), pairs);
    let none = told("1-7", "gpu-not-supported", "not-supported");
    assert_eq!(access("pix-8"), [none]);
}

#[test]
fn limits_of_power_and_temperature_are_told_where_nvml_does() {
    let gpu = &assembled("dgx1-v100").gpus[0];
    let power = PowerLimits {
        default_milliwatts: Some(300_000),
        enforced_milliwatts: Some(300_000),
        min_milliwatts: Some(150_000),
        max_milliwatts: Some(300_000),
    };
    let temperatures = Temperatures {
        slowdown_celsius: Some(87),
        shutdown_celsius: Some(90),
    };
    assert_eq!(gpu.power, Some(power));
    assert_eq!(gpu.temperatures, Some(temperatures));
    let lacking = |fact: &str| gpu.not_supported.iter().any(|other| other == fact);
    assert!(!lacking("power range") && lacking("mig") && lacking("fabric"));

    let mut machine = raw("dgx1-v100");
    first_of(&mut machine).power_range_milliwatts = Answer::failed("NVML_ERROR_NO_PERMISSION");
    let status = assemble(&machine);
    assert_eq!(status.gpus[0].power.as_ref().unwrap().max_milliwatts, None);
    let why = why(&status, "gpu 0: power range").unwrap();
    assert!(why.contains("NO_PERMISSION"), "{why}");
}

#[test]
fn c2c_and_virtualisation_are_told_where_they_are() {
    let c2c = C2c {
        enabled: true,
        links: None,
    };
    assert_eq!(assembled("gb200-tray").gpus[0].c2c, Some(c2c));
    let h100 = assembled("dgx-h100");
    assert_eq!(
        (&h100.gpus[0].c2c, &h100.gpus[0].virtualization),
        (&None, &None)
    );
    let in_a_machine = &assembled("aws-p5").gpus[0].virtualization;
    assert_eq!(in_a_machine.as_deref(), Some("passthrough"));
}

#[test]
fn caches_that_cores_share_are_told_with_their_cpus_and_the_others_are_counted() {
    let caches = assembled("dgx-a100").caches;
    let told: Vec<_> = caches
        .iter()
        .map(|one| (one.level, &one.kind[..], one.size_bytes >> 10, one.count))
        .collect();
    let expected = [
        (3, "unified", 16 << 10, 32),
        (2, "unified", 512, 128),
        (1, "data", 32, 128),
        (1, "instruction", 32, 128),
    ];
    assert_eq!(told, expected);
    assert_eq!(caches[0].cpus[1].to_string(), "4-7,132-135");
    assert!(caches[1].cpus.is_empty());
}

#[test]
fn a_mig_instance_tells_where_it_lies_and_if_it_may_not_be_asked_why() {
    let mut machine = raw("dgx-a100");
    let gpu = first_of(&mut machine);
    gpu.mig_mode = Answer::Value(1);
    let mig = |placement| RawMigDevice {
        uuid: Answer::Value("MIG-1".to_owned()),
        gpu_instance_id: Answer::Value(2),
        compute_instance_id: Answer::Value(0),
        placement,
        ..RawMigDevice::default()
    };
    gpu.mig_devices = vec![mig(Answer::Value((4, 4)))];
    let placement = |machine: &RawMachine| {
        let mig = assemble(machine).gpus[0].mig.clone().unwrap();
        mig.instances[0].placement.clone()
    };
    let known = MigPlacement {
        first_slice: Some(4),
        slice_count: Some(4),
        gpu_instance_id: 2,
        compute_instance_id: 0,
    };
    assert_eq!(placement(&machine), Some(known.clone()));

    first_of(&mut machine).mig_devices = vec![mig(Answer::failed("NVML_ERROR_NO_PERMISSION"))];
    let numbers_alone = MigPlacement {
        first_slice: None,
        slice_count: None,
        ..known
    };
    assert_eq!(placement(&machine), Some(numbers_alone));
    let why = why(&assemble(&machine), "gpu 0: mig 0 placement").unwrap();
    assert!(why.contains("NO_PERMISSION"), "{why}");
}

#[test]
fn none_of_this_enters_the_hash() {
    for name in names() {
        let status = assembled(&name);
        let mut bare = status.clone();
        for gpu in &mut bare.gpus {
            gpu.nvlinks.clear();
            gpu.peer_access.clear();
            gpu.not_supported.clear();
            (gpu.c2c, gpu.power, gpu.temperatures, gpu.virtualization) = (None, None, None, None);
        }
        bare.caches.clear();
        assert_eq!(
            berth_topology::hash::of_status(&bare),
            status.hash,
            "{name}"
        );
    }
}
