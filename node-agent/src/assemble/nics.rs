//! Network cards, and how far each GPU is from them.

use std::collections::BTreeSet;

use berth_topology::ids::BusId;
use berth_topology::link::Path;
use berth_topology::nic::{Nic, NicPath, NicPeerPath};
use berth_topology::raw::{RawMachine, RawPort};

use super::told::tame;
use super::unknowns::Unknowns;
use super::{Found, gpu, paths};

/// A node with hundreds of cards is a switch.
const NICS_MAX: usize = 128;

/// RDMA devices, and interfaces of cards that are none, by name.
pub(crate) fn assemble(raw: &RawMachine, found: &[Found<'_>], unknowns: &mut Unknowns) -> Vec<Nic> {
    if raw.sysfs.pci.is_empty() {
        unknowns.note("nics", "sysfs lists no PCI device");
    }
    let rdma_cards: BTreeSet<&str> = raw
        .sysfs
        .infiniband
        .values()
        .map(|port| port.pci.as_str())
        .collect();
    let rdma = raw.sysfs.infiniband.iter().map(|entry| (entry, true));
    let others = raw
        .sysfs
        .net
        .iter()
        .filter(|(_, port)| !rdma_cards.contains(port.pci.as_str()));
    let mut nics: Vec<Nic> = rdma
        .chain(others.map(|entry| (entry, false)))
        .take(NICS_MAX)
        .map(|((name, port), rdma)| nic(raw, found, (name, port, rdma), unknowns))
        .collect();
    nics.sort_by(|a, b| natural(&a.name).cmp(&natural(&b.name)));
    join(&mut nics, raw);
    nics
}

/// The path of each pair of cards, kept by the one that stands first.
fn join(nics: &mut [Nic], raw: &RawMachine) {
    let others: Vec<(String, Option<BusId>)> = nics
        .iter()
        .map(|nic| (nic.name.clone(), nic.bus_id.clone()))
        .collect();
    for (position, nic) in nics.iter_mut().enumerate() {
        let to = |(name, bus_id): &(String, Option<BusId>)| {
            let told = nic.bus_id.as_ref().zip(bus_id.as_ref());
            let path = told.and_then(|(one, other)| paths::between(raw, one, other));
            NicPeerPath {
                nic: name.clone(),
                path: path.unwrap_or(Path::Unknown),
            }
        };
        nic.nic_paths = others[position + 1..].iter().map(to).collect();
    }
}

fn nic(
    raw: &RawMachine,
    found: &[Found<'_>],
    (name, port, rdma): (&str, &RawPort, bool),
    unknowns: &mut Unknowns,
) -> Nic {
    let bus_id = BusId(port.pci.clone());
    let node = raw
        .sysfs
        .pci
        .get(&port.pci)
        .and_then(|pci| pci.numa_node.as_deref());
    let numa_node = match node.map(gpu::numa_id) {
        Some(Ok(node)) => Some(node),
        Some(Err(why)) => {
            unknowns.note(&format!("nic {name}: numaNode"), why);
            None
        }
        None => {
            unknowns.note(
                &format!("nic {name}: numaNode"),
                "sysfs has no numa_node for it",
            );
            None
        }
    };
    let paths = found
        .iter()
        .map(|gpu| path(raw, (name, &bus_id), gpu, unknowns))
        .collect();
    let link_gb_per_second = rate(name, port, rdma, unknowns);
    Nic {
        name: tame(name),
        bus_id: Some(bus_id),
        numa_node,
        rdma,
        link_gb_per_second,
        paths,
        ..Nic::default()
    }
}

fn path(
    raw: &RawMachine,
    (name, bus_id): (&str, &BusId),
    gpu: &Found<'_>,
    unknowns: &mut Unknowns,
) -> NicPath {
    let told = gpu
        .bus_id
        .as_ref()
        .and_then(|gpu| paths::between(raw, bus_id, gpu));
    if told.is_none() {
        let what = format!("nic {name} - gpu {}: path", gpu.index);
        unknowns.note(&what, "sysfs does not place both");
    }
    NicPath {
        gpu: gpu.uuid.clone(),
        path: told.unwrap_or(Path::Unknown),
    }
}

/// `400 Gb/sec (4X NDR)` of RDMA devices, Mb/s of interfaces; -1 without a cable.
fn rate(name: &str, port: &RawPort, rdma: bool, unknowns: &mut Unknowns) -> Option<f64> {
    let text = port.rate.as_deref().unwrap_or("");
    let number = text
        .split_whitespace()
        .next()
        .and_then(|number| number.parse::<f64>().ok());
    let per_gb = if rdma { 8.0 } else { 8000.0 };
    let rate = number
        .filter(|number| *number > 0.0)
        .map(|number| number / per_gb);
    if rate.is_none() {
        let file = if rdma { "ports/1/rate" } else { "speed" };
        unknowns.note(
            &format!("nic {name}: linkGbPerSecond"),
            format!("sysfs {file} is {text:?}"),
        );
    }
    rate
}

/// `mlx5_10` after `mlx5_9`: the text without the number at its end, then that number.
fn natural(name: &str) -> (&str, u64, &str) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem, name[stem.len()..].parse().unwrap_or(0), name)
}
