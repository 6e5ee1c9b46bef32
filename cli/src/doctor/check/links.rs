//! Links that are less than they should be: NVLink lanes, the NVSwitch fabric, PCIe.

use std::collections::BTreeSet;

use berth_topology::gpu::Gpu;
use berth_topology::link::Via;

use super::{Finding, at, at_gpu, gpus, named, note, ok, status, unknown, warning};
use crate::doctor::facts::Facts;

/// Set by NVIDIA's GPU feature discovery and DRA driver: `CLUSTER-UUID.CLIQUE`.
const NVIDIA_CLIQUE: &str = "nvidia.com/gpu.clique";
/// Lanes of a GPU's slot in every server.
const PCIE_WIDTH: u32 = 16;

/// Active lanes against the lanes that the model has.
pub(super) fn nvlink(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let gpus = gpus(facts);
    let lanes = |gpu: &&Gpu| {
        let nvlink = gpu.nvlink.as_ref()?;
        let value = format!("{} of {} lanes", nvlink.lanes, nvlink.lanes_expected);
        Some((value, at_gpu(facts, gpu, "nvlink")))
    };
    let with_links: Vec<&Gpu> = gpus.iter().filter(|gpu| gpu.nvlink.is_some()).collect();
    let has_lost = |gpu: &&&Gpu| {
        let nvlink = gpu.nvlink.as_ref();
        nvlink.is_some_and(|nvlink| nvlink.lanes < nvlink.lanes_expected)
    };
    let lost: Vec<&Gpu> = with_links.iter().filter(has_lost).copied().collect();
    if with_links.is_empty() {
        return Vec::new();
    }
    if lost.is_empty() {
        let pairs = status(facts).map_or(0, |status| {
            status
                .links
                .iter()
                .filter(|link| link.nvlink.is_some())
                .count()
        });
        let message = format!("all NVLink lanes are active, {pairs} pairs joined");
        return vec![ok(check, message).read_all(with_links.iter().take(1).filter_map(lanes))];
    }
    vec![
        warning(check, format!("NVLink lanes are down at {}", named(lost.iter().copied())))
            .read_all(lost.iter().filter_map(lanes))
            .fix("`nvidia-smi nvlink -s` and `-e` show which and why; reseat the bridge or baseboard, reset all GPUs together"),
    ]
}

/// GPUs behind NVSwitches reach nobody until they are registered with the fabric.
pub(super) fn fabric(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let Some(status) = status(facts) else {
        return Vec::new();
    };
    let cliques: BTreeSet<String> = status
        .gpus
        .iter()
        .filter_map(|gpu| gpu.fabric.as_ref())
        .map(|fabric| format!("{}.{}", fabric.cluster_uuid, fabric.clique_id))
        .collect();
    let mut found = Vec::new();
    let from = at(facts, "gpus[].fabric");
    let outside: Vec<&Gpu> = status
        .gpus
        .iter()
        .filter(|gpu| gpu.fabric.is_none())
        .collect();
    match cliques.len() {
        0 if is_switched(facts) => {}
        0 => return clique_label(check, facts, None).into_iter().collect(),
        1 if outside.is_empty() => {}
        1 => found.push(
            warning(
                check,
                format!("{} in no fabric clique, the others are", named(outside)),
            )
            .read(cliques.iter().next().cloned().unwrap_or_default(), &from)
            .fix("`nvidia-smi -q -d FABRIC`; see that nvidia-fabricmanager (or nvidia-imex) runs"),
        ),
        _ => found.push(
            note(check, "the GPUs are in several fabric cliques")
                .read_all(cliques.iter().map(|clique| (clique.clone(), from.clone()))),
        ),
    }
    let only = cliques.iter().next().filter(|_| cliques.len() == 1);
    if found.is_empty()
        && let Some(only) = only
    {
        found.push(ok(check, "all GPUs are in one fabric clique").read(only, &from));
    }
    found.extend(clique_label(check, facts, only.map(String::as_str)));
    found
}

fn is_switched(facts: &Facts) -> bool {
    let links = status(facts).map_or(&[][..], |status| status.links.as_slice());
    links.iter().any(|link| {
        link.nvlink
            .as_ref()
            .is_some_and(|nvlink| nvlink.via == Via::Switch)
    })
}

