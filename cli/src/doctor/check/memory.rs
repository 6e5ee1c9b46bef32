//! Memory that has to be set aside beforehand: huge pages and `/dev/shm`.

use super::{Finding, at, gpus, note, ok, status, unknown, warning};
use crate::doctor::facts::Facts;

const GIB: u64 = 1 << 30;
/// What a container gets when its pod mounts nothing there.
const SHM_CONTAINER_BYTES: u64 = 64 << 20;

/// Nobody needs them as such; it matters whether they are on every NUMA node.
pub(super) fn huge_pages(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let Some(status) = status(facts) else {
        return Vec::new();
    };
    let nodes: Vec<_> = status
        .numa
        .iter()
        .filter(|node| !node.cpus.is_empty())
        .collect();
    if nodes.iter().all(|node| node.huge_pages.is_empty()) {
        return vec![
            unknown(check, "huge pages are not known")
                .read("absent", at(facts, "numa[].hugePages")),
        ];
    }
    let bytes = |node: &&berth_topology::numa::NumaNode| -> u64 {
        let sizes = node.huge_pages.iter();
        sizes
            .map(|pages| pages.size_bytes.saturating_mul(pages.total))
            .fold(0, u64::saturating_add)
    };
    let told = nodes.iter().map(|node| {
        let value = format!("{} MiB", bytes(node) >> 20);
        (value, at(facts, &format!("numa[id {}].hugePages", node.id)))
    });
    let told: Vec<(String, String)> = told.collect();
    let with_some = nodes.iter().filter(|node| bytes(node) > 0).count();
    let found = match with_some {
        0 => ok(check, "no huge pages are set aside; nothing of Berth needs them"),
        some if some == nodes.len() => ok(check, "huge pages are set aside on every NUMA node"),
        some => warning(check, format!("huge pages are set aside on {some} of {} NUMA nodes", nodes.len()))
            .fix("write the same number into /sys/devices/system/node/node*/hugepages/hugepages-2048kB/nr_hugepages"),
    };
    let mut found = vec![found.read_all(told)];
    if let Ok(Ok(setting)) = facts.host.as_ref().map(|host| &host.transparent_huge_pages)
        && setting.contains("[never]")
    {
        found.push(
            note(check, "transparent huge pages are off: weights in memory take 512 times as many page table entries")
                .read(setting, "/sys/kernel/mm/transparent_hugepage/enabled")
                .fix("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
        );
    }
    found
}

/// NCCL's ranks of one pod exchange through it, and fail with little.
pub(super) fn shared_memory(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Ok(host) = &facts.host {
        found.push(match &host.shm_bytes {
            Ok(bytes) if *bytes <= SHM_CONTAINER_BYTES => {
                warning(check, "/dev/shm is as small as a container's default")
                    .read(format!("{} MiB", bytes >> 20), "statvfs of /dev/shm")
                    .fix("in a pod, mount an emptyDir with `medium: Memory` at /dev/shm; else `mount -o remount,size=50% /dev/shm`")
            }
            Ok(bytes) if *bytes < GIB => note(check, "/dev/shm is smaller than 1 GiB").read(format!("{} MiB", bytes >> 20), "statvfs of /dev/shm"),
            Ok(bytes) => ok(check, "/dev/shm has room").read(format!("{} MiB", bytes >> 20), "statvfs of /dev/shm"),
            Err(why) => unknown(check, "the size of /dev/shm is not known").read(why, "statvfs of /dev/shm"),
        });
    } else if !gpus(facts).is_empty() && facts.cluster.is_err() {
        let why = facts.host.as_ref().err().cloned().unwrap_or_default();
        found.push(
            unknown(check, "the size of /dev/shm is not known").read(why, "statvfs of /dev/shm"),
        );
    }
    found.extend(pods(check, facts));
    found
}

fn pods(check: &'static str, facts: &Facts) -> Option<Finding> {
    let pods = facts.cluster.as_ref().ok()?.pods.as_ref().ok()?;
    let tight: Vec<&str> = pods
        .iter()
        .filter(|pod| pod.gpus_max > 1 && !pod.has_own_shm)
        .map(|pod| pod.name.as_str())
        .collect();
    if tight.is_empty() {
        return None;
    }
    let told = tight
        .iter()
        .map(|name| ((*name).to_owned(), "volumeMounts".to_owned()));
    Some(
        note(
            check,
            format!(
                "{} pods with several GPUs mount nothing at /dev/shm: they have 64 MiB",
                tight.len()
            ),
        )
        .read_all(told)
        .fix("mount an emptyDir with `medium: Memory` at /dev/shm"),
    )
}
