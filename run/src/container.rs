//! What this container has: CPUs, memory nodes, GPUs, and the variables that it set itself.

use std::collections::BTreeMap;
use std::env;
use std::fs;

use berth_topology::cpus::CpuList;
use berth_topology::places::Machine;

pub mod gpus;

use gpus::Gpus;

/// Everything that a plan is made from, beside the assignment.
#[derive(Clone, Debug)]
pub struct Container {
    /// CPUs and memory nodes that it may use.
    pub machine: Machine,
    /// The GPUs in it.
    pub gpus: Gpus,
    /// Its environment; what is not text is left out.
    pub environment: BTreeMap<String, String>,
}

/// Reads this process's masks and the cores of its CPUs. What cannot be read is left out: the
/// mask then stays as it is.
#[must_use]
pub fn machine() -> Machine {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = list_in(&status, "Cpus_allowed_list:");
    let core_of = allowed
        .iter()
        .filter_map(|cpu| Some((cpu, core_of(cpu)?)))
        .collect();
    Machine {
        core_of,
        memory_nodes: list_in(&status, "Mems_allowed_list:"),
        allowed,
    }
}

/// This process's environment.
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    env::vars_os().filter_map(text).collect()
}

fn list_in(status: &str, name: &str) -> CpuList {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|list| list.trim().parse().ok())
        .unwrap_or_default()
}

fn core_of(cpu: u32) -> Option<u32> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    let siblings: CpuList = fs::read_to_string(path).ok()?.parse().ok()?;
    siblings.iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_from_the_kernels_lines() {
        let status =
            "Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3,8\nMems_allowed_list:\t1\n";
        assert_eq!(list_in(status, "Cpus_allowed_list:").to_string(), "0-3,8");
        assert_eq!(list_in(status, "Mems_allowed_list:").to_string(), "1");
        assert!(list_in("", "Cpus_allowed_list:").is_empty());
    }

    #[test]
    fn this_machine_has_cpus_and_memory() {
        let machine = machine();
        assert!(!machine.allowed.is_empty() && !machine.memory_nodes.is_empty());
    }
}