/// NVIDIA's label is theirs: it is compared, never written.
fn clique_label(check: &'static str, facts: &Facts, ours: Option<&str>) -> Option<Finding> {
    let theirs = facts
        .cluster
        .as_ref()
        .ok()?
        .node
        .labels
        .get(NVIDIA_CLIQUE)?;
    if Some(theirs.as_str()) == ours {
        return None;
    }
    Some(
        warning(check, format!("the label {NVIDIA_CLIQUE} is not what NVML says"))
            .read(theirs, format!("label {NVIDIA_CLIQUE} of the Node"))
            .read(ours.unwrap_or("no one clique"), at(facts, "gpus[].fabric"))
            .fix("restart NVIDIA's GPU feature discovery (or DRA driver) on the node; Berth goes by NVML"),
    )
}

/// Width never falls by itself on a server; the generation does while a link idles.
pub(super) fn pcie(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let gpus = gpus(facts);
    let of =
        |holds: fn(&Gpu) -> bool| -> Vec<&Gpu> { gpus.iter().filter(|gpu| holds(gpu)).collect() };
    let told = |gpu: &&Gpu| (pcie_of(gpu), at_gpu(facts, gpu, "pcie"));
    let mut found = Vec::new();
    let mut say = |gpus: &[&Gpu], finding: &dyn Fn(String) -> Finding| {
        if !gpus.is_empty() {
            let finding = finding(named(gpus.iter().copied()));
            found.push(finding.read_all(gpus.iter().map(told)));
        }
    };
    say(&of(is_narrow), &|gpus| {
        warning(check, format!("PCIe links of {gpus} have lost lanes"))
            .fix("reseat the GPU or its riser; `lspci -vv` shows LnkSta and LnkCap on both ends")
    });
    say(&of(is_slow), &|gpus| {
        note(check, format!("PCIe links of {gpus} were not seen at full speed yet"))
            .fix("links idle at Gen1: look again under load; if it stays, see LnkSta in `lspci -vv` and the BIOS")
    });
    say(&of(is_in_small_slot), &|gpus| {
        note(
            check,
            format!("{gpus} in a slot of fewer than {PCIE_WIDTH} lanes"),
        )
    });
    say(&of(|gpu| !is_read(gpu)), &|gpus| {
        unknown(check, format!("the PCIe links of {gpus} are not known"))
    });
    if found.is_empty() && !gpus.is_empty() {
        let first = gpus.iter().take(1).map(|gpu| told(&gpu));
        let message = "all PCIe links are as fast and wide as they can be";
        found.push(ok(check, message).read_all(first));
    }
    found
}

/// `Gen5 x16, at most Gen5 x16`.
fn pcie_of(gpu: &Gpu) -> String {
    let pcie = gpu.pcie.clone().unwrap_or_default();
    let number = |value: Option<u32>| value.map_or("?".to_owned(), |value| value.to_string());
    let (now, most) = (number(pcie.generation), number(pcie.max_generation));
    let (width, max_width) = (number(pcie.width), number(pcie.max_width));
    format!("Gen{now} x{width}, at most Gen{most} x{max_width}")
}

fn is_narrow(gpu: &Gpu) -> bool {
    let widths = gpu
        .pcie
        .as_ref()
        .and_then(|pcie| pcie.width.zip(pcie.max_width));
    widths.is_some_and(|(now, most)| now < most)
}

fn is_slow(gpu: &Gpu) -> bool {
    let generations = gpu
        .pcie
        .as_ref()
        .and_then(|pcie| pcie.generation.zip(pcie.max_generation));
    generations.is_some_and(|(now, most)| now < most)
}

fn is_in_small_slot(gpu: &Gpu) -> bool {
    let most = gpu.pcie.as_ref().and_then(|pcie| pcie.max_width);
    most.is_some_and(|most| most < PCIE_WIDTH)
}

fn is_read(gpu: &Gpu) -> bool {
    gpu.pcie.as_ref().is_some_and(|pcie| {
        let read = [
            pcie.generation,
            pcie.width,
            pcie.max_generation,
            pcie.max_width,
        ];
        read.iter().all(Option::is_some)
    })
}
