//! Which GPUs or CPUs the engine gets here, and the file that tells it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use berth_placement::{Machine, Placement, Refusal, place, place_cpus};
use berth_topology::assignment::Assignment;
use berth_topology::claim::GpuClaim;
use berth_topology::names;
use berth_topology::node::Status;

/// The sole container of the file.
const CONTAINER: &str = "engine";
/// GPUs taken where nobody says how many: two show what the wiring is for, and the smallest models
/// can still be split by two.
const GPUS_DEFAULT: usize = 2;

/// GPUs that nobody holds; CPU ranks where the machine has no usable GPU.
pub(super) fn choose(status: &Status, ranks: Option<usize>) -> Result<Placement, Refusal> {
    let machine = Machine::new(status);
    if machine.usable().is_empty() {
        let nodes = machine.numa_nodes_with_cpus().len();
        return place_cpus(&machine, ranks.unwrap_or(nodes.max(1)));
    }
    let held = machine.set_of(
        status
            .allocations
            .iter()
            .flat_map(|allocation| &allocation.devices),
    );
    let free = machine.usable().difference(held);
    let count = ranks.unwrap_or(free.len().clamp(1, GPUS_DEFAULT));
    place(&machine, free, &GpuClaim::of_count(count))
}

/// Writes the assignment as a pod's annotation would hold it, for no pod in particular.
pub(super) fn write_assignment(
    folder: &Path,
    status: &Status,
    placement: &Placement,
) -> anyhow::Result<PathBuf> {
    let assignment = Assignment {
        schema: names::SCHEMA.to_owned(),
        pod_uid: None,
        node: None,
        topology_hash: Some(status.hash.clone()).filter(|hash| !hash.is_empty()),
        containers: BTreeMap::from([(CONTAINER.to_owned(), placement.assignment())]),
    };
    let path = folder.join("assignment.json");
    fs::write(&path, assignment.encode()).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
