//! Checks over facts of machines that are in order, broken, or unreadable.

use std::collections::{BTreeMap, BTreeSet};

use berth_topology::allocation::Allocation;
use berth_topology::assignment::{Assignment, ContainerAssignment, Rank};
use berth_topology::gpu::{Health, HealthState, Sharing};
use berth_topology::kubelet::{Kubelet, Plugin, PluginOwner};
use berth_topology::names;
use berth_topology::node::{Status, Unknown};
use berth_topology::raw::{Answer, RawMachine, RawNvml, RawPci};
use expect_test::{Expect, expect};

use super::check::findings;
use super::facts::*;
use super::finding::Severity;
use super::report;
use crate::paint::Paint;
use crate::source::recorded;

fn status(machine: &str) -> Status {
    let seen = recorded().expect("they parse").into_iter();
    let mut found = seen.filter(|seen| seen.name == machine);
    found.next().expect("a recorded machine").status
}

/// Nothing but what a NodeTopology says.
fn of(status: Status) -> Facts {
    let unread = || "nobody looked".to_owned();
    Facts {
        subject: "it".to_owned(),
        status: Ok(status),
        status_from: "it".to_owned(),
        raw: Err(unread()),
        host: Err(unread()),
        configz: Err(unread()),
        cluster: Err(unread()),
        extender: Err(unread()),
    }
}

fn host() -> Host {
    let files = ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"];
    Host {
        driver_module: Ok(Some("NVRM version: NVIDIA UNIX  550.54.15  x".to_owned())),
        modules: Ok(BTreeSet::from(["nvidia".to_owned()])),
        device_files: Ok(files.map(str::to_owned).to_vec()),
        command_line: Ok("quiet intel_iommu=on".to_owned()),
        iommu_types: BTreeMap::new(),
        acs: BTreeMap::from([("0000:00:01.0".to_owned(), Ok(None))]),
        interrupts: Vec::new(),
        shm_bytes: Ok(8 << 30),
        transparent_huge_pages: Ok("always [madvise] never".to_owned()),
        plugin_sockets: Ok(None),
    }
}

fn cluster() -> InCluster {
    InCluster {
        node: SeenNode {
            is_ready: Some(true),
            kubelet_version: "v1.37.1".to_owned(),
            allocatable: BTreeMap::from([(names::DEFAULT_RESOURCE.to_owned(), "8".to_owned())]),
            ..SeenNode::default()
        },
        lease: Ok(Some(SeenLease {
            renew_time: "2026-11-26T12:00:00Z".to_owned(),
            was_renewed: Some(true),
            watched_seconds: 9,
        })),
        crd: Ok(Some(SeenCrd {
            served: vec!["v1alpha1".to_owned()],
            fields: BTreeSet::from(["status.gpus".to_owned()]),
            expected_fields: BTreeSet::from(["status.gpus".to_owned()]),
        })),
        agents: Ok(vec![SeenAgent {
            name: "berth-node-agent-x".to_owned(),
            phase: "Running".to_owned(),
            is_ready: true,
            restart_count: 0,
            reason: None,
        }]),
        pods: Ok(Vec::new()),
        scheduler: Ok(Some(SeenScheduler {
            wanted: 2,
            ready: 2,
        })),
    }
}

/// What those checks say, a line each, with evidence and fix.
#[track_caller]
fn check(facts: &Facts, checks: &[&str], expected: Expect) {
    let mut findings = findings(facts);
    findings.retain(|finding| checks.contains(&finding.check));
    expected.assert_eq(&report::text("it", &findings, Paint::none()));
}

#[test]
fn nothing_is_ok_where_nothing_could_be_read() {
    let mut facts = of(Status::default());
    facts.status = Err("it did not answer".to_owned());
    for finding in findings(&facts) {
        assert_ne!(finding.severity, Severity::Ok, "{finding:?}");
        assert!(!finding.evidence.is_empty(), "{finding:?}");
    }
}

