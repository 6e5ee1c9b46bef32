//! NUMA nodes: whether they are known, and whether those who tell agree.

use berth_topology::gpu::Gpu;

use super::{Finding, at, at_gpu, gpus, named, note, ok, status, unknown, warning};
use crate::doctor::facts::Facts;
use crate::show::count;

const FIX: &str = "set NUMA (SRAT, PXM of the root ports) in the BIOS; in a virtual machine pass the topology \
                   through (QEMU: pxb-pcie with numa_node)";

/// Whether each GPU's NUMA node is known; of little use where there is one.
pub(super) fn known(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let Some(status) = status(facts) else {
        return Vec::new();
    };
    let with_cpus = status
        .numa
        .iter()
        .filter(|node| !node.cpus.is_empty())
        .count();
    if with_cpus == 0 {
        return vec![
            unknown(check, "the machine's NUMA nodes are not known").read("[]", at(facts, "numa")),
        ];
    }
    let missing: Vec<&Gpu> = status
        .gpus
        .iter()
        .filter(|gpu| gpu.numa_node.is_none())
        .collect();
    if missing.is_empty() {
        let message = match status.gpus.len() {
            0 => format!("{} with CPUs", count(with_cpus, "NUMA node")),
            _ => format!(
                "{} with CPUs, and each GPU's is known",
                count(with_cpus, "NUMA node")
            ),
        };
        return vec![ok(check, message).read(spread(facts), at(facts, "gpus[].numaNode"))];
    }
    let why = |gpu: &&Gpu| (why(facts, gpu), at_gpu(facts, gpu, "numaNode"));
    let message = format!(
        "the NUMA node of {} is not known",
        named(missing.iter().copied())
    );
    let finding = match with_cpus {
        1 => note(check, message + "; there is but one"),
        _ => warning(check, message + ": ranks cannot be put near them").fix(FIX),
    };
    vec![finding.read_all(missing.iter().map(why))]
}

/// `0: GPUs 0-3` and so on, short.
fn spread(facts: &Facts) -> String {
    let of_gpu = |gpu: &Gpu| {
        gpu.numa_node
            .map(|node| node.to_string())
            .unwrap_or_default()
    };
    let nodes: Vec<String> = gpus(facts).iter().map(of_gpu).collect();
    match nodes.is_empty() {
        true => "no GPU".to_owned(),
        false => nodes.join(" "),
    }
}

fn why(facts: &Facts, gpu: &Gpu) -> String {
    let what = format!("gpu {}: numaNode", gpu.index);
    let unknowns = status(facts).map_or(&[][..], |status| status.unknowns.as_slice());
    let told = unknowns.iter().find(|unknown| unknown.what == what);
    told.map_or("absent".to_owned(), |unknown| unknown.why.clone())
}

/// sysfs against NVML's memory affinity.
pub(super) fn agreement(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let gpus = gpus(facts);
    if gpus.is_empty() {
        return Vec::new();
    }
    let differs: Vec<&Gpu> = gpus.iter().filter(|gpu| disagrees(gpu)).collect();
    if !differs.is_empty() {
        let told = |gpu: &&Gpu| {
            let nvml = gpu
                .memory_affinity
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            let sysfs = gpu
                .numa_node
                .map(|node| node.to_string())
                .unwrap_or_default();
            let value = format!("sysfs {sysfs}, NVML {nvml}");
            (value, at_gpu(facts, gpu, "numaNode and memoryAffinity"))
        };
        let message = format!(
            "sysfs and NVML disagree on the NUMA node of {}",
            named(differs.iter().copied())
        );
        return vec![
            warning(check, message)
                .read_all(differs.iter().map(told))
                .fix(
                    "sysfs is taken; update BIOS and driver, and compare with `nvidia-smi topo -m`",
                ),
        ];
    }
    // Absent where NVML says the same, and where it says nothing: only its own answer tells which.
    let Ok(raw) = &facts.raw else {
        return vec![
            unknown(check, "whether NVML said the same as sysfs is not known")
                .read("absent", at(facts, "gpus[].memoryAffinity")),
        ];
    };
    let gpus = raw
        .nvml
        .value()
        .map_or(&[][..], |nvml| nvml.gpus.as_slice());
    let silent = gpus
        .iter()
        .find_map(|gpu| gpu.value()?.memory_affinity.error());
    match silent {
        Some(why) => vec![
            unknown(check, "NVML does not tell every GPU's NUMA node")
                .read(why, "nvmlDeviceGetMemoryAffinity"),
        ],
        None => vec![
            ok(check, "sysfs and NVML agree on every GPU's NUMA node")
                .read(spread(facts), at(facts, "gpus[].numaNode")),
        ],
    }
}

fn disagrees(gpu: &Gpu) -> bool {
    match (&gpu.memory_affinity, gpu.numa_node) {
        (Some(nodes), Some(node)) => !nodes.is_empty() && !nodes.contains(node.0),
        _ => false,
    }
}
