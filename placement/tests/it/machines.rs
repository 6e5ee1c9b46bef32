//! Stories on known machines.

use berth_placement::{GpuSet, Machine, Placement, Refusal, place};
use berth_topology::claim::{GpuClaim, LinkPolicy, NicPolicy, NumaPolicy};
use berth_topology::ids::GpuIndex;
use berth_topology::link::{LinkClass, Path};
use berth_topology::nic::{Nic, NicPath};
use berth_topology::node::Status;
use expect_test::{Expect, expect};

use crate::wiring::{a100_bridges, dgx_h100, dgx1_v100, l40s_4, machine, set_budgets, uuid};

#[track_caller]
fn check(status: &Status, taken: &[usize], claim: &GpuClaim, expected: Expect) {
    let machine = Machine::new(status);
    let taken: GpuSet = taken.iter().copied().collect();
    let answer = place(&machine, machine.usable().difference(taken), claim);
    expected.assert_eq(&explain(&answer));
}

fn explain(answer: &Result<Placement, Refusal>) -> String {
    let placement = match answer {
        Ok(placement) => placement,
        Err(refusal) => return format!("{}: {refusal}", refusal.kind()),
    };
    let indices: Vec<String> = placement
        .ranks
        .iter()
        .map(|rank| rank.index.unwrap_or(GpuIndex(99)).to_string())
        .collect();
    let link = placement
        .weakest_link
        .map_or("none".to_owned(), |link| link.to_string());
    let speed = placement
        .gb_per_second
        .map_or(String::new(), |gb| format!(" {gb} GB/s"));
    let numa: Vec<String> = placement
        .numa_nodes
        .iter()
        .map(ToString::to_string)
        .collect();
    format!(
        "gpus {} link {link}{speed} numa {} score {}",
        indices.join(" "),
        numa.join(" "),
        placement.score
    )
}

fn gpus(count: usize) -> GpuClaim {
    GpuClaim::of_count(count)
}

fn groups(count: usize, size: usize) -> GpuClaim {
    GpuClaim {
        tensor_parallel_size: Some(size),
        ..gpus(count)
    }
}

fn require(count: usize, link: LinkClass) -> GpuClaim {
    GpuClaim {
        link,
        link_policy: LinkPolicy::Require,
        ..gpus(count)
    }
}

#[test]
fn first_quad_of_a_dgx1_is_one_socket() {
    check(
        &dgx1_v100(),
        &[],
        &gpus(4),
        expect!["gpus 0 1 2 3 link nvlink 100 GB/s numa 0 score 10"],
    );
}

#[test]
fn second_quad_of_a_dgx1_is_the_other_socket() {
    check(
        &dgx1_v100(),
        &[0, 1, 2, 3],
        &gpus(4),
        expect!["gpus 4 5 6 7 link nvlink 100 GB/s numa 1 score 10"],
    );
}

#[test]
fn pair_of_a_dgx1_has_two_lanes_and_one_socket() {
    check(
        &dgx1_v100(),
        &[],
        &gpus(2),
        expect!["gpus 0 3 link nvlink 50 GB/s numa 0 score 10"],
    );
    check(
        &dgx1_v100(),
        &[0, 3],
        &gpus(2),
        expect!["gpus 1 2 link nvlink 50 GB/s numa 0 score 10"],
    );
}

#[test]
fn what_is_left_of_two_broken_quads_scores_less() {
    check(
        &dgx1_v100(),
        &[0, 4],
        &gpus(4),
        expect!["gpus 1 2 6 5 link any 75 GB/s numa 0 1 score 7"],
    );
    check(
        &dgx1_v100(),
        &[0, 1, 6, 7],
        &gpus(4),
        expect!["gpus 2 3 4 5 link any numa 0 1 score 0"],
    );
}

#[test]
fn single_gpu_goes_where_a_quad_is_broken_already() {
    check(
        &dgx1_v100(),
        &[5],
        &gpus(1),
        expect!["gpus 6 link none numa 1 score 10"],
    );
}

#[test]
fn four_pairs_of_a_dgx1_all_have_two_lanes() {
    check(
        &dgx1_v100(),
        &[],
        &groups(8, 2),
        expect!["gpus 0 3 1 2 4 7 5 6 link nvlink 50 GB/s numa 0 1 score 10"],
    );
}

