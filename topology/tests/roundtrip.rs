//! decode(encode(x)) == x for everything that travels, and nothing that arrives can panic.

use std::collections::BTreeMap;

use berth_topology::allocation::Allocation;
use berth_topology::assignment::{Assignment, ContainerAssignment, Rank};
use berth_topology::cpus::CpuList;
use berth_topology::gpu::{Gpu, GpuNvLink, Health, HealthState, Pcie, Xid};
use berth_topology::ids::{GpuIndex, GpuUuid, NumaId};
use berth_topology::kubelet::{Kubelet, Plugin, PluginOwner};
use berth_topology::link::{Link, LinkClass, PairNvLink, Path, Via};
use berth_topology::node::{NodeTopology, Status, Unknown};
use berth_topology::numa::{HugePages, NumaNode};
use berth_topology::{labels, names, quantity};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

fn cpus() -> impl Strategy<Value = CpuList> {
    btree_set(0_u32..512, 0..40).prop_map(|cpus| cpus.into_iter().collect())
}

fn uuid() -> impl Strategy<Value = GpuUuid> {
    "GPU-[0-9a-f]{8}".prop_map(GpuUuid)
}

fn gb_per_second() -> impl Strategy<Value = f64> {
    (0_u32..1_000_000).prop_map(|thousandths| f64::from(thousandths) / 1000.0)
}

fn path() -> impl Strategy<Value = Path> {
    prop::sample::select(vec![
        Path::Board,
        Path::Switch,
        Path::HostBridge,
        Path::System,
        Path::Unknown,
    ])
}

fn link() -> impl Strategy<Value = Link> {
    let nvlink = (0_u32..40, 0_u32..40, gb_per_second(), any::<bool>()).prop_map(
        |(lanes, lanes_expected, gb_per_second, direct)| PairNvLink {
            lanes,
            lanes_expected,
            gb_per_second,
            via: if direct { Via::Direct } else { Via::Switch },
        },
    );
    (uuid(), uuid(), path(), option::of(nvlink)).prop_map(|(a, b, path, nvlink)| Link {
        a,
        b,
        path,
        nvlink,
    })
}

fn gpu() -> impl Strategy<Value = Gpu> {
    let state = prop::sample::select(vec![
        HealthState::Healthy,
        HealthState::Degraded,
        HealthState::Failed,
        HealthState::Unknown,
    ]);
    (
        uuid(),
        0_u32..64,
        option::of(0_u32..8),
        option::of(cpus()),
        state,
        option::of(gb_per_second()),
    )
        .prop_map(|(uuid, index, numa, cpus, state, nvlink)| Gpu {
            uuid,
            index: GpuIndex(index),
            numa_node: numa.map(NumaId),
            cpus,
            pcie: Some(Pcie {
                max_generation: Some(5),
                ..Pcie::default()
            }),
            nvlink: nvlink.map(|gb_per_second| GpuNvLink {
                lanes: 1,
                lanes_expected: 2,
                gb_per_second,
            }),
            health: Health {
                state,
                reasons: vec!["a reason".to_owned()],
                since: None,
                xids: vec![Xid {
                    code: 95,
                    at: "2026-01-02T03:04:05Z".to_owned(),
                    driver_load: Some("7".to_owned()),
                }],
                recovery_action: Some("reset".to_owned()),
            },
            ..Gpu::default()
        })
}

fn status() -> impl Strategy<Value = Status> {
    let numa =
        (0_u32..8, cpus(), vec(10_u32..255, 0..8)).prop_map(|(id, cpus, distances)| NumaNode {
            id: NumaId(id),
            cpus,
            memory_bytes: Some(1 << 30),
            huge_pages: vec![HugePages {
                size_bytes: 2 << 20,
                total: 3,
            }],
            distances,
        });
    let allocation = vec(uuid(), 0..4).prop_map(|devices| Allocation {
        pod_uid: Some("u".into()),
        container: "c".to_owned(),
        devices,
        ..Allocation::default()
    });
    (
        vec(gpu(), 0..8),
        vec(link(), 0..8),
        vec(numa, 0..4),
        vec(allocation, 0..3),
    )
        .prop_map(|(gpus, links, numa, allocations)| Status {
            gpus,
            links,
            numa,
            allocations,
            kubelet: Kubelet::unknown(),
            plugins: vec![Plugin {
                owner: PluginOwner::Berth,
                ..Plugin::default()
            }],
            unknowns: vec![Unknown {
                what: "nics".to_owned(),
                why: "no sysfs".to_owned(),
            }],
            ..Status::default()
        })
}

fn container() -> impl Strategy<Value = ContainerAssignment> {
    let rank = (option::of(0_u32..9), option::of(cpus()));
    (vec(rank, 0..16), "[a-z]{6}", option::of(gb_per_second())).prop_map(
        |(ranks, salt, gb_per_second)| {
            let rank = |(rank, (numa, cpus)): (usize, (Option<u32>, Option<CpuList>))| Rank {
                rank,
                gpu: Some(GpuUuid(format!("GPU-{salt}-{rank}"))),
                index: None,
                numa_node: numa.map(NumaId),
                cpus,
            };
            let ranks = ranks.into_iter().enumerate().map(rank).collect();
            ContainerAssignment {
                ranks,
                weakest_link: Some(LinkClass::Switch),
                gb_per_second,
            }
        },
    )
}

