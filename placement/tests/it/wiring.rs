//! Machines for tests, wired by hand or at random.

use berth_topology::gpu::{Gpu, GpuNvLink, HealthState, Pcie};
use berth_topology::ids::{GpuIndex, GpuUuid, NumaId};
use berth_topology::link::{Link, PairNvLink, Path, Via};
use berth_topology::node::Status;
use berth_topology::numa::NumaNode;
use proptest::prelude::*;

/// What is said of one pair: its path and NVLink in 10⁹ bytes a second.
pub(crate) type Pair = (Path, f64);

/// A machine of healthy GPUs on PCIe 4.0 ×16, one a position; `pair` says how two are wired.
pub(crate) fn machine(numa: &[u32], pair: impl Fn(usize, usize) -> Pair) -> Status {
    let gpus = numa
        .iter()
        .enumerate()
        .map(|(index, node)| gpu(index, *node))
        .collect();
    let mut nodes = numa.to_vec();
    nodes.sort_unstable();
    nodes.dedup();
    let mut status = Status {
        gpus,
        numa: nodes.into_iter().map(numa_node).collect(),
        ..Status::default()
    };
    for a in 0..numa.len() {
        for b in a + 1..numa.len() {
            status.links.push(link(a, b, pair(a, b)));
        }
    }
    status
}

/// Two sockets of four V100, NVLink 2 as a hybrid cube mesh.
pub(crate) fn dgx1_v100() -> Status {
    const DOUBLE: [(usize, usize); 8] = [
        (0, 3),
        (0, 4),
        (1, 2),
        (1, 5),
        (2, 3),
        (4, 7),
        (5, 6),
        (6, 7),
    ];
    const SINGLE: [(usize, usize); 8] = [
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 6),
        (3, 7),
        (4, 5),
        (4, 6),
        (5, 7),
    ];
    let mut status = machine(&[0, 0, 0, 0, 1, 1, 1, 1], |a, b| {
        let lanes = if DOUBLE.contains(&(a, b)) {
            2.0
        } else {
            f64::from(SINGLE.contains(&(a, b)))
        };
        let path = match (a / 4 == b / 4, a / 2 == b / 2) {
            (_, true) => Path::Switch,
            (true, false) => Path::HostBridge,
            (false, false) => Path::System,
        };
        (path, lanes * 25.0)
    });
    set_budgets(&mut status, 150.0);
    status
}

/// Eight GPUs behind NVSwitches on two sockets.
pub(crate) fn dgx_h100() -> Status {
    let mut status = machine(&[0, 0, 0, 0, 1, 1, 1, 1], |a, b| {
        (same_socket(a, b), 478.116)
    });
    set_budgets(&mut status, 478.116);
    status
}

/// Eight A100 PCIe, bridged in pairs (0,2)(1,3)(4,6)(5,7).
pub(crate) fn a100_bridges() -> Status {
    machine(&[0, 0, 0, 0, 1, 1, 1, 1], |a, b| {
        let is_bridged = b == a + 2 && (a % 4) < 2;
        (same_socket(a, b), if is_bridged { 309.372 } else { 0.0 })
    })
}

/// Four L40S, two a socket, no NVLink.
pub(crate) fn l40s_4() -> Status {
    machine(&[0, 0, 1, 1], |a, b| {
        (
            if a / 2 == b / 2 {
                Path::Node
            } else {
                Path::System
            },
            0.0,
        )
    })
}

pub(crate) fn uuid(position: usize) -> GpuUuid {
    GpuUuid(format!("GPU-{position}"))
}

pub(crate) fn set_budgets(status: &mut Status, gb_per_second: f64) {
    for gpu in &mut status.gpus {
        gpu.nvlink = Some(GpuNvLink {
            lanes: 1,
            lanes_expected: 1,
            gb_per_second,
        });
    }
}

/// Any machine of up to `count_max` GPUs: sparse or dense NVLink, odd paths, unknown facts.
pub(crate) fn any_machine(count_max: usize) -> impl Strategy<Value = Status> {
    (1..=count_max).prop_flat_map(|count| {
        let gpus = proptest::collection::vec(any_gpu(), count);
        let density = prop_oneof![Just(0.0), Just(0.25), Just(0.5), Just(1.0)];
        let pairs = density.prop_flat_map(move |density| {
            proptest::collection::vec(any_pair(density), count * count)
        });
        (gpus, pairs).prop_map(move |(gpus, pairs)| wired(gpus, &pairs))
    })
}

