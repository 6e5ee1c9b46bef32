//! What is said of GPUs, links, NUMA nodes, buses and memory.

use super::*;

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
                   fix: start the agent with --kubelet-configz or --kubelet-config; berth doctor --node NODE reads them through the API server (get nodes/proxy)
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
                   fix: install NVIDIA's driver and see that `nvidia-smi` works; for an agent in a pod, NVIDIA's container toolkit and its RuntimeClass, or --driver-root
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
