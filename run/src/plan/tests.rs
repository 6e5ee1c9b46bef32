//! From an assignment to variables, masks and policies.

use std::collections::BTreeMap;

use berth_topology::assignment::ContainerAssignment;
use proptest::prelude::*;

use super::*;
use crate::container::gpus::Gpus;

const ONE_PROCESS: Wish = Wish {
    per_rank: false,
    replace: false,
    master_port: 29_500,
};
const PER_RANK: Wish = Wish {
    per_rank: true,
    ..ONE_PROCESS
};

/// Two GPUs on two nodes, in an order that is not the bus's.
const TWO: &str = r#"{"ranks":[
    {"rank":0,"gpu":"GPU-b","numaNode":1,"cpus":"2-3,6-7"},
    {"rank":1,"gpu":"GPU-a","numaNode":0,"cpus":"0-1,4-5"}]}"#;

/// Four cores of two threads (CPU n and n + 4), two of them on each node; three GPUs.
fn container(environment: &[(&str, &str)]) -> Container {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Container {
        machine: Machine {
            allowed: "0-7".parse().unwrap(),
            core_of: (0..8).map(|cpu| (cpu, cpu % 4)).collect(),
            memory_nodes: "0-2".parse().unwrap(),
        },
        gpus: known(&["GPU-a", "GPU-c", "GPU-b"]),
        environment: environment.iter().map(owned).collect(),
    }
}

fn known(gpus: &[&str]) -> Gpus {
    Gpus::Known(gpus.iter().map(|gpu| (*gpu).to_owned()).collect())
}

fn planned(text: &str, container: &Container, wish: &Wish) -> Result<Plan, Error> {
    let assigned = ContainerAssignment::decode(text).unwrap();
    plan(&Origin::Allocation, &assigned, container, wish)
}

/// What a process's environment holds of our variables when the command runs.
fn environment(process: &Process) -> BTreeMap<&str, &str> {
    let value = |variable: &'_ Variable| match &variable.outcome {
        Outcome::Kept(_) => None,
        _ => Some((variable.name, variable.value.clone())),
    };
    let pairs: Vec<_> = process.variables.iter().filter_map(value).collect();
    let leaked = |(name, value): (&'static str, String)| (name, &*value.leak());
    pairs.into_iter().map(leaked).collect()
}

fn shown(process: &Process) -> String {
    let variables: Vec<String> = environment(process)
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    variables.join(" ")
}

#[track_caller]
fn check(text: &str, container: &Container, wish: &Wish, expected: &[&str]) -> Plan {
    let plan = planned(text, container, wish).unwrap();
    let found: Vec<String> = plan.processes.iter().map(shown).collect();
    assert_eq!(found, expected);
    plan
}

#[test]
fn one_process_sees_its_gpus_in_rank_order_on_the_cpus_and_nodes_of_all_ranks() {
    let cuda = "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=2,0";
    let plan = check(TWO, &container(&[]), &ONE_PROCESS, &[cuda]);
    assert_eq!(plan.processes[0].cpus.to_string(), "0-7");
    assert_eq!(plan.processes[0].memory_nodes.to_string(), "0-1");
    assert_eq!(plan.notes, [""; 0]);
    assert_eq!(plan.ranks[0].gpu_index, Some(2));
}

#[test]
fn every_rank_sees_all_gpus_and_has_its_own_cpus_node_and_number() {
    let rank = |rank: usize| {
        format!(
            "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=2,0 LOCAL_RANK={rank} \
             LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 OMP_NUM_THREADS=2 \
             RANK={rank} WORLD_SIZE=2"
        )
    };
    let plan = check(TWO, &container(&[]), &PER_RANK, &[&rank(0), &rank(1)]);
    assert_eq!(plan.processes[0].cpus.to_string(), "2-3,6-7");
    assert_eq!(plan.processes[1].memory_nodes.to_string(), "0");
}

#[test]
fn cpu_ranks_get_what_openmp_and_vllm_understand() {
    let two = r#"{"ranks":[{"rank":0,"cpus":"0,4"},{"rank":1,"cpus":"1-2"}]}"#;
    let vllm = "VLLM_CPU_OMP_THREADS_BIND=0,4|1-2";
    check(two, &container(&[]), &ONE_PROCESS, &[vllm]);
    let rank = |rank: usize, threads: usize, places: &str| {
        format!(
            "LOCAL_RANK={rank} LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 \
             OMP_NUM_THREADS={threads} OMP_PLACES={places} OMP_PROC_BIND=close RANK={rank} \
             WORLD_SIZE=2"
        )
    };
    let ranks = [rank(0, 1, "{0,4}"), rank(1, 2, "{1},{2}")];
    check(two, &container(&[]), &PER_RANK, &[&ranks[0], &ranks[1]]);
    let one = r#"{"ranks":[{"rank":0,"cpus":"0-3"}]}"#;
    let alone = "OMP_NUM_THREADS=4 VLLM_CPU_OMP_THREADS_BIND=0-3";
    check(one, &container(&[]), &ONE_PROCESS, &[alone]);
}

#[test]
fn what_the_user_set_is_kept_and_told_unless_it_is_to_be_replaced() {
    let own = container(&[("CUDA_VISIBLE_DEVICES", "1"), ("OMP_NUM_THREADS", "7")]);
    let plan = check(TWO, &own, &ONE_PROCESS, &["CUDA_DEVICE_ORDER=PCI_BUS_ID"]);
    assert_eq!(
        plan.notes,
        ["CUDA_VISIBLE_DEVICES=1 is kept, it would be 2,0 (--override replaces it)"]
    );
    let replace = Wish {
        replace: true,
        ..ONE_PROCESS
    };
    let cuda = "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=2,0";
    let plan = check(TWO, &own, &replace, &[cuda]);
    assert_eq!(plan.notes, ["CUDA_VISIBLE_DEVICES=1 is replaced"]);
}