fn wired(gpus: Vec<Gpu>, pairs: &[Option<Pair>]) -> Status {
    let count = gpus.len();
    let mut status = Status {
        gpus,
        ..Status::default()
    };
    for (position, gpu) in status.gpus.iter_mut().enumerate() {
        gpu.uuid = uuid(position);
        gpu.index = GpuIndex(u32::try_from(position).unwrap());
    }
    for a in 0..count {
        for b in a + 1..count {
            // A pair that is not listed is a pair of which nothing is known.
            status
                .links
                .extend(pairs[a * count + b].map(|pair| link(a, b, pair)));
        }
    }
    status
}

fn any_gpu() -> impl Strategy<Value = Gpu> {
    let pcie = (
        prop_oneof![Just(None), Just(Some(3)), Just(Some(4))],
        prop_oneof![Just(8), Just(16)],
    );
    let pcie = pcie.prop_map(|(generation, width)| Pcie {
        generation,
        width: Some(width),
        ..Pcie::default()
    });
    let budget = proptest::option::of(prop_oneof![Just(50.0), Just(75.0), Just(150.0)]);
    let health = prop_oneof![8 => Just(HealthState::Healthy), 1 => Just(HealthState::Degraded), 1 => Just(HealthState::Failed)];
    (
        pcie,
        budget,
        health,
        proptest::option::weighted(0.9, 0..3_u32),
    )
        .prop_map(|(pcie, budget, state, node)| {
            let mut gpu = gpu(0, 0);
            gpu.pcie = Some(pcie);
            gpu.numa_node = node.map(NumaId);
            gpu.health.state = state;
            gpu.nvlink = budget.map(|gb_per_second| GpuNvLink {
                lanes: 1,
                lanes_expected: 6,
                gb_per_second,
            });
            gpu
        })
}

fn any_pair(density: f64) -> impl Strategy<Value = Option<Pair>> {
    use Path::{HostBridge, Node, Switch, Switches, System, Unknown};
    let path = proptest::sample::select(vec![Switch, Switches, HostBridge, Node, System, Unknown]);
    let lanes = proptest::bool::weighted(density).prop_flat_map(|is_joined| {
        if is_joined {
            (1..=3_u32).boxed()
        } else {
            Just(0).boxed()
        }
    });
    proptest::option::weighted(
        0.95,
        (path, lanes.prop_map(|lanes| f64::from(lanes) * 25.0)),
    )
}

fn gpu(index: usize, node: u32) -> Gpu {
    let mut gpu = Gpu {
        uuid: uuid(index),
        index: GpuIndex(u32::try_from(index).unwrap()),
        model: "NVIDIA Test 80GB".to_owned(),
        memory_bytes: Some(80 << 30),
        pcie: Some(Pcie {
            generation: Some(4),
            width: Some(16),
            ..Pcie::default()
        }),
        numa_node: Some(NumaId(node)),
        ..Gpu::default()
    };
    gpu.health.state = HealthState::Healthy;
    gpu
}

fn link(a: usize, b: usize, (path, gb_per_second): Pair) -> Link {
    let nvlink = (gb_per_second > 0.0).then_some(PairNvLink {
        lanes: 1,
        lanes_expected: 1,
        gb_per_second,
        via: Via::Direct,
    });
    Link {
        a: uuid(a),
        b: uuid(b),
        path,
        nvlink,
    }
}

/// Eight cores of two threads each, numbered as Linux does on two sockets.
fn numa_node(id: u32) -> NumaNode {
    let (first, second) = (id * 8, 16 + id * 8);
    let cpus = format!("{first}-{},{second}-{}", first + 7, second + 7)
        .parse()
        .unwrap();
    NumaNode {
        id: NumaId(id),
        cpus,
        ..NumaNode::default()
    }
}

fn same_socket(a: usize, b: usize) -> Path {
    if a / 4 == b / 4 {
        Path::Node
    } else {
        Path::System
    }
}