#[test]
fn whole_dgx1_is_joined_by_nvlink_though_pairs_are_not() {
    check(
        &dgx1_v100(),
        &[],
        &gpus(8),
        expect!["gpus 0 3 2 1 5 6 7 4 link any 150 GB/s numa 0 1 score 10"],
    );
}

#[test]
fn single_gpu_behind_switches_goes_to_the_broken_socket() {
    check(
        &dgx_h100(),
        &[5],
        &gpus(1),
        expect!["gpus 4 link none numa 1 score 10"],
    );
}

#[test]
fn every_quad_behind_switches_is_equal_so_numa_decides() {
    check(
        &dgx_h100(),
        &[1],
        &gpus(4),
        expect!["gpus 4 5 6 7 link nvlink 478.116 GB/s numa 1 score 10"],
    );
    check(
        &dgx_h100(),
        &[1, 5],
        &gpus(4),
        expect!["gpus 0 2 3 4 link nvlink 478.116 GB/s numa 0 1 score 10"],
    );
}

#[test]
fn degraded_gpu_behind_switches_is_left_out() {
    let mut status = dgx_h100();
    status.gpus[2].nvlink.as_mut().unwrap().gb_per_second = 450.0;
    for link in &mut status.links {
        if link.a == uuid(2) || link.b == uuid(2) {
            link.nvlink.as_mut().unwrap().gb_per_second = 450.0;
        }
    }
    check(
        &status,
        &[],
        &gpus(4),
        expect!["gpus 4 5 6 7 link nvlink 478.116 GB/s numa 1 score 10"],
    );
    check(
        &status,
        &[],
        &gpus(8),
        expect!["gpus 0 1 2 3 4 5 6 7 link nvlink 450 GB/s numa 0 1 score 10"],
    );
    check(
        &status,
        &[],
        &gpus(1),
        expect!["gpus 2 link none numa 0 score 10"],
    );
}

#[test]
fn pair_of_bridged_gpus_is_a_bridge() {
    check(
        &a100_bridges(),
        &[],
        &gpus(2),
        expect!["gpus 0 2 link nvlink 309.372 GB/s numa 0 score 10"],
    );
    check(
        &a100_bridges(),
        &[0],
        &gpus(2),
        expect!["gpus 1 3 link nvlink 309.372 GB/s numa 0 score 10"],
    );
}

#[test]
fn single_gpu_takes_the_one_whose_bridge_is_useless() {
    check(
        &a100_bridges(),
        &[4],
        &gpus(1),
        expect!["gpus 6 link none numa 1 score 10"],
    );
}

#[test]
fn bridged_quad_is_one_socket_over_pcie() {
    check(
        &a100_bridges(),
        &[],
        &gpus(4),
        expect!["gpus 0 1 2 3 link numa numa 0 score 10"],
    );
}

#[test]
fn two_bridged_pairs_are_found_together() {
    check(
        &a100_bridges(),
        &[],
        &groups(4, 2),
        expect!["gpus 0 2 1 3 link nvlink 309.372 GB/s numa 0 score 10"],
    );
}

#[test]
fn pair_of_l40s_is_one_socket() {
    check(
        &l40s_4(),
        &[],
        &gpus(2),
        expect!["gpus 0 1 link numa numa 0 score 10"],
    );
    check(
        &l40s_4(),
        &[0],
        &gpus(2),
        expect!["gpus 2 3 link numa numa 1 score 10"],
    );
    check(
        &l40s_4(),
        &[0, 2],
        &gpus(2),
        expect!["gpus 1 3 link any numa 0 1 score 5"],
    );
}

#[test]
fn chain_of_links_is_cut_into_two_pairs_rather_than_one_good_and_one_bad() {
    let chain = machine(&[0, 0, 0, 0], |a, b| match (a, b) {
        (0, 1) | (2, 3) => (Path::Node, 25.0),
        (1, 2) => (Path::Node, 50.0),
        _ => (Path::Node, 0.0),
    });
    check(
        &chain,
        &[],
        &gpus(2),
        expect!["gpus 1 2 link nvlink 50 GB/s numa 0 score 10"],
    );
    check(
        &chain,
        &[],
        &groups(4, 2),
        expect!["gpus 0 1 2 3 link nvlink 25 GB/s numa 0 score 10"],
    );
}

