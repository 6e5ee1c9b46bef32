//! What the kubelet's topology manager leaves to choose from, and what it rejects.

use std::collections::BTreeMap;

use berth_placement::{Free, GpuSet, HeldCpus, Inexact, Machine, PodPlacement, Refusal, place_pod};
use berth_topology::claim::{
    ContainerClaim, ContainerNeeds, GpuClaim, LinkPolicy, Phase, PodClaim, PodNeeds,
};
use berth_topology::ids::NumaId;
use berth_topology::kubelet::{Kubelet, Plugin, PluginOwner};
use berth_topology::link::LinkClass;
use berth_topology::node::Status;

use crate::wiring::{a100_bridges, dgx_h100, machine};

const RESOURCE: &str = "nvidia.com/gpu";

/// `policy` or `policy/scope`; every option known and off, Berth's plugin registered.
fn with_policy(mut status: Status, policy: &str) -> Status {
    let (policy, scope) = policy.split_once('/').unwrap_or((policy, "container"));
    status.kubelet = Kubelet {
        topology_manager_policy: policy.to_owned(),
        topology_manager_scope: scope.to_owned(),
        cpu_manager_policy: "static".to_owned(),
        topology_manager_policy_options: Some(BTreeMap::new()),
        cpu_manager_policy_options: Some(BTreeMap::new()),
        memory_manager_policy: Some("None".to_owned()),
        reserved_cpus: Some("0".parse().unwrap()),
    };
    status.plugins = vec![Plugin {
        resource: RESOURCE.to_owned(),
        owner: PluginOwner::Berth,
        registered: true,
        exact: true,
        unaligned: false,
    }];
    status
}

/// `main 4`, `init 2`, `sidecar 1`, with `+8` for eight CPUs: one container each.
fn pod(containers: &[&str]) -> PodClaim {
    let mut claim = PodClaim {
        needs: PodNeeds {
            is_guaranteed: true,
            ..PodNeeds::default()
        },
        ..PodClaim::default()
    };
    for (index, text) in containers.iter().enumerate() {
        let (phase, counts) = text.split_once(' ').unwrap();
        let (gpus, cpus) = counts.split_once('+').unwrap_or((counts, "0"));
        let needs = ContainerNeeds {
            name: format!("c{index}"),
            phase: match phase {
                "init" => Phase::Init,
                "sidecar" => Phase::Sidecar,
                _ => Phase::Main,
            },
            gpu_count: gpus.parse().unwrap(),
            names_gpus: gpus != "0",
            cpu_count: cpus.parse().unwrap(),
            has_other_devices: false,
        };
        let list = match needs.phase {
            Phase::Init => &mut claim.init,
            Phase::Sidecar | Phase::Main => &mut claim.containers,
        };
        if needs.gpu_count > 0 {
            list.push(ContainerClaim {
                name: needs.name.clone(),
                claim: GpuClaim::of_count(needs.gpu_count),
            });
        }
        claim.needs.containers.push(needs);
    }
    claim
}

/// The same, where every pair of a container's GPUs must have NVLink.
fn joined(mut claim: PodClaim) -> PodClaim {
    for container in claim.containers.iter_mut().chain(&mut claim.init) {
        container.claim.link = LinkClass::NvLink;
        container.claim.link_policy = LinkPolicy::Require;
    }
    claim
}

fn set(positions: &[usize]) -> GpuSet {
    positions.iter().copied().collect()
}

fn on(status: &Status, free: &[usize], claim: &PodClaim) -> Result<PodPlacement, Refusal> {
    on_with_cpus(status, free, "", claim)
}

fn on_with_cpus(
    status: &Status,
    free: &[usize],
    held: &str,
    claim: &PodClaim,
) -> Result<PodPlacement, Refusal> {
    let machine = Machine::new(status);
    let held = [held.parse().unwrap()];
    let cpus: HeldCpus = machine.held_cpus(held.iter(), std::iter::empty());
    let free = Free {
        gpus: set(free),
        cpus: Some(&cpus),
        doubt: machine.plugin_doubt(RESOURCE),
    };
    place_pod(&machine, free, claim)
}

