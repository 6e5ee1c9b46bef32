//! From a machine's settings to changes and findings.

use super::super::host::Device;
use super::*;

/// Two nodes of two CPUs; CPU 3 offers less. A GPU on node 0 and a card on node 1.
fn host() -> Host {
    let governor = |now: &str, offered: &[&str]| Governor {
        now: now.to_owned(),
        offered: offered.iter().map(|name| (*name).to_owned()).collect(),
    };
    let both = ["performance", "powersave"];
    Host {
        governors: BTreeMap::from([
            (0, governor("performance", &both)),
            (1, governor("powersave", &both)),
            (3, governor("powersave", &["powersave"])),
        ]),
        online: cpus("0-3"),
        devices: vec![
            device("GPU", "0000:1a:00.0", Some(0), &[(40, "0-3"), (41, "1")]),
            device("NIC", "0000:ca:00.0", Some(1), &[(50, "2-3")]),
        ],
        nodes: BTreeMap::from([(0, cpus("0-1")), (1, cpus("2-3")), (2, cpus(""))]),
        huge_pages: BTreeMap::from([((0, 2048), 16)]),
        irqbalance_runs: false,
        ..Host::default()
    }
}

fn cpus(list: &str) -> CpuList {
    list.parse().unwrap()
}

fn device(kind: &'static str, address: &str, node: Option<u32>, irqs: &[(u32, &str)]) -> Device {
    Device {
        address: address.to_owned(),
        kind,
        numa_node: node,
        irqs: irqs
            .iter()
            .map(|(irq, list)| (*irq, Some(cpus(list))))
            .collect(),
        pcie: Some(Pcie {
            read_request_bytes_max: 4096,
            width: 16,
            width_max: 16,
            generation: 5,
            generation_max: 5,
        }),
    }
}

fn shown(plan: &Plan) -> Vec<String> {
    let changes = plan.changes.iter();
    changes
        .map(|change| format!("{}: {} -> {}", change.target, change.from, change.to))
        .collect()
}

#[test]
fn without_a_wish_nothing_is_changed_and_what_could_be_is_said() {
    let plan = plan(&host(), &Wish::default());
    assert_eq!(plan.changes, []);
    assert_eq!(plan.impossible, [""; 0]);
    assert_eq!(
        plan.findings,
        [
            "CPUs 1,3 do not have the governor performance (--governor performance)",
            "1 interrupts of GPU 0000:1a:00.0 may go to CPUs far from its NUMA node 0 \
             (--irq-affinity)"
        ]
    );
}

#[test]
fn a_governor_is_set_where_it_is_offered_and_not_set_already() {
    let wish = Wish {
        governor: Some("performance".to_owned()),
        ..Wish::default()
    };
    let plan = plan(&host(), &wish);
    assert_eq!(
        shown(&plan),
        ["governor of CPU 1: powersave -> performance"]
    );
    assert_eq!(
        plan.impossible,
        ["CPUs 3 do not offer the governor \"performance\"; they offer powersave"]
    );
    let none = super::plan(&Host::default(), &wish);
    assert!(none.impossible[0].contains("no CPU has frequency scaling"));
}

#[test]
fn interrupts_that_may_go_far_are_brought_near_and_narrower_ones_are_left() {
    let wish = Wish {
        irq_affinity: true,
        ..Wish::default()
    };
    let mut host = host();
    host.irqbalance_runs = true;
    host.devices
        .push(device("NIC", "0000:cb:00.0", None, &[(60, "0")]));
    host.devices
        .push(device("NIC", "0000:cc:00.0", Some(2), &[(61, "0")]));
    let plan = plan(&host, &wish);
    assert_eq!(shown(&plan), ["CPUs of interrupt 40: 0-3 -> 0-1"]);
    assert_eq!(plan.impossible.len(), 2, "{:?}", plan.impossible);
    assert!(
        plan.findings
            .iter()
            .any(|finding| finding.starts_with("irqbalance runs"))
    );
}

#[test]
fn huge_pages_are_a_count_on_a_node_that_has_that_size() {
    let pages = |node, count| HugePages {
        node,
        size_kb: 2048,
        count,
    };
    let wish = Wish {
        huge_pages: vec![pages(0, 1024), pages(1, 1)],
        ..Wish::default()
    };
    let changed = plan(&host(), &wish);
    assert_eq!(
        shown(&changed),
        ["huge pages of 2048 KiB on NUMA node 0: 16 -> 1024"]
    );
    assert_eq!(
        changed.impossible,
        ["NUMA node 1 has no huge pages of 2048 KiB"]
    );
    let same = Wish {
        huge_pages: vec![pages(0, 16)],
        ..Wish::default()
    };
    assert_eq!(plan(&host(), &same).changes, []);
}

#[test]
fn narrow_links_and_small_reads_are_told_and_never_changed() {
    let mut host = host();
    let nic = host.devices[1].pcie.as_mut().unwrap();
    (nic.width, nic.generation, nic.read_request_bytes_max) = (8, 3, 512);
    host.devices[0].pcie = None;
    let plan = plan(
        &host,
        &Wish {
            irq_affinity: true,
            ..Wish::default()
        },
    );
    let told = plan.findings.join("\n");
    for expected in [
        "GPU 0000:1a:00.0: its PCIe link cannot be read",
        "NIC 0000:ca:00.0: 8 of 16 PCIe lanes",
        "NIC 0000:ca:00.0: PCIe generation 3 of 5",
        "MaxReadReq is 512 bytes",
    ] {
        assert!(told.contains(expected), "{told}");
    }
}