#[test]
fn ring_goes_along_the_links_that_there_are() {
    let square = machine(&[0, 0, 0, 0], |a, b| match (a, b) {
        (0, 2) | (1, 2) | (1, 3) | (0, 3) => (Path::Node, 50.0),
        _ => (Path::Node, 0.0),
    });
    check(
        &square,
        &[],
        &gpus(4),
        expect!["gpus 0 2 1 3 link numa 100 GB/s numa 0 score 10"],
    );
}

#[test]
fn link_wish_is_kept_where_it_can_be_and_waived_where_not() {
    let wish = |count| GpuClaim {
        link: LinkClass::NvLink,
        ..gpus(count)
    };
    check(
        &a100_bridges(),
        &[],
        &wish(2),
        expect!["gpus 0 2 link nvlink 309.372 GB/s numa 0 score 10"],
    );
    check(
        &a100_bridges(),
        &[],
        &wish(3),
        expect!["gpus 0 1 2 link numa numa 0 score 10"],
    );
}

#[test]
fn required_link_is_kept_or_refused() {
    check(
        &a100_bridges(),
        &[],
        &require(2, LinkClass::NvLink),
        expect!["gpus 0 2 link nvlink 309.372 GB/s numa 0 score 10"],
    );
    check(
        &a100_bridges(),
        &[0, 1, 4, 5],
        &require(2, LinkClass::NvLink),
        expect!["LinkTooWeak: the free GPUs are not linked as the pod requires"],
    );
    check(
        &a100_bridges(),
        &[],
        &require(3, LinkClass::NvLink),
        expect!["LinkImpossible: no GPUs of the node are linked as the pod requires"],
    );
    check(
        &a100_bridges(),
        &[],
        &require(4, LinkClass::Numa),
        expect!["gpus 0 1 2 3 link numa numa 0 score 10"],
    );
    check(
        &l40s_4(),
        &[],
        &require(1, LinkClass::NvLink),
        expect!["gpus 0 link none numa 0 score 10"],
    );
}

#[test]
fn single_numa_is_kept_or_refused() {
    let single = |count| GpuClaim {
        numa: NumaPolicy::Single,
        ..gpus(count)
    };
    check(
        &l40s_4(),
        &[0],
        &single(2),
        expect!["gpus 2 3 link numa numa 1 score 10"],
    );
    check(
        &l40s_4(),
        &[0, 2],
        &single(2),
        expect!["NumaSpan: the free GPUs are not on one NUMA node as the pod requires"],
    );
    check(
        &l40s_4(),
        &[],
        &single(3),
        expect!["NumaImpossible: no NUMA node has the GPUs that the pod requires on one"],
    );
}

#[test]
fn near_card_decides_between_equal_gpus() {
    let mut status = l40s_4();
    let path = |position| NicPath {
        gpu: uuid(position),
        path: if position == 3 {
            Path::Switch
        } else {
            Path::System
        },
    };
    status.nics = vec![Nic {
        name: "mlx5_0".to_owned(),
        rdma: true,
        paths: (0..4).map(path).collect(),
        ..Nic::default()
    }];
    check(
        &status,
        &[],
        &gpus(1),
        expect!["gpus 0 link none numa 0 score 10"],
    );
    check(
        &status,
        &[],
        &GpuClaim {
            nic: NicPolicy::Near,
            ..gpus(1)
        },
        expect!["gpus 3 link none numa 1 score 10"],
    );
}

#[test]
fn budget_behind_a_switch_caps_the_sum_over_all_peers() {
    let mut status = dgx_h100();
    set_budgets(&mut status, 200.0);
    check(
        &status,
        &[],
        &gpus(4),
        expect!["gpus 0 1 2 3 link nvlink 200 GB/s numa 0 score 10"],
    );
}

#[test]
fn nonsense_speeds_join_nothing() {
    for nonsense in [f64::NAN, -5.0, f64::INFINITY, 1e300] {
        let mut status = l40s_4();
        status.links[5] = berth_topology::link::Link {
            nvlink: dgx_h100().links[0].nvlink.clone().map(|mut nvlink| {
                nvlink.gb_per_second = nonsense;
                nvlink
            }),
            ..status.links[5].clone()
        };
        let machine = Machine::new(&status);
        assert!(place(&machine, machine.usable(), &gpus(2)).is_ok());
    }
}
