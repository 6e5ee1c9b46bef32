//! What a container is told.

use berth_topology::names;
use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::Pod;

use super::super::fixtures::{annotated, dgx_h100, gpus, numbers, pod, promised, promises};
use super::*;

#[track_caller]
fn check_ranks(pod: Option<Pod>, devices: &str, expected: Expect) {
    let promises = promises(pod, &[]);
    let want = promises.waiting.first().and_then(|waiting| waiting.next());
    let devices = gpus(devices).into_iter().collect();
    let ranks = ranks(&devices, want, &Machine::new(&dgx_h100()));
    let link = ranks.weakest_link.map_or("alone", |link| link.as_str());
    expected.assert_eq(&format!("{} {link}", numbers(ranks.gpus())));
}

#[test]
fn what_was_promised_is_told_word_for_word() {
    let pod = promised(pod("a", 4), "3 1 2 0");
    check_ranks(Some(pod), "0 1 2 3", expect!["3 1 2 0 alone"]);
}

#[test]
fn anything_else_is_put_in_ring_order() {
    let pod = promised(pod("a", 4), "3 1 2 0");
    check_ranks(Some(pod), "7 6 5 4", expect!["4 5 6 7 nvlink"]);
    check_ranks(None, "7 6", expect!["6 7 nvlink"]);
}

#[test]
fn a_set_that_fails_the_pods_requirements_is_told_all_the_same() {
    let pod = annotated(pod("a", 2), names::NUMA, "single");
    check_ranks(Some(pod), "0 7", expect!["0 7 nvlink"]);
}

#[test]
fn devices_that_the_probe_does_not_know_have_ranks_without_wiring() {
    let devices = BTreeSet::from(["GPU-x", "GPU-y"].map(GpuUuid::from));
    let ranks = ranks(&devices, None, &Machine::new(&dgx_h100()));
    let told: Vec<&str> = ranks.gpus().map(GpuUuid::as_str).collect();
    assert_eq!(told, ["GPU-x", "GPU-y"]);
    assert!(ContainerAssignment::decode(&ranks.encode()).is_ok());
}

fn wording(lists: &[DeviceList], control_files: Option<&[&str]>) -> Wording {
    let owned = |files: &[&str]| files.iter().map(|file| (*file).to_owned()).collect();
    Wording {
        lists: lists.to_vec(),
        control_files: control_files.map(owned),
    }
}

fn respond(wording: &Wording) -> ContainerAllocateResponse {
    let devices = gpus("0 1").into_iter().collect();
    let status = dgx_h100();
    let ranks = ranks(&devices, None, &Machine::new(&status));
    response(&ranks, &status, wording)
}

#[test]
fn the_environment_has_the_ranks_and_what_nvidias_runtime_reads_in_the_same_order() {
    let response = respond(&wording(&[DeviceList::Envvar], None));
    let uuids: Vec<String> = gpus("0 1").iter().map(GpuUuid::to_string).collect();
    assert_eq!(response.envs["NVIDIA_VISIBLE_DEVICES"], uuids.join(","));
    let told = ContainerAssignment::decode(&response.envs[ALLOCATION_ENV]).unwrap();
    assert_eq!(numbers(told.gpus()), "0 1");
    assert_eq!(told.ranks[1].cpus, dgx_h100().gpus[1].cpus);
    assert!(response.devices.is_empty() && response.cdi_devices.is_empty());
}

#[test]
fn cdi_names_go_where_they_were_asked_for() {
    let response = respond(&wording(
        &[DeviceList::CdiAnnotations, DeviceList::CdiCri],
        None,
    ));
    let names: Vec<String> = gpus("0 1")
        .iter()
        .map(|gpu| format!("nvidia.com/gpu={gpu}"))
        .collect();
    let told: Vec<&String> = response
        .cdi_devices
        .iter()
        .map(|device| &device.name)
        .collect();
    assert_eq!(told, names.iter().collect::<Vec<_>>());
    let key = format!("cdi.k8s.io/berth_{}", gpus("0")[0]);
    assert_eq!(response.annotations[&key], names.join(","));
    assert_eq!(response.envs.len(), 1, "{:?}", response.envs);
}

#[test]
fn device_files_are_the_gpus_own_and_the_drivers() {
    let response = respond(&wording(&[DeviceList::Envvar], Some(&["/dev/nvidiactl"])));
    let files: Vec<String> = response
        .devices
        .iter()
        .map(|file| {
            format!(
                "{}={} {}",
                file.container_path, file.host_path, file.permissions
            )
        })
        .collect();
    expect![[r#"
        /dev/nvidia0=/dev/nvidia0 rw
        /dev/nvidia1=/dev/nvidia1 rw
        /dev/nvidiactl=/dev/nvidiactl rw"#]]
    .assert_eq(&files.join("\n"));
}
