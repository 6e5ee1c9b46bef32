//! What a rank asked the kernel for, and what it really got.

use std::collections::BTreeMap;
use std::fs;

use berth_topology::cpus::CpuList;
use procfs::process::Process;

use crate::assign::{Place, machine_list, read_machine};
use crate::pin;

/// How asking went.
#[derive(Debug)]
pub(crate) struct Pinned {
    cpus: Result<(), String>,
    /// Absent when no node was assigned.
    memory: Option<Result<(), String>>,
}

/// One rank as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RankReport {
    pub(crate) place: Place,
    /// In `/proc/self/task`.
    pub(crate) thread_id: i32,
    /// What the kernel says that the thread may use; absent when it does not say.
    pub(crate) cpus_seen: Option<CpuList>,
    pub(crate) cpu_bind: Bind,
    pub(crate) memory_bind: Bind,
}

/// Intent against truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bind {
    /// It runs where it was put.
    Ok,
    /// The kernel shows something else than what was set.
    Mismatch,
    /// None of what was assigned may be used here; the process's own mask or policy stays.
    Kept,
    /// Nothing was assigned.
    Unset,
    /// The kernel refused, or cannot tell.
    Unavailable,
}

/// Sets CPUs and memory policy of this thread. Failures do not stop the engine: they are shown.
pub(crate) fn pin(place: &Place) -> Pinned {
    let rank = place.rank;
    let cpus = pin::pin_thread(&place.cpus).map_err(|error| error.to_string());
    if let Err(error) = &cpus {
        tracing::warn!(rank, cpus = %place.cpus, error, "cannot pin the rank's thread");
    }
    let memory = place.numa_node.map(prefer);
    if let Some(Err(error)) = &memory {
        tracing::warn!(
            rank,
            node = place.numa_node,
            error,
            "cannot set the rank's memory policy"
        );
    }
    Pinned { cpus, memory }
}

fn prefer(node: u32) -> Result<(), String> {
    if !read_machine().memory_nodes.contains(node) {
        return Err(format!("memory of NUMA node {node} may not be used here"));
    }
    pin::prefer_memory_of(node).map_err(|error| error.to_string())
}

/// Reads back what this thread got.
pub(crate) fn observe(place: Place, pinned: &Pinned) -> RankReport {
    let thread_id = pin::thread_id();
    let cpus_seen = cpus_of(thread_id);
    let cpu_bind = judge_cpus(&place, pinned.cpus.is_ok(), cpus_seen.as_ref());
    let memory_bind = match (&pinned.memory, pin::preferred_memory()) {
        (None, _) => Bind::Unset,
        (Some(Err(_)), _) => Bind::Kept,
        (Some(Ok(())), Err(_)) => Bind::Unavailable,
        (Some(Ok(())), Ok(node)) if node == place.numa_node => Bind::Ok,
        (Some(Ok(())), Ok(_)) => Bind::Mismatch,
    };
    RankReport {
        place,
        thread_id,
        cpus_seen,
        cpu_bind,
        memory_bind,
    }
}

fn judge_cpus(place: &Place, set: bool, seen: Option<&CpuList>) -> Bind {
    match seen {
        _ if place.mask_kept => Bind::Kept,
        Some(seen) if set && *seen == place.cpus => Bind::Ok,
        Some(_) if set => Bind::Mismatch,
        _ => Bind::Unavailable,
    }
}

fn cpus_of(thread_id: i32) -> Option<CpuList> {
    let status = Process::myself()
        .ok()?
        .task_from_tid(thread_id)
        .ok()?
        .status()
        .ok()?;
    status.cpus_allowed_list.map(machine_list)
}

/// Bytes of this process on each NUMA node; empty where the kernel does not tell.
pub(crate) fn memory_by_node() -> BTreeMap<u32, u64> {
    fs::read_to_string("/proc/self/numa_maps")
        .map(|text| sum_by_node(&text))
        .unwrap_or_default()
}

/// Adds up `N0=12 … kernelpagesize_kB=4` over the lines of `numa_maps`.
fn sum_by_node(numa_maps: &str) -> BTreeMap<u32, u64> {
    let mut bytes = BTreeMap::new();
    for line in numa_maps.lines() {
        let words = || {
            line.split_ascii_whitespace()
                .filter_map(|word| word.split_once('='))
        };
        let page_kb = words().find(|(name, _)| *name == "kernelpagesize_kB");
        let page_kb: u64 = page_kb.and_then(|(_, size)| size.parse().ok()).unwrap_or(4);
        for (name, pages) in words() {
            let node = name
                .strip_prefix('N')
                .and_then(|node| node.parse::<u32>().ok());
            if let (Some(node), Ok(pages)) = (node, pages.parse::<u64>()) {
                *bytes.entry(node).or_default() += pages * page_kb * 1024;
            }
        }
    }
    bytes
}

// === impl Bind ===

impl Bind {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Mismatch => "mismatch",
            Self::Kept => "kept",
            Self::Unset => "unset",
            Self::Unavailable => "unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_added_up_by_node_in_their_own_size() {
        let text = "7f0 default anon=3 dirty=3 N0=2 N1=1 kernelpagesize_kB=4\n\
                    7f1 prefer:1 file=/x/N0=9 huge anon=1 N1=1 kernelpagesize_kB=2048\n\
                    7f2 default\n";
        let expected = BTreeMap::from([(0, 2 * 4096), (1, 4096 + 2048 * 1024)]);
        assert_eq!(sum_by_node(text), expected);
    }

    /// On a thread of its own, which the test may pin.
    fn on_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    fn place(cpus: CpuList, mask_kept: bool) -> Place {
        Place {
            rank: 0,
            gpu: None,
            cpus_assigned: None,
            cpus,
            mask_kept,
            numa_node: None,
        }
    }

    #[test]
    fn a_pinned_thread_is_seen_on_its_cpus() {
        let one: CpuList = read_machine().allowed.iter().take(1).collect();
        let report = on_thread(|| {
            let place = place(one.clone(), false);
            let pinned = pin(&place);
            observe(place, &pinned)
        });
        assert_eq!(report.cpus_seen, Some(one));
        assert_eq!(
            (report.cpu_bind, report.memory_bind),
            (Bind::Ok, Bind::Unset)
        );
    }

    #[test]
    fn a_thread_that_could_not_be_pinned_says_so() {
        let missing: CpuList = "60000".parse().unwrap();
        let report = on_thread(|| {
            let place = place(missing, false);
            let pinned = pin(&place);
            observe(place, &pinned)
        });
        assert_eq!(report.cpu_bind, Bind::Unavailable);
        let kept = place("0".parse().unwrap(), true);
        assert_eq!(judge_cpus(&kept, true, Some(&kept.cpus)), Bind::Kept);
        let moved = place("0".parse().unwrap(), false);
        assert_eq!(
            judge_cpus(&moved, true, Some(&"1".parse().unwrap())),
            Bind::Mismatch
        );
    }
}
