//! The machines that decisions are timed on.

use std::fs;
use std::path::PathBuf;

use berth_topology::link::Link;
use berth_topology::node::{NodeTopology, Status};

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "machines"]
        .iter()
        .collect()
}

/// One of `machines/`.
pub(crate) fn recorded(name: &str) -> Status {
    let text = fs::read_to_string(folder().join(format!("{name}.json")));
    let text = text.expect("a recorded machine");
    let topology: NodeTopology = serde_json::from_str(&text).expect("a NodeTopology");
    topology.status.expect("a machine with a status")
}

/// All of `machines/` with that many GPUs.
pub(crate) fn of_count(gpu_count: usize) -> Vec<(String, Status)> {
    let entries = fs::read_dir(folder()).expect("the folder of machines");
    let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let stems = files.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned()));
    let mut names: Vec<String> = stems.filter(|name| !name.contains('.')).collect();
    names.sort();
    let all = names
        .into_iter()
        .map(|name| (name.clone(), recorded(&name)));
    all.filter(|(_, status)| status.gpus.len() == gpu_count)
        .collect()
}

/// The machine with half the lanes on its link of that number.
pub(crate) fn degraded(status: &Status, link: usize) -> Status {
    let mut status = status.clone();
    let halve = |link: &mut Link| {
        if let Some(nvlink) = &mut link.nvlink {
            nvlink.lanes /= 2;
            nvlink.gb_per_second /= 2.0;
        }
    };
    status.links.get_mut(link).into_iter().for_each(halve);
    status
}

/// The machine with one GPU that has lost half of its NVLink lanes, to every peer behind a switch.
pub(crate) fn worn(status: &Status, gpu: usize) -> Status {
    let mut worn = status.clone();
    let uuid = &status.gpus[gpu].uuid;
    for (link, stated) in status.links.iter().enumerate() {
        if stated.a == *uuid || stated.b == *uuid {
            worn = degraded(&worn, link);
        }
    }
    if let Some(nvlink) = &mut worn.gpus[gpu].nvlink {
        nvlink.gb_per_second /= 2.0;
    }
    worn
}