/// GPUs and NUMA nodes by container, then why it is not exact.
#[track_caller]
fn check(answer: &Result<PodPlacement, Refusal>, expected: &str) {
    let text = match answer {
        Err(refusal) => refusal.kind().to_owned(),
        Ok(placement) => {
            let admitted = placement.admitted.iter().map(|one| {
                let gpus: Vec<String> = one.gpus.iter().map(|gpu| gpu.to_string()).collect();
                let numa = one.numa_nodes.as_ref().map_or("any".to_owned(), |nodes| {
                    let nodes: Vec<String> = nodes.iter().map(NumaId::to_string).collect();
                    nodes.join("")
                });
                format!("{}@{numa}", gpus.join(""))
            });
            let admitted: Vec<String> = admitted.collect();
            let doubt = placement.inexact.map_or("", Inexact::kind);
            format!("{} {doubt}", admitted.join(" ")).trim().to_owned()
        }
    };
    assert_eq!(text, expected);
}

#[test]
fn the_lowest_numa_node_that_has_room_is_taken_however_good_the_others_are() {
    let h100 = with_policy(dgx_h100(), "single-numa-node");
    check(&on(&h100, &[0, 1, 2, 4, 5], &pod(&["main 2"])), "01@0");
    // One alone would go to GPU 4 and break nothing; the kubelet does not let it.
    check(&on(&h100, &[0, 1, 2, 3, 4], &pod(&["main 1"])), "0@0");
    check(&on(&h100, &[3, 4, 5, 6, 7], &pod(&["main 2"])), "45@1");
}

#[test]
fn a_plugin_that_tells_no_numa_nodes_gives_what_is_best_across_them() {
    let mut h100 = with_policy(dgx_h100(), "single-numa-node");
    let split = &[0, 1, 4, 5];
    check(&on(&h100, split, &pod(&["main 4"])), "KubeletWouldRefuse");
    h100.plugins[0].unaligned = true;
    check(&on(&h100, split, &pod(&["main 4"])), "0145@any");
    check(&on(&h100, split, &pod(&["main 4+4"])), "0145@0");
    check(&on(&h100, &[0, 1, 2, 3, 4], &pod(&["main 1"])), "4@any");
}

