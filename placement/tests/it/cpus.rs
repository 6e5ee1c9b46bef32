//! Ranks without a GPU.

use berth_placement::{Machine, Refusal, place, place_cpus};
use berth_topology::claim::GpuClaim;
use berth_topology::ids::NumaId;
use berth_topology::node::Status;
use berth_topology::numa::NumaNode;
use expect_test::{Expect, expect};

#[track_caller]
fn check(numa: &[&str], rank_count: usize, expected: Expect) {
    expected.assert_eq(&explain(&machine(numa, None), rank_count));
}

fn machine(numa: &[&str], reserved: Option<&str>) -> Machine {
    let nodes = numa.iter().zip(0..).map(|(cpus, id)| NumaNode {
        id: NumaId(id),
        cpus: cpus.parse().unwrap(),
        ..NumaNode::default()
    });
    let mut status = Status {
        numa: nodes.collect(),
        ..Status::default()
    };
    status.kubelet.reserved_cpus = reserved.map(|cpus| cpus.parse().unwrap());
    Machine::new(&status)
}

fn explain(machine: &Machine, rank_count: usize) -> String {
    let placement = match place_cpus(machine, rank_count) {
        Ok(placement) => placement,
        Err(refusal) => return refusal.to_string(),
    };
    let rank = |rank: &berth_topology::assignment::Rank| {
        let node = rank
            .numa_node
            .map_or("?".to_owned(), |node| node.to_string());
        format!(
            "{}: node {node} cpus {}",
            rank.rank,
            rank.cpus.clone().unwrap_or_default()
        )
    };
    placement
        .ranks
        .iter()
        .map(rank)
        .collect::<Vec<_>>()
        .join("; ")
}

#[test]
fn claim_for_no_gpu_but_ranks_is_for_cpu_ranks() {
    let machine = machine(&["0-3,8-11", "4-7,12-15"], None);
    let claim = GpuClaim {
        tensor_parallel_size: Some(3),
        ..GpuClaim::default()
    };
    let placed = place(&machine, machine.usable(), &claim);
    assert_eq!(placed, place_cpus(&machine, 3));
    let nothing = place(&machine, machine.usable(), &GpuClaim::default());
    assert!(nothing.unwrap().ranks.is_empty());
}

#[test]
fn one_rank_a_node_has_all_of_it() {
    check(
        &["0-3,8-11", "4-7,12-15"],
        2,
        expect!["0: node 0 cpus 0-3,8-11; 1: node 1 cpus 4-7,12-15"],
    );
}

#[test]
fn ranks_of_one_node_split_it_with_both_threads_of_a_core() {
    check(
        &["0-3,8-11", "4-7,12-15"],
        4,
        expect![
            "0: node 0 cpus 0-1,8-9; 1: node 0 cpus 2-3,10-11; 2: node 1 cpus 4-5,12-13; 3: node 1 cpus 6-7,14-15"
        ],
    );
    check(
        &["0-3,8-11"],
        3,
        expect!["0: node 0 cpus 0,8; 1: node 0 cpus 1,9; 2: node 0 cpus 2-3,10-11"],
    );
    check(
        &["0-7"],
        2,
        expect!["0: node 0 cpus 0-3; 1: node 0 cpus 4-7"],
    );
}

#[test]
fn the_roomier_node_gets_more_ranks() {
    check(
        &["0-1", "2-7"],
        3,
        expect!["0: node 0 cpus 0-1; 1: node 1 cpus 2-4; 2: node 1 cpus 5-7"],
    );
    check(&["0-1", "2-7"], 1, expect!["0: node 1 cpus 2-7"]);
}

#[test]
fn memory_only_nodes_get_none() {
    check(
        &["", "0-3", ""],
        2,
        expect!["0: node 1 cpus 0-1; 1: node 1 cpus 2-3"],
    );
}

#[test]
fn more_ranks_than_cpus_share_them() {
    check(
        &["0-1"],
        3,
        expect!["0: node 0 cpus 0-1; 1: node 0 cpus 0-1; 2: node 0 cpus 0-1"],
    );
}

#[test]
fn unknown_cpus_are_left_out() {
    check(&[], 2, expect!["0: node ? cpus ; 1: node ? cpus "]);
}

#[test]
fn reserved_cpus_are_left_out() {
    expect!["0: node 0 cpus 1-3"].assert_eq(&explain(&machine(&["0-3"], Some("0")), 1));
}

#[test]
fn no_rank_and_too_many_are_refused() {
    let machine = machine(&["0-3"], None);
    for count in [0, 1_025] {
        assert!(matches!(
            place_cpus(&machine, count),
            Err(Refusal::BadClaim(_))
        ));
    }
}
