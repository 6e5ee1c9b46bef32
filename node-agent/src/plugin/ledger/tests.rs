//! What counts as held.

use expect_test::{Expect, expect};

use super::super::checkpoint::Entry;
use super::super::fixtures::{RESOURCE, bound, gpus, pod, row, sorted};
use super::super::pod_resources::ContainerDevices;
use super::*;

fn text(rows: &[Allocation]) -> String {
    let line = |row: &Allocation| {
        let uid = row.pod_uid.as_ref().map_or("-", |uid| uid.as_str());
        let cpus = row
            .cpus
            .as_ref()
            .map_or_else(String::new, |cpus| format!(" cpus {cpus}"));
        let (name, container) = (&row.name, &row.container);
        let devices = sorted(&row.devices.iter().cloned().collect());
        format!("{name} {uid} {container} {devices}{cpus}\n")
    };
    rows.iter().map(line).collect()
}

#[track_caller]
fn check(rows: &[Allocation], expected: Expect) {
    expected.assert_eq(&text(rows));
}

fn entry(uid: &str, container: &str, held: &str) -> Entry {
    Entry {
        pod_uid: uid.to_owned(),
        container: container.to_owned(),
        resource: RESOURCE.to_owned(),
        devices: gpus(held),
    }
}

fn checkpoint(entries: Vec<Entry>) -> Checkpoint {
    Checkpoint {
        stamp: None,
        entries,
    }
}

fn grant(row: Allocation) -> Grant {
    Grant {
        row,
        written_before: None,
    }
}

#[test]
fn what_the_kubelet_wrote_of_pods_that_are_gone_does_not_count() {
    let pods = bound([pod("a", 2)]);
    let written = checkpoint(vec![
        entry("uid-a", "main", "0 1"),
        entry("uid-gone", "main", "2"),
    ]);
    check(
        &rows(&written, &[], &[], &pods),
        expect![[r#"
            a uid-a main 0 1
        "#]],
    );
}

#[test]
fn podresources_is_joined_by_name_and_adds_cpus_to_what_the_kubelet_wrote() {
    let listed = |name: &str, held: &str, cpu_ids: Vec<i64>| PodResources {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        containers: vec![ContainerResources {
            name: "main".to_owned(),
            // one entry for each device, as the kubelet lists them
            devices: gpus(held)
                .iter()
                .map(|gpu| ContainerDevices {
                    resource_name: RESOURCE.to_owned(),
                    device_ids: vec![gpu.to_string()],
                })
                .collect(),
            cpu_ids,
        }],
    };
    let pods = bound([pod("a", 2), pod("cpus", 0)]);
    let all = [
        listed("a", "1 0", vec![2, 3]),
        listed("cpus", "", vec![4]),
        listed("stranger", "7", vec![]),
        listed("nothing", "", vec![]),
    ];
    let joined = joined(&all, &pods);
    let written = checkpoint(vec![
        entry("uid-a", "init", "0"),
        entry("uid-a", "main", "0 1"),
    ]);
    check(
        &rows(&written, &joined, &[], &pods),
        expect![[r#"
            a uid-a init 0
            a uid-a main 0 1 cpus 2-3
            cpus uid-cpus main  cpus 4
            stranger - main 7
        "#]],
    );
    let mut later = pods;
    later.delete(&pod("a", 2));
    check(
        &rows(&written, &joined, &[], &later),
        expect![[r#"
            cpus uid-cpus main  cpus 4
            stranger - main 7
        "#]],
    );
}

#[test]
fn what_we_answered_counts_until_the_kubelet_has_written() {
    let pods = bound([pod("a", 1), pod("b", 1)]);
    let ours = [grant(row("a", "main", "0"))];
    check(
        &rows(&checkpoint(vec![]), &[], &ours, &pods),
        expect![[r#"
            a uid-a main 0
        "#]],
    );
    // it was for b: what the kubelet wrote is the truth
    let written = checkpoint(vec![entry("uid-b", "main", "0")]);
    check(
        &rows(&written, &[], &ours, &pods),
        expect![[r#"
            b uid-b main 0
        "#]],
    );
}

#[test]
fn a_device_that_a_living_container_holds_is_not_given_again() {
    let held = [row("a", "main", "0 1")];
    let wanted = gpus("1 2").into_iter().collect();
    let refusal = check_held(&held, &wanted, |_| false).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        format!(
            "device {} is still held by container main of pod default/a",
            gpus("1")[0]
        )
    );
    let stranger = Allocation {
        pod_uid: None,
        ..row("a", "main", "0 1")
    };
    assert_eq!(check_held(&[stranger], &wanted, |_| false), Ok(()));
    let others = gpus("2 3").into_iter().collect();
    assert_eq!(check_held(&held, &others, |_| false), Ok(()));
}

#[test]
fn what_an_init_container_held_goes_to_the_containers_of_its_pod() {
    let held = [row("a", "init", "0")];
    let wanted = gpus("0 1").into_iter().collect();
    assert_eq!(
        check_held(&held, &wanted, |row| row.container == "init"),
        Ok(())
    );
}

fn check_held(
    held: &[Allocation],
    devices: &BTreeSet<GpuUuid>,
    hands_on: impl Fn(&Allocation) -> bool,
) -> Result<(), Refusal> {
    super::check(held, RESOURCE, devices, hands_on)
}
