//! How much memory there is.

use std::fs;
use std::path::Path;

/// What this process may still take: the machine's available memory, or less where a control
/// group (v2) limits it. None where neither can be read.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| mem_available(&text));
    let group = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| group_left(&text));
    machine.into_iter().chain(group).min()
}

/// What may still be taken of a NUMA node: free pages, and those that only cache files. None where
/// the node is not told of.
#[must_use]
pub fn node_available_bytes(node: u32) -> Option<u64> {
    let path = format!("/sys/devices/system/node/node{node}/meminfo");
    node_available(&fs::read_to_string(path).ok()?)
}

fn node_available(meminfo: &str) -> Option<u64> {
    let bytes = |name: &str| {
        let mut lines = meminfo.lines().map(|line| line.split_whitespace().skip(2));
        let kib: u64 = lines.find_map(|mut words| {
            let is_it = words.next()?.strip_suffix(':')? == name;
            is_it.then(|| words.next()?.parse().ok())?
        })?;
        Some(kib * 1024)
    };
    Some(bytes("MemFree")?.saturating_add(bytes("Inactive(file)").unwrap_or(0)))
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The least that the process's group or one above it has left. Pages that only cache files can
/// be taken back and count as free.
fn group_left(cgroup: &str) -> Option<u64> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let groups = Path::new(path).ancestors().filter_map(|group| {
        let folder = Path::new("/sys/fs/cgroup").join(group.strip_prefix("/").ok()?);
        let number = |file: &str| {
            fs::read_to_string(folder.join(file))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        let (max, current): (u64, u64) = (number("memory.max")?, number("memory.current")?);
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        Some(
            max.saturating_sub(current)
                .saturating_add(inactive_file(&stat).unwrap_or(0)),
        )
    });
    groups.min()
}

fn inactive_file(stat: &str) -> Option<u64> {
    stat.lines()
        .find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_from_meminfo() {
        let text = "MemTotal:       24000 kB\nMemAvailable:    1000 kB\n";
        assert_eq!(mem_available(text), Some(1_024_000));
        assert_eq!(mem_available("MemTotal: 1 kB"), None);
        let node = "Node 0 MemTotal: 9 kB\nNode 0 MemFree: 5 kB\nNode 0 Inactive(file): 2 kB\n";
        assert_eq!(node_available(node), Some(7 * 1024));
        assert_eq!(node_available("Node 0 MemTotal: 9 kB"), None);
        assert_eq!(inactive_file("anon 5\ninactive_file 7\n"), Some(7));
    }
}