#[test]
fn every_finding_has_evidence_and_every_bad_one_a_way_out() {
    let mut all = Vec::new();
    for seen in recorded().unwrap() {
        let mut facts = of(seen.status);
        all.extend(findings(&facts));
        facts.host = Ok(host());
        facts.cluster = Ok(cluster());
        all.extend(findings(&facts));
    }
    assert!(all.len() > 17 * 20);
    for finding in all {
        assert!(!finding.evidence.is_empty(), "{finding:?}");
        assert!(
            finding.severity < Severity::Warning || finding.fix.is_some(),
            "{finding:?}"
        );
        assert!(!finding.message.ends_with('.'), "{finding:?}");
    }
}

#[test]
fn a_machine_in_order_is_told_so_and_what_its_record_lacks_is_unknown() {
    let findings = findings(&of(status("dgx-h100")));
    expect![[r#"
        it: 12 unknown, 7 ok
        unknown  driver          the driver's version is not known
                   read nobody looked (NVML)
        unknown  numa-agreement  whether NVML said the same as sysfs is not known
                   read absent (status.gpus[].memoryAffinity of it)
        unknown  sharing         whether GPUs are shared is not known: nobody asks the kubelet
                   read absent (status.plugins of it)
                   fix: start the agent with --pod-resources-socket
        unknown  acs             it takes the machine itself to tell
                   read nobody looked (/sys and /proc)
                   fix: run `berth doctor` on it, as root
        unknown  iommu           it takes the machine itself to tell
                   read nobody looked (/sys and /proc)
                   fix: run `berth doctor` on it, as root
        unknown  interrupts      it takes the machine itself to tell
                   read nobody looked (/sys and /proc)
                   fix: run `berth doctor` on it, as root
        unknown  huge-pages      huge pages are not known
                   read absent (status.numa[].hugePages of it)
        unknown  shared-memory   the size of /dev/shm is not known
                   read nobody looked (statvfs of /dev/shm)
        unknown  kubelet         the kubelet's policies are not known: no promise is exact but with --numa-hints=off
                   read unknown (status.kubelet.topologyManagerPolicy of it)
                   read nobody looked (configz)
                   fix: berth doctor --node NODE reads them through the API server (get nodes/proxy)
        unknown  device-plugin   who gives GPUs to containers is not known: promises count as predictions
                   read absent (status.plugins of it)
                   fix: start the agent with --pod-resources-socket, or with --device-plugin instead of NVIDIA's
        unknown  cluster         the cluster was not asked: Lease, CRD, pods
                   read nobody looked (API server)
                   fix: berth doctor --node NODE
        unknown  extender        no extender was asked
                   read nobody looked (/readyz)
        ok       agent           the agent could read everything that it looks for
        ok       gpus            NVML lists 8 GPUs
        ok       health          all GPUs are healthy
        ok       nvlink          all NVLink lanes are active, 28 pairs joined
        ok       pcie            all PCIe links are as fast and wide as they can be
        ok       numa            2 NUMA nodes with CPUs, and each GPU's is known
        ok       mig             MIG is off
    "#]].assert_eq(&report::text("it", &findings, Paint::none()));
}

#[test]
fn links_that_are_less_than_they_should_be_are_named() {
    let mut status = status("dgx-h100");
    let nvlink = status.gpus[2].nvlink.as_mut().unwrap();
    nvlink.lanes = 17;
    let pcie = status.gpus[5].pcie.as_mut().unwrap();
    (pcie.width, pcie.generation) = (Some(8), Some(1));
    check(
        &of(status),
        &["nvlink", "pcie"],
        expect![[r#"
        it: 2 warnings, 1 note
        warning  nvlink          NVLink lanes are down at GPU 2
                   read 17 of 18 lanes (status.gpus[index 2].nvlink of it)
                   fix: `nvidia-smi nvlink -s` and `-e` show which and why; reseat the bridge or baseboard, reset all GPUs together
        warning  pcie            PCIe links of GPU 5 have lost lanes
                   read Gen1 x8, at most Gen5 x16 (status.gpus[index 5].pcie of it)
                   fix: reseat the GPU or its riser; `lspci -vv` shows LnkSta and LnkCap on both ends
        note     pcie            PCIe links of GPU 5 were not seen at full speed yet
                   read Gen1 x8, at most Gen5 x16 (status.gpus[index 5].pcie of it)
                   fix: links idle at Gen1: look again under load; if it stays, see LnkSta in `lspci -vv` and the BIOS
    "#]],
    );
}

#[test]
fn idle_pcie_links_are_a_note() {
    check(
        &of(status("pix-8")),
        &["pcie"],
        expect![[r#"
        it: 1 note
        note     pcie            PCIe links of GPUs 0, 1, 2, 3, 4, 5, 6, 7 were not seen at full speed yet
                   read Gen1 x16, at most Gen4 x16 (status.gpus[index 0].pcie of it)
                   read Gen1 x16, at most Gen4 x16 (status.gpus[index 1].pcie of it)
                   read Gen1 x16, at most Gen4 x16 (status.gpus[index 2].pcie of it)
                   read Gen1 x16, at most Gen4 x16 (status.gpus[index 3].pcie of it)
                   read Gen1 x16, at most Gen4 x16 (status.gpus[index 4].pcie of it)
                   read Gen1 x16, at most Gen4 x16 (status.gpus[index 5].pcie of it)
                   read Gen1 x16, at most Gen4 x16 (status.gpus[index 6].pcie of it)
                   read Gen1 x16, at most Gen4 x16 (status.gpus[index 7].pcie of it)
                   fix: links idle at Gen1: look again under load; if it stays, see LnkSta in `lspci -vv` and the BIOS
    "#]],
    );
}

#[test]
fn gpus_that_cannot_be_used_are_errors_with_the_agents_reasons() {
    let mut status = status("dgx-a100");
    status.gpus[1].health = Health {
        state: HealthState::Failed,
        reasons: vec!["the GPU fell off the bus".to_owned()],
        ..Health::default()
    };
    status.gpus[4].health.state = HealthState::Degraded;
    status.gpus[6].health.state = HealthState::Unknown;
    check(
        &of(status),
        &["health"],
        expect![[r#"
        it: 1 error, 1 warning, 1 unknown
        error    health          GPU 1 failed: no pod gets it
                   read failed: the GPU fell off the bus (status.gpus[index 1].health of it)
                   fix: drain the node, `nvidia-smi --gpu-reset -i INDEX` or restart it; replace the GPU if it comes back
        warning  health          GPU 4 degraded: usable, and less than its model promises
                   read degraded (status.gpus[index 4].health of it)
                   fix: see `nvidia-smi -q` for what is pending; a reset takes up what waits for one
        unknown  health          whether GPU 6 can be used is not known: no pod gets it
                   read unknown (status.gpus[index 6].health of it)
    "#]],
    );
}

#[test]
fn numa_nodes_that_are_unknown_or_told_differently_are_warnings() {
    let mut status = status("l40s-4");
    status.gpus[0].numa_node = None;
    status.unknowns.push(Unknown {
        what: "gpu 0: numaNode".to_owned(),
        why: "sysfs numa_node is -1: the firmware does not say".to_owned(),
    });
    status.gpus[3].memory_affinity = Some("0".parse().unwrap());
    check(
        &of(status),
        &["numa", "numa-agreement"],
        expect![[r#"
        it: 2 warnings
        warning  numa            the NUMA node of GPU 0 is not known: ranks cannot be put near them
                   read sysfs numa_node is -1: the firmware does not say (status.gpus[index 0].numaNode of it)
                   fix: set NUMA (SRAT, PXM of the root ports) in the BIOS; in a virtual machine pass the topology through (QEMU: pxb-pcie with numa_node)
        warning  numa-agreement  sysfs and NVML disagree on the NUMA node of GPU 3
                   read sysfs 1, NVML 0 (status.gpus[index 3].numaNode and memoryAffinity of it)
                   fix: sysfs is taken; update BIOS and driver, and compare with `nvidia-smi topo -m`
    "#]],
    );
}

#[test]
fn mig_without_instances_and_shared_gpus_are_warnings() {
    let mut status = status("dgx-a100");
    status.gpus[0].mig.as_mut().unwrap().mode = "enabled".to_owned();
    status.gpus[1].sharing = Some(Sharing {
        kind: "time-slicing or mps".to_owned(),
        replicas: 4,
    });
    check(
        &of(status),
        &["mig", "sharing"],
        expect![[r#"
        it: 2 warnings, 1 note
        warning  mig             MIG is on at GPU 0 without an instance: no pod gets it
                   read enabled, no instances (status.gpus[index 0].mig of it)
                   fix: create instances (`nvidia-smi mig -cgi PROFILE -C -i INDEX`), or turn MIG off (`nvidia-smi -mig 0 -i INDEX`)
        warning  sharing         GPU 1 shared by several pods: no set of theirs is promised exactly
                   read time-slicing or mps, 4 replicas (status.gpus[index 1].sharing of it)
                   fix: take `sharing` out of the device plugin's configuration on nodes for tensor-parallel pods
        note     mig             MIG is on at some GPUs and off at others: they are devices of different resources
                   read enabled, no instances (status.gpus[index 0].mig of it)
    "#]],
    );
}

#[test]
fn who_gives_the_gpus_decides_what_a_promise_is_worth() {
    let plugin = |owner, registered, exact| Plugin {
        resource: "nvidia.com/gpu".to_owned(),
        owner,
        registered,
        exact,
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
fn bridges_that_redirect_and_interrupts_that_are_far_are_seen() {
    let mut facts = of(status("l40s-4"));
    let mut host = host();
    host.acs.insert("0000:00:03.1".to_owned(), Ok(Some(0x001d)));
    host.acs.insert(
        "0000:40:01.1".to_owned(),
        Err("only 64 bytes may be read".to_owned()),
    );
    host.iommu_types
        .insert("0000:01:00.0".to_owned(), Ok(Some("DMA-FQ".to_owned())));
    host.shm_bytes = Ok(64 << 20);
    host.transparent_huge_pages = Ok("always madvise [never]".to_owned());
    host.interrupts.push(Interrupts {
        bus_id: "0000:01:00.0".to_owned(),
        local: "0-95,192-287".parse().unwrap(),
        cpus: BTreeMap::from([
            (40, Ok("3".parse().unwrap())),
            (41, Ok("100-120".parse().unwrap())),
        ]),
    });
    facts.host = Ok(host);
    let names = [
        "acs",
        "iommu",
        "interrupts",
        "shared-memory",
        "huge-pages",
        "device-files",
    ];
    check(
        &facts,
        &names,
        expect![[r#"
        it: 1 error, 2 warnings, 2 notes, 2 unknown
        error    device-files    /dev lacks nvidia2, nvidia3
                   read nvidia0 nvidia1 nvidiactl nvidia-uvm (/dev)
                   fix: `nvidia-modprobe -u -c=0`, or start nvidia-persistenced
        warning  acs             1 of 3 PCI bridges above GPUs and RDMA cards redirect peer traffic (ACS)
                   read 0x001d (ACS control register, /sys/bus/pci/devices/0000:00:03.1/config)
                   fix: turn ACS off in the BIOS, or `setpci -s BRIDGE ECAP_ACS+0x6.w=0000` for each; not in a virtual machine, which needs it
        warning  shared-memory   /dev/shm is as small as a container's default
                   read 64 MiB (statvfs of /dev/shm)
                   fix: in a pod, mount an emptyDir with `medium: Memory` at /dev/shm; else `mount -o remount,size=50% /dev/shm`
        note     iommu           the IOMMU translates what GPUs read and write: peer transfers may be slower
                   read DMA-FQ (/sys/bus/pci/devices/0000:01:00.0/iommu_group/type)
                   read intel_iommu=on (/proc/cmdline)
                   fix: boot with iommu=pt (and intel_iommu=on or amd_iommu=on), if no untrusted device needs more
        note     interrupts      interrupts of 1 devices go to CPUs of other NUMA nodes
                   read 0000:01:00.0: 1 of 2 interrupts far from CPUs 0-95,192-287, such as 41 on CPUs 100-120 (/proc/irq/41/effective_affinity_list)
                   fix: irqbalance with --hintpolicy=subset, or write the NUMA node's CPUs into /proc/irq/N/smp_affinity_list
        unknown  acs             whether PCI bridges redirect peer traffic (ACS) is not known
                   read only 64 bytes may be read (ACS control register, /sys/bus/pci/devices/0000:40:01.1/config)
                   fix: run it as root
        unknown  huge-pages      huge pages are not known
                   read absent (status.numa[].hugePages of it)
    "#]],
    );
}

#[test]
fn gpus_on_the_bus_that_nvml_does_not_list_are_errors() {
    let gpu = RawPci {
        vendor: Some("0x10de".to_owned()),
        class: Some("0x030200".to_owned()),
        ..RawPci::default()
    };
    let mut raw = RawMachine {
        nvml: Answer::failed("libnvidia-ml cannot be opened"),
        ..RawMachine::default()
    };
    let mut facts = of(Status::default());
    facts.raw = Ok(raw.clone());
    check(
        &facts,
        &["driver", "gpus"],
        expect![[r#"
        it: 2 notes
        note     driver          there is no NVIDIA GPU here, and no NVML
                   read libnvidia-ml cannot be opened (NVML)
        note     gpus            this machine has no GPU
                   read [] (status.gpus of it)
    "#]],
    );
    raw.sysfs.pci.insert("0000:01:00.0".to_owned(), gpu);
    facts.raw = Ok(raw.clone());
    check(
        &facts,
        &["driver"],
        expect![[r#"
        it: 1 error
        error    driver          NVML cannot be asked, and there is 1 NVIDIA GPU on PCI
                   read libnvidia-ml cannot be opened (NVML)
                   read not loaded, or not asked (/proc/driver/nvidia/version)
                   read 0000:01:00.0 (sysfs)
                   fix: install NVIDIA's driver and see that `nvidia-smi` works; for an agent in a pod, NVIDIA's container toolkit and its RuntimeClass
    "#]],
    );
    raw.nvml = Answer::Value(RawNvml {
        driver_version: Answer::Value("560.35".to_owned()),
        ..RawNvml::default()
    });
    facts.raw = Ok(raw);
    facts.host = Ok(host());
    check(
        &facts,
        &["driver", "gpus"],
        expect![[r#"
        it: 2 errors
        error    driver          the driver's library and its kernel module are of different releases
                   read 560.35 (nvmlSystemGetDriverVersion)
                   read NVRM version: NVIDIA UNIX  550.54.15  x (/proc/driver/nvidia/version)
                   fix: restart the node, or unload the module and load it again once nobody uses a GPU
        error    gpus            there is 1 NVIDIA GPU on PCI that NVML does not list
                   read 0000:01:00.0 (sysfs)
                   fix: look for `fallen off the bus` or `RmInitAdapter failed` in the kernel's log; reset or restart
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

#[test]
fn what_a_machine_says_cannot_write_to_the_terminal() {
    let mut status = status("hgx-a100-4");
    status.gpus[0].health = Health {
        state: HealthState::Failed,
        reasons: vec![format!("\x1b[31m{}\r\n", "x".repeat(5_000))],
        ..Health::default()
    };
    status.gpus[0].model = "\u{202e}evil\x07".to_owned();
    let findings = findings(&of(status));
    let text = report::text("a\x1b]0;b", &findings, Paint::none());
    assert!(text.lines().all(|line| !line.contains(char::is_control)));
    assert!(text.lines().all(|line| line.chars().count() < 1_000));
    let json = report::json("a\x1b]0;b", &findings).unwrap();
    assert!(
        !json.contains("\\u001b") && !json.contains('\u{202e}'),
        "{json}"
    );
}