#[test]
fn an_inherited_rank_never_makes_all_processes_the_same_one() {
    let plan = planned(
        TWO,
        &container(&[("RANK", "9"), ("MASTER_PORT", "1")]),
        &PER_RANK,
    )
    .unwrap();
    assert_eq!(environment(&plan.processes[1])["RANK"], "1");
    assert_eq!(
        plan.notes,
        [
            "MASTER_PORT=1 is kept, it would be 29500 (--override replaces it)",
            "RANK=9 is replaced"
        ]
    );
}

#[test]
fn where_cuda_counts_otherwise_or_indices_are_unknown_uuids_say_which() {
    let fastest = container(&[("CUDA_DEVICE_ORDER", "FASTEST_FIRST")]);
    let plan = check(
        TWO,
        &fastest,
        &ONE_PROCESS,
        &["CUDA_VISIBLE_DEVICES=GPU-b,GPU-a"],
    );
    assert!(plan.notes[0].contains("only with CUDA_DEVICE_ORDER=PCI_BUS_ID"));
    let blind = Container {
        gpus: Gpus::Unknown("no driver".to_owned()),
        ..container(&[])
    };
    let cuda = "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=GPU-b,GPU-a";
    let plan = check(TWO, &blind, &ONE_PROCESS, &[cuda]);
    assert!(plan.notes[0].contains("cannot be told (no driver)"));
}

#[test]
fn mig_instances_are_named_by_uuid_and_a_rank_sees_its_own_only() {
    let mig = r#"{"ranks":[{"rank":0,"gpu":"MIG-x"},{"rank":1,"gpu":"MIG-y"}]}"#;
    let cuda = "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=MIG-x,MIG-y";
    let plan = check(mig, &container(&[]), &ONE_PROCESS, &[cuda]);
    assert!(plan.notes[0].contains("only the first MIG instance"));
    let plan = planned(mig, &container(&[]), &PER_RANK).unwrap();
    assert_eq!(
        environment(&plan.processes[1])["CUDA_VISIBLE_DEVICES"],
        "MIG-y"
    );
}

#[test]
fn a_gpu_that_is_not_in_the_container_is_named_with_those_that_are() {
    let other = Container {
        gpus: known(&["GPU-a"]),
        ..container(&[])
    };
    assert_eq!(
        planned(TWO, &other, &ONE_PROCESS).unwrap_err().to_string(),
        "rank 0 was given GPU-b by BERTH_ALLOCATION, and the container does not have it; it has \
         GPU-a"
    );
}

#[test]
fn cpus_and_memory_outside_the_containers_cpuset_are_told() {
    let mut small = container(&[]);
    small.machine.allowed = "0-2".parse().unwrap();
    small.machine.memory_nodes = "0".parse().unwrap();
    let plan = planned(TWO, &small, &PER_RANK).unwrap();
    assert_eq!(
        plan.notes,
        [
            "rank 0: of its CPUs 2-3,6-7 the container may not use 3,6-7",
            "rank 1: of its CPUs 0-1,4-5 the container may not use 4-5",
            "memory of NUMA nodes 1 may not be used here, that of 0 may"
        ]
    );
    assert!(plan.processes[0].memory_nodes.is_empty());
    small.machine.allowed = "3".parse().unwrap();
    let plan = planned(TWO, &small, &PER_RANK).unwrap();
    assert!(plan.notes[1].contains("none of its CPUs 0-1,4-5 may be used here, 3 may"));
    assert_eq!(plan.processes[1].cpus.to_string(), "3");
}

#[test]
fn memory_is_left_to_the_kernel_where_a_node_is_unknown_or_all_are_wanted() {
    let unknown = r#"{"ranks":[{"rank":0,"numaNode":1},{"rank":1}]}"#;
    let plan = planned(unknown, &container(&[]), &ONE_PROCESS).unwrap();
    assert!(plan.processes[0].memory_nodes.is_empty());
    let mut two_nodes = container(&[]);
    two_nodes.machine.memory_nodes = "0-1".parse().unwrap();
    let plan = planned(TWO, &two_nodes, &ONE_PROCESS).unwrap();
    assert!(plan.processes[0].memory_nodes.is_empty());
}

proptest! {
    /// Whatever is assigned, masks stay within the container's, and every rank has a CPU.
    #[test]
    fn no_assignment_leaves_the_containers_cpus_or_a_rank_without_one(
        ranks in proptest::collection::vec((0_u32..70, 0_u32..70, 0_u32..4), 1..12),
        per_rank in any::<bool>(),
    ) {
        let rank = |(rank, (from, to, node)): (usize, &(u32, u32, u32))| {
            let (first, last) = (from.min(to), from.max(to));
            format!("{{\"rank\":{rank},\"cpus\":\"{first}-{last}\",\"numaNode\":{node}}}")
        };
        let ranks: Vec<String> = ranks.iter().enumerate().map(rank).collect();
        let text = format!("{{\"ranks\":[{}]}}", ranks.join(","));
        let container = container(&[]);
        let plan = planned(&text, &container, &Wish { per_rank, ..ONE_PROCESS }).unwrap();
        for process in &plan.processes {
            prop_assert!(!process.cpus.is_empty());
            prop_assert!(process.cpus.is_subset(&container.machine.allowed));
            prop_assert!(process.memory_nodes.is_subset(&container.machine.memory_nodes));
        }
    }
}
