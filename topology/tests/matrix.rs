//! The matrix looks like `nvidia-smi topo -m`.

use berth_topology::gpu::Gpu;
use berth_topology::ids::{GpuIndex, NumaId};
use berth_topology::link::{Link, PairNvLink, Path, Via};
use berth_topology::matrix;
use berth_topology::nic::{Nic, NicPath};
use berth_topology::node::Status;
use expect_test::expect;

fn gpu(index: u32, cpus: &str) -> Gpu {
    Gpu {
        uuid: format!("GPU-{index}").as_str().into(),
        index: GpuIndex(index),
        numa_node: Some(NumaId(index / 2)),
        cpus: Some(cpus.parse().expect("a CPU list")),
        ..Gpu::default()
    }
}

#[test]
fn three_gpus_and_a_nic() {
    let link = |a: &str, b: &str, path, lanes: u32| Link {
        a: a.into(),
        b: b.into(),
        path,
        nvlink: (lanes > 0).then_some(PairNvLink {
            lanes,
            lanes_expected: lanes,
            gb_per_second: 50.0,
            via: Via::Direct,
        }),
    };
    let path = |gpu: &str, path| NicPath {
        gpu: gpu.into(),
        path,
    };
    let status = Status {
        gpus: vec![gpu(0, "0-3,8-11"), gpu(1, "0-3,8-11"), gpu(2, "4-7,12-15")],
        links: vec![
            link("GPU-0", "GPU-1", Path::Switch, 2),
            link("GPU-0", "GPU-2", Path::System, 0),
            link("GPU-1", "GPU-2", Path::System, 0),
        ],
        nics: vec![Nic {
            name: "mlx5_0".to_owned(),
            paths: vec![
                path("GPU-0", Path::Switches),
                path("GPU-1", Path::Node),
                path("GPU-2", Path::System),
            ],
            ..Nic::default()
        }],
        ..Status::default()
    };
    let drawn = matrix::draw(&status).replace('\t', "|");
    expect![[r"
        |GPU0|GPU1|GPU2|NIC0|CPU Affinity|NUMA Affinity|GPU NUMA ID
        GPU0| X |NV2|SYS|PXB|0-3,8-11|0||N/A
        GPU1|NV2| X |SYS|NODE|0-3,8-11|0||N/A
        GPU2|SYS|SYS| X |SYS|4-7,12-15|1||N/A
        NIC0|PXB|NODE|SYS| X ||||

        Legend:

          X    = Self
          SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
          NODE = Connection traversing PCIe as well as the interconnect between PCIe Host Bridges within a NUMA node
          PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
          PXB  = Connection traversing multiple PCIe bridges (without traversing the PCIe Host Bridge)
          PIX  = Connection traversing at most a single PCIe bridge
          NV#  = Connection traversing a bonded set of # NVLinks

        NIC Legend:

          NIC0: mlx5_0
    "]]
    .assert_eq(&drawn);
}

#[test]
fn a_node_without_gpus_has_no_matrix() {
    assert_eq!(matrix::draw(&Status::default()), "");
}