#[test]
fn each_policy_rejects_what_it_must() {
    let answers = |free: &[usize], claim: &[&str]| {
        ["none", "best-effort", "restricted", "single-numa-node"].map(|policy| {
            match on(&with_policy(dgx_h100(), policy), free, &pod(claim)) {
                Ok(placement) => placement.gpus.len().to_string(),
                Err(refusal) => refusal.kind().to_owned(),
            }
        })
    };
    let split = &[0, 1, 4, 5];
    assert_eq!(
        answers(split, &["main 4"]),
        ["4", "4", "KubeletWouldRefuse", "KubeletWouldRefuse"]
    );
    let all = &[0, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(
        answers(all, &["main 5"]),
        ["5", "5", "5", "KubeletNeverAdmits"]
    );
    assert_eq!(
        answers(&[0], &["main 5"]),
        [
            "NotEnoughFree",
            "NotEnoughFree",
            "NotEnoughFree",
            "KubeletNeverAdmits"
        ]
    );
}

#[test]
fn what_the_kubelet_forces_and_links_forbid_is_refused_until_others_leave() {
    // Bridges (0,2)(1,3)(4,6)(5,7): of NUMA node 0 the unjoined GPUs 0 and 1 are free.
    let bridges = with_policy(a100_bridges(), "single-numa-node");
    let claim = joined(pod(&["main 2"]));
    check(&on(&bridges, &[0, 1, 4, 6], &claim), "KubeletWouldRefuse");
    check(&on(&bridges, &[0, 1, 2, 4, 6], &claim), "02@0");
    check(&on(&bridges, &[1, 4, 6], &claim), "46@1");
    check(&on(&bridges, &[0, 1], &claim), "LinkTooWeak");
}

#[test]
fn a_pod_that_fits_only_beside_others_is_not_refused_for_good() {
    // NUMA node 0 has no bridge, and the kubelet takes it while it can.
    let status = machine(&[0, 0, 1, 1], |a, b| {
        let speed = if (a, b) == (2, 3) { 300.0 } else { 0.0 };
        (berth_topology::link::Path::Node, speed)
    });
    let status = with_policy(status, "single-numa-node");
    let claim = joined(pod(&["main 2"]));
    check(&on(&status, &[0, 1, 2, 3], &claim), "KubeletNeverAdmits");
    check(&on(&status, &[0, 2], &claim), "KubeletWouldRefuse");
    check(&on(&status, &[0, 2, 3], &claim), "23@1");
}

#[test]
fn exclusive_cpus_decide_where_gpus_come_from() {
    let mut status = dgx_h100();
    for (node, cpus) in status.numa.iter_mut().zip(["0-7", "8-15"]) {
        node.cpus = cpus.parse().unwrap();
    }
    let status = with_policy(status, "restricted");
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    let claim = pod(&["main 2+6"]);
    check(&on_with_cpus(&status, &all, "", &claim), "01@0");
    check(&on_with_cpus(&status, &all, "1-4", &claim), "45@1");
    check(
        &on_with_cpus(&status, &all, "1-4,8-11", &claim),
        "KubeletWouldRefuse",
    );
    // CPU 0 is reserved, so eight are only on node 1.
    check(
        &on_with_cpus(&status, &all, "", &pod(&["main 2+8"])),
        "45@1",
    );
    check(
        &on_with_cpus(&status, &all, "", &pod(&["main 2+16"])),
        "KubeletNeverAdmits",
    );
}

#[test]
fn containers_are_admitted_one_by_one_or_as_a_pod() {
    let free = [0, 1, 2, 4, 5, 6, 7];
    let claim = pod(&["main 2", "main 2"]);
    let one_by_one = with_policy(dgx_h100(), "single-numa-node/container");
    check(&on(&one_by_one, &free, &claim), "01@0 45@1");
    let as_a_pod = with_policy(dgx_h100(), "single-numa-node/pod");
    check(&on(&as_a_pod, &free, &claim), "45@1 67@1");
}

#[test]
fn a_container_without_gpus_may_be_what_is_rejected() {
    let mut status = dgx_h100();
    for (node, cpus) in status.numa.iter_mut().zip(["0-7", "8-15"]) {
        node.cpus = cpus.parse().unwrap();
    }
    let status = with_policy(status, "single-numa-node");
    let claim = pod(&["main 2", "main 0+12"]);
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    check(&on(&status, &all, &claim), "KubeletNeverAdmits");
}

#[test]
fn init_containers_come_first_and_their_gpus_are_used_again() {
    let none = with_policy(dgx_h100(), "none");
    check(
        &on(&none, &[1, 2, 4, 5, 6, 7], &pod(&["init 2", "main 4"])),
        "45@any 4567@any",
    );
    // The sidecar keeps one of the two, and only then the second init container comes.
    let claim = pod(&["init 2", "sidecar 2", "init 1", "main 2"]);
    assert_eq!(claim.gpu_count(), 4);
    let placement = on(&none, &[0, 1, 2, 3, 4], &claim).unwrap();
    assert_eq!(placement.gpus.len(), 4);
    assert_eq!(placement.inexact, None);
    let single = with_policy(dgx_h100(), "single-numa-node");
    check(
        &on(&single, &[0, 4, 5, 6, 7], &pod(&["init 1", "main 4"])),
        // The init container is put on node 0, and its GPU must be of the next one's.
        "KubeletWouldRefuse",
    );
}

#[test]
fn greedy_init_containers_leave_the_choice_to_chance() {
    let none = with_policy(dgx_h100(), "none");
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    check(
        &on(&none, &all, &pod(&["init 4", "main 2"])),
        "0123@any 01@any ReusedAtRandom",
    );
    check(
        &on(&none, &all, &pod(&["init 4", "main 4"])),
        "0123@any 0123@any",
    );
}

#[test]
fn an_init_container_leaves_room_for_those_after_it() {
    // The best three for the init container alone are not where the pairs after it are joined.
    let bridges = with_policy(a100_bridges(), "none");
    let mut claim = pod(&["init 3", "main 2", "main 2"]);
    for container in &mut claim.containers {
        container.claim.link = LinkClass::NvLink;
        container.claim.link_policy = LinkPolicy::Require;
    }
    let placement = on(&bridges, &[1, 0, 2, 4, 5, 6], &claim).unwrap();
    assert_eq!(placement.gpus, set(&[0, 2, 4, 6]));
}

#[test]
fn a_promise_is_exact_only_where_all_that_decides_is_known() {
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    let doubt = |change: &dyn Fn(&mut Status), claim: &PodClaim| {
        let mut status = with_policy(dgx_h100(), "restricted");
        change(&mut status);
        on(&status, &all, claim).unwrap().inexact
    };
    let two = pod(&["main 2"]);
    let with_cpus = pod(&["main 2+1"]);
    assert_eq!(doubt(&|_| {}, &two), None);
    assert_eq!(doubt(&|_| {}, &with_cpus), None);
    let check = |change: &dyn Fn(&mut Status), claim: &PodClaim, expected| {
        assert_eq!(doubt(change, claim), Some(expected));
    };
    check(
        &|status| status.plugins.clear(),
        &two,
        Inexact::PluginNotOurs,
    );
    check(
        &|status| status.plugins[0].owner = PluginOwner::Other,
        &two,
        Inexact::PluginNotOurs,
    );
    check(
        &|status| status.plugins[0].registered = false,
        &two,
        Inexact::PluginNotRegistered,
    );
    let unknown = |status: &mut Status| status.kubelet = Kubelet::unknown();
    check(&unknown, &two, Inexact::PolicyUnknown);
    check(
        &|status| status.kubelet.topology_manager_scope = "unknown".to_owned(),
        &pod(&["main 2", "main 0"]),
        Inexact::ScopeUnknown,
    );
    check(
        &|status| status.kubelet.topology_manager_policy_options = None,
        &two,
        Inexact::OptionsUnknown,
    );
    check(
        &|status| status.kubelet.cpu_manager_policy = "unknown".to_owned(),
        &with_cpus,
        Inexact::CpusUnknown,
    );
    check(
        &|status| status.kubelet.memory_manager_policy = Some("Static".to_owned()),
        &two,
        Inexact::MemoryManager,
    );
    let mut beside_nics = two.clone();
    beside_nics.needs.containers[0].has_other_devices = true;
    check(&|_| {}, &beside_nics, Inexact::OtherDevices);
}

/// Its hint needs the memory that is reserved and held on each NUMA node, which nobody publishes. It has
/// one for guaranteed pods only (`policy_static.go`), and only an aligning topology manager asks for it.
#[test]
fn memory_by_numa_node_is_not_foreseen_and_never_refuses() {
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    let placed = |topology: &str, memory: Option<&str>, is_guaranteed: bool| {
        let mut status = with_policy(dgx_h100(), topology);
        status.kubelet.memory_manager_policy = memory.map(str::to_owned);
        let mut claim = pod(&["main 2"]);
        claim.needs.is_guaranteed = is_guaranteed;
        on(&status, &all, &claim).unwrap()
    };
    let policies = ["none", "best-effort", "restricted", "single-numa-node"];
    let scopes = ["container", "pod"];
    let pairs = policies
        .iter()
        .flat_map(|policy| scopes.map(|scope| (*policy, scope)));
    for (policy, scope) in pairs {
        let topology = format!("{policy}/{scope}");
        let foreseen = placed(&topology, Some("None"), true);
        assert_eq!(foreseen.inexact, None, "{topology}");
        for memory in [Some("Static"), Some("BestEffort"), None] {
            let guaranteed = placed(&topology, memory, true);
            let doubt = (policy != "none").then_some(Inexact::MemoryManager);
            assert_eq!(guaranteed.inexact, doubt, "{topology} {memory:?}");
            assert_eq!(guaranteed.gpus, foreseen.gpus, "{topology} {memory:?}");
            let burstable = placed(&topology, memory, false);
            assert_eq!(burstable.inexact, None, "{topology} {memory:?}");
        }
    }
}

#[test]
fn a_kubelet_allows_eight_numa_nodes_unless_told_otherwise() {
    let nine = machine(&[0, 1, 2, 3, 4, 5, 6, 7, 8], |_, _| {
        (berth_topology::link::Path::System, 0.0)
    });
    let status = with_policy(nine.clone(), "restricted");
    let all = [0, 1, 2, 3, 4, 5, 6, 7, 8];
    let placement = on(&status, &all, &pod(&["main 1"])).unwrap();
    assert_eq!(placement.inexact, Some(Inexact::TooManyNumaNodes));
    let none = with_policy(nine, "none");
    assert_eq!(on(&none, &all, &pod(&["main 1"])).unwrap().inexact, None);
}

#[test]
fn gpus_of_unknown_numa_nodes_are_taken_as_the_plugin_likes() {
    let mut status = with_policy(dgx_h100(), "single-numa-node");
    for gpu in &mut status.gpus {
        gpu.numa_node = None;
    }
    check(
        &on(&status, &[2, 3, 4, 5, 6], &pod(&["main 4"])),
        "2345@any",
    );
}
