//! What this process may use of the machine: CPUs, cores, memory nodes.

use std::fs;

use berth_topology::cpus::CpuList;
use berth_topology::places::Machine;
use procfs::process::Process;

/// Reads this process's masks and the cores of its CPUs.
///
/// What cannot be read is left out: ranks then keep the mask they have.
pub(crate) fn read() -> Machine {
    let status = Process::myself().and_then(|process| process.status());
    let (cpus, nodes) = match status {
        Ok(status) => (status.cpus_allowed_list, status.mems_allowed_list),
        Err(error) => {
            tracing::warn!(%error, "cannot read the process's own CPU mask");
            (None, None)
        }
    };
    let allowed = list(cpus.unwrap_or_default());
    let core_of = allowed
        .iter()
        .filter_map(|cpu| Some((cpu, core_of(cpu)?)))
        .collect();
    Machine {
        allowed,
        core_of,
        memory_nodes: list(nodes.unwrap_or_default()),
    }
}

/// A list as procfs gives it, both ends included.
pub(crate) fn list(ranges: Vec<(u32, u32)>) -> CpuList {
    ranges
        .into_iter()
        .flat_map(|(first, last)| first..=last)
        .collect()
}

fn core_of(cpu: u32) -> Option<u32> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    let siblings: CpuList = fs::read_to_string(path).ok()?.parse().ok()?;
    siblings.iter().next()
}
