//! What is said of a node of a cluster: who gives the GPUs out, the kubelet's policies, Berth itself.

use super::*;

#[test]
fn who_gives_the_gpus_decides_what_a_promise_is_worth() {
    let plugin = |owner, registered, exact| Plugin {
        resource: "nvidia.com/gpu".to_owned(),
        owner,
        registered,
        exact,
        unaligned: false,
    };
    let mut status = status("hgx-a100-4");
    status.plugins = vec![
        plugin(PluginOwner::Berth, true, true),
        plugin(PluginOwner::Berth, true, false),
        plugin(PluginOwner::Berth, false, false),
        plugin(PluginOwner::Other, true, false),
        plugin(PluginOwner::Dra, true, false),
        plugin(PluginOwner::None, false, false),
    ];
    check(
        &of(status),
        &["device-plugin"],
        expect![[r#"
        it: 3 errors, 1 warning, 1 note, 1 ok
        error    device-plugin   nvidia.com/gpu: Berth's device plugin is not registered with the kubelet: pods do not start
                   read owner berth, not registered, not exact (status.plugins of it)
                   fix: see the agent's log; the kubelet's folder must be mounted and belong to root
        error    device-plugin   nvidia.com/gpu: a DRA driver serves it: Berth places no pod here
                   read owner dra, registered, not exact (status.plugins of it)
                   fix: keep DRA-backed nodes out of Berth's scheduler, or take the driver off
        error    device-plugin   nvidia.com/gpu: nobody serves it: no pod gets a GPU
                   read owner none, not registered, not exact (status.plugins of it)
                   fix: install NVIDIA's device plugin, or start the agent with --device-plugin
        warning  device-plugin   nvidia.com/gpu: another device plugin gives GPUs as it likes: what is promised is a prediction
                   read owner other, registered, not exact (status.plugins of it)
                   fix: daemonset/optional/device-plugin.yaml, after taking the other plugin off the node
        note     device-plugin   nvidia.com/gpu: Berth's device plugin gives what was promised, as far as the kubelet's topology manager lets it
                   read owner berth, registered, not exact (status.plugins of it)
                   fix: --numa-hints=off gives the promised set whatever the policy is, without aligning CPUs
        ok       device-plugin   nvidia.com/gpu: a pod gets exactly what it was promised
    "#]],
    );
}

#[test]
fn a_node_without_the_resource_has_no_plugin() {
    let mut facts = of(status("hgx-a100-4"));
    let mut cluster = cluster();
    cluster.node.allocatable.clear();
    facts.cluster = Ok(cluster);
    check(
        &facts,
        &["device-plugin"],
        expect![[r#"
        it: 1 error
        error    device-plugin   the Node has no nvidia.com/gpu: no device plugin serves its 4 GPUs
                   read absent or 0 (status.allocatable of the Node, nvidia.com/gpu)
                   read absent (status.plugins of it)
                   fix: install NVIDIA's device plugin, or start the agent with --device-plugin
    "#]],
    );
}

#[test]
fn policies_that_keep_promises_from_being_exact_are_told() {
    let mut facts = of(status("gb200-tray"));
    let policies = |topology: &str, cpu: &str| Kubelet {
        topology_manager_policy: topology.to_owned(),
        topology_manager_scope: "container".to_owned(),
        cpu_manager_policy: cpu.to_owned(),
        memory_manager_policy: Some("Static".to_owned()),
        ..Kubelet::default()
    };
    facts.configz = Ok(policies("single-numa-node", "none"));
    check(
        &facts,
        &["kubelet"],
        expect![[r#"
            it: 2 warnings, 2 notes
            warning  kubelet         34 NUMA nodes with topology manager single-numa-node, which allows 8: what it takes is not foreseen, and a kubelet without the option does not start
                       read single-numa-node (the kubelet's configz)
                       read 34 (status.numa)
                       fix: topologyManagerPolicyOptions: {max-allowable-numa-nodes: "N"}, or topologyManagerPolicy: none
            warning  kubelet         single-numa-node admits no container of more than 2 GPUs, of 4 here
                       read single-numa-node (the kubelet's configz)
                       read node 0: 2, node 1: 2 (status.gpus[].numaNode)
                       fix: topologyManagerPolicy: restricted or best-effort; or keep larger pods off the node
            note     kubelet         topology manager single-numa-node aligns GPUs with nothing: the CPU manager gives no CPUs of their own
                       read topology manager single-numa-node (scope container), CPU manager none, memory manager Static (the kubelet's configz)
                       fix: cpuManagerPolicy: static with reservedSystemCPUs
            note     kubelet         the memory manager gives memory by NUMA node: for guaranteed pods no promise is exact
                       read Static (the kubelet's configz)
                       fix: memoryManagerPolicy: None, where promises matter more
        "#]],
    );
    facts.configz = Ok(policies("none", "static"));
    facts.status.as_mut().unwrap().kubelet = policies("restricted", "static");
    check(
        &facts,
        &["kubelet"],
        expect![[r#"
        it: 2 warnings, 2 notes
        warning  kubelet         the agent publishes other policies than the kubelet runs with: the extender foresees the wrong kubelet
                   read topology manager none (scope container), CPU manager static, memory manager Static (the kubelet's configz)
                   read topology manager restricted (scope container), CPU manager static, memory manager Static (status.kubelet of it)
                   fix: restart the agent's pod; if it stays, see how it reads the kubelet's configuration
        warning  kubelet         the CPU manager gives CPUs of their own without looking at GPUs: a pod's CPUs may be on the other socket
                   read topology manager none (scope container), CPU manager static, memory manager Static (the kubelet's configz)
                   fix: topologyManagerPolicy: restricted (or best-effort)
        note     kubelet         which CPUs the kubelet keeps for the system is not known: exclusive CPUs are not foreseen
                   read absent (the kubelet's configz)
                   fix: reservedSystemCPUs in the kubelet's configuration
        note     kubelet         the memory manager gives memory by NUMA node: for guaranteed pods no promise is exact
                   read Static (the kubelet's configz)
                   fix: memoryManagerPolicy: None, where promises matter more
    "#]],
    );
}

#[test]
fn what_keeps_the_agent_from_knowing_the_policies_is_told() {
    let mut status = status("hgx-a100-4");
    status.unknowns.push(Unknown {
        what: "kubelet".to_owned(),
        why: "its configuration: the account may not get nodes/configz (403)".to_owned(),
    });
    check(
        &of(status),
        &["kubelet"],
        expect![[r#"
            it: 1 unknown
            unknown  kubelet         the kubelet's policies are not known: no promise is exact but with --numa-hints=off
                       read unknown (status.kubelet.topologyManagerPolicy of it)
                       read its configuration: the account may not get nodes/configz (403) (status.unknowns of it)
                       read nobody looked (configz)
                       fix: start the agent with --kubelet-configz or --kubelet-config; berth doctor --node NODE reads them through the API server (get nodes/proxy)
        "#]],
    );
}

#[test]
fn a_cluster_in_order_is_told_so() {
    let mut facts = of(status("hgx-a100-4"));
    facts.cluster = Ok(cluster());
    facts.extender = Ok(Extender {
        url: "http://127.0.0.1:8888/".to_owned(),
        is_given: true,
        answer: Ok((200, "ready".to_owned())),
    });
    check(
        &facts,
        &["cluster", "extender"],
        expect![[r#"
        it: 6 ok
        ok       cluster         the Node is ready
        ok       cluster         the agent's pod runs
        ok       cluster         the agent renews its Lease
        ok       cluster         the CRD is of this version
        ok       extender        scheduler and extender are ready
        ok       extender        the extender answers and is ready
    "#]],
    );
}

#[test]
fn what_is_missing_in_a_cluster_is_told_with_the_way_out() {
    let mut facts = of(status("hgx-a100-4"));
    facts.cluster = Ok(InCluster {
        node: SeenNode {
            is_ready: Some(false),
            labels: BTreeMap::from([("nvidia.com/gpu.clique".to_owned(), "x.1".to_owned())]),
            ..SeenNode::default()
        },
        lease: Ok(Some(SeenLease {
            renew_time: "2026-11-26T12:00:00Z".to_owned(),
            was_renewed: Some(false),
            watched_seconds: 20,
        })),
        crd: Ok(Some(SeenCrd {
            served: vec!["v1alpha1".to_owned()],
            fields: BTreeSet::new(),
            expected_fields: BTreeSet::from(["status.gpus".to_owned()]),
        })),
        agents: Ok(Vec::new()),
        pods: Err("pods is forbidden".to_owned()),
        scheduler: Ok(Some(SeenScheduler {
            wanted: 2,
            ready: 0,
        })),
    });
    facts.extender = Ok(Extender {
        url: "http://127.0.0.1:1".to_owned(),
        is_given: false,
        answer: Err("connection refused".to_owned()),
    });
    check(
        &facts,
        &["cluster", "extender", "fabric", "promises"],
        expect![[r#"
            it: 3 errors, 1 warning, 2 notes, 2 unknown
            error    cluster         the Node is not ready: no pod comes here
                       read Ready is not True (status.conditions)
                       fix: kubectl describe node NODE; journalctl -u kubelet on it
            error    cluster         the agent does not renew its Lease: the extender refuses the node as stale
                       read 2026-11-26T12:00:00Z, watched for 20 s (spec.renewTime of the Lease in berth-system)
                       fix: see the agent's log: a probe that hangs in the driver keeps it from renewing
            error    extender        no replica of scheduler and extender is ready: GPU pods stay pending
                       read 0 of 2 ready (Deployment berth-scheduler in berth-system)
                       fix: kubectl -n berth-system describe deployment berth-scheduler
            warning  fabric          the label nvidia.com/gpu.clique is not what NVML says
                       read x.1 (label nvidia.com/gpu.clique of the Node)
                       read no one clique (status.gpus[].fabric of it)
                       fix: restart NVIDIA's GPU feature discovery (or DRA driver) on the node; Berth goes by NVML
            note     cluster         no pod of the agent is on the node
                       read none (pods of berth-system on the node, app.kubernetes.io/name=berth-node-agent)
                       fix: kubectl apply -f daemonset/
            note     cluster         the CRD is older than this program: it keeps fields that it does not know unchecked
                       read status.gpus (CRD nodetopologies.berth.dev)
                       fix: kubectl apply -f daemonset/crd.yaml
            unknown  promises        the node's pods cannot be read
                       read pods is forbidden (pods of the node)
            unknown  extender        no extender was reached
                       read connection refused (http://127.0.0.1:1/readyz)
                       fix: kubectl -n berth-system port-forward deploy/berth-scheduler 8888, and --extender http://127.0.0.1:8888
        "#]],
    );
}

#[test]
fn a_promise_is_compared_with_what_was_given() {
    let mut status = status("hgx-a100-4");
    let uuid = |index: usize| status.gpus[index].uuid.clone();
    let rank = |rank: usize, index: usize| Rank {
        rank,
        gpu: Some(uuid(index)),
        ..Rank::default()
    };
    let promised = ContainerAssignment {
        ranks: vec![rank(0, 1), rank(1, 0)],
        ..ContainerAssignment::default()
    };
    let pod = |uid: &str| SeenPod {
        name: format!("default/{uid}"),
        uid: uid.to_owned(),
        gpus_max: 2,
        assignment: Some(Ok(Assignment {
            schema: names::SCHEMA.to_owned(),
            pod_uid: None,
            node: None,
            topology_hash: None,
            containers: BTreeMap::from([("c".to_owned(), promised.clone())]),
        })),
        has_own_shm: uid == "kept",
    };
    let given = |uid: &str, indices: [usize; 2]| Allocation {
        pod_uid: Some(uid.into()),
        container: "c".to_owned(),
        resource: names::DEFAULT_RESOURCE.to_owned(),
        devices: indices.map(uuid).to_vec(),
        ..Allocation::default()
    };
    let allocations = vec![given("kept", [0, 1]), given("broken", [0, 2])];
    status.allocations = allocations;
    let mut facts = of(status);
    let mut cluster = cluster();
    cluster.pods = Ok(vec![pod("kept")]);
    facts.cluster = Ok(cluster);
    check(
        &facts,
        &["promises", "shared-memory"],
        expect![[r#"
        it: 1 ok
        ok       promises        1 pods have exactly the GPUs that they were promised
    "#]],
    );
    facts.cluster.as_mut().unwrap().pods = Ok(vec![pod("kept"), pod("broken"), pod("untold")]);
    check(
        &facts,
        &["promises", "shared-memory"],
        expect![[r#"
        it: 1 warning, 1 note
        warning  promises        1 pods did not get what they were promised
                   read default/broken container c: promised GPU-1e89c073-a813-5f18-a98f-b6534ebaac5b GPU-651571fd-9d00-5970-99a0-3a87f42ed08c, given GPU-651571fd-9d00-5970-99a0-3a87f42ed08c GPU-ad91699b-ee19-5ba1-8cb7-9619cccbce06 (status.allocations of it)
                   fix: berth explain pod NAMESPACE/NAME says why the promise was not exact
        note     shared-memory   2 pods with several GPUs mount nothing at /dev/shm: they have 64 MiB
                   read default/broken (volumeMounts)
                   read default/untold (volumeMounts)
                   fix: mount an emptyDir with `medium: Memory` at /dev/shm
    "#]],
    );
}