proptest! {
    #[test]
    fn a_node_topology_survives_writing_and_reading(status in status()) {
        let object = NodeTopology::new("node-1", status);
        let text = serde_json::to_string(&object).unwrap();
        prop_assert_eq!(serde_json::from_str::<NodeTopology>(&text).unwrap(), object);
    }

    #[test]
    fn an_assignment_survives_writing_and_reading(
        containers in btree_map("[a-z]{1,8}", container(), 1..3),
        uid in option::of("[0-9a-f]{8}"),
    ) {
        let assignment = Assignment {
            schema: names::SCHEMA.to_owned(),
            pod_uid: uid.as_deref().map(Into::into),
            node: Some("node-1".into()),
            topology_hash: None,
            containers,
        };
        let distinct: std::collections::BTreeSet<_> = assignment.gpus().collect();
        prop_assume!(distinct.len() == assignment.gpus().count());
        prop_assert_eq!(Assignment::decode(&assignment.encode()).unwrap(), assignment);
    }

    #[test]
    fn a_container_assignment_survives_writing_and_reading(container in container()) {
        prop_assert_eq!(ContainerAssignment::decode(&container.encode()).unwrap(), container);
    }

    #[test]
    fn cpu_lists_survive_writing_and_reading(cpus in cpus()) {
        prop_assert_eq!(cpus.to_string().parse::<CpuList>().unwrap(), cpus);
    }

    #[test]
    fn no_text_from_outside_panics(text in "\\PC{0,80}") {
        let _ = text.parse::<CpuList>();
        let _ = Assignment::decode(&text);
        let _ = ContainerAssignment::decode(&text);
        let _ = quantity::parse(&text);
        let _ = serde_json::from_str::<NodeTopology>(&text);
    }

    #[test]
    fn every_label_is_one_that_kubernetes_accepts(status in status(), model in "\\PC{0,90}") {
        let mut status = status;
        status.gpus.iter_mut().for_each(|gpu| gpu.model.clone_from(&model));
        for (name, value) in labels::of_status(&status) {
            prop_assert!(labels::ALL.contains(&name.as_str()));
            prop_assert!(value.len() <= 63 && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
            prop_assert!(value.is_empty() || !value.starts_with(['-', '_', '.']) && !value.ends_with(['-', '_', '.']));
        }
    }

    #[test]
    fn quantities_agree_with_their_meaning(number in 0_u64..1_000_000, suffix in 0_usize..4) {
        let (text, size) = [("", 1_u64), ("Ki", 1 << 10), ("Gi", 1 << 30), ("M", 1_000_000)][suffix];
        prop_assert_eq!(quantity::parse(&format!("{number}{text}")), Some(number * size));
    }
}

#[test]
fn an_unknown_value_decodes_to_unknown_and_an_unknown_field_is_ignored() {
    let text = r#"{"metadata":{"name":"n"},"status":{"gpus":[{"uuid":"GPU-1","index":0,
        "health":{"state":"sleepy"},"colour":"green"}],"numa":[]},"extra":1}"#;
    let object: NodeTopology = serde_json::from_str(text).unwrap();
    let status = object.status.unwrap();
    assert_eq!(status.gpus[0].health.state, HealthState::Unknown);
    assert!(!status.gpus[0].is_usable());
}

#[test]
fn fractions_round_up_and_nonsense_is_none() {
    assert_eq!(quantity::parse("1500m"), Some(2));
    assert_eq!(quantity::parse("1.5Gi"), Some(1_610_612_736));
    assert_eq!(quantity::parse("2e3"), Some(2_000));
    for text in [
        "",
        "-1",
        "Gi",
        "1Qi",
        "1e",
        "99999999999999999999E",
        "0.1.2",
    ] {
        assert_eq!(quantity::parse(text), None, "{text}");
    }
}

#[test]
fn an_assignment_that_contradicts_itself_is_refused() {
    let rank = |rank, gpu: &str| Rank {
        rank,
        gpu: Some(gpu.into()),
        ..Rank::default()
    };
    let decode = |ranks: Vec<Rank>| {
        let container = ContainerAssignment {
            ranks,
            ..ContainerAssignment::default()
        };
        let containers = BTreeMap::from([("c".to_owned(), container)]);
        let schema = names::SCHEMA.to_owned();
        let assignment = Assignment {
            schema,
            pod_uid: None,
            node: None,
            topology_hash: None,
            containers,
        };
        Assignment::decode(&assignment.encode()).map_err(|error| error.to_string())
    };
    assert!(decode(vec![rank(0, "GPU-1"), rank(1, "GPU-2")]).is_ok());
    assert_eq!(
        decode(vec![rank(0, "GPU-1"), rank(1, "GPU-1")]).unwrap_err(),
        "GPU GPU-1 is assigned twice"
    );
    assert!(
        decode(vec![rank(1, "GPU-1")])
            .unwrap_err()
            .contains("not numbered from 0")
    );
}
