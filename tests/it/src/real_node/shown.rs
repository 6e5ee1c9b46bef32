//! The CPUs and NUMA nodes of a recorded machine, shown to kubelet and runc in the place of this machine's.
//!
//! A kubelet knows them from `/sys/devices/system/{cpu,node}` and `/proc/cpuinfo` (cadvisor's `GetNodesInfo`,
//! `GetSockets`), decides on them alone, and writes those that a container gets into its cgroup. There the
//! kernel refuses CPUs that it does not have, so runc is told everything else: such a container runs anywhere.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use berth_topology::cpus::CpuList;
use berth_topology::raw::{RawHwloc, RawMachine};

/// What is shown, and in whose place.
const FOLDERS: [&str; 2] = ["/sys/devices/system/cpu", "/sys/devices/system/node"];
const CPU_INFO: &str = "/proc/cpuinfo";
/// runc takes CPUs from a container's configuration, and from what it is to change: both JSON, as Go writes it.
const RUNC: &str = r#"#!/bin/sh
without='s/,"cpus":"[^"]*"//; s/"cpus":"[^"]*",//; s/"cpus":"[^"]*"//'
bundle= command=
for word; do
    [ "$bundle" != next ] || bundle=$word
    case $word in
        --bundle) bundle=next ;;
        create | update) command=$word ;;
    esac
done
case $command in
    create) sed -i "$without" "$bundle/config.json" ;;
    update) sed "$without" | RUNC "$@"; exit ;;
esac
exec RUNC "$@"
"#;

/// Files that stand for the kernel's.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// FILE:PLACE, to be mounted.
    pub(super) mounts: Vec<String>,
    /// What containerd starts instead of runc.
    pub(super) runc: PathBuf,
}

/// One CPU's place.
struct Cpu {
    number: u32,
    core: usize,
    package: usize,
}

// === impl Shown ===

impl Shown {
    /// Writes them below `folder`.
    ///
    /// # Errors
    /// When the machine was recorded without its cores, or a file cannot be written.
    pub(super) fn write(machine: &RawMachine, runc: &Path, folder: &Path) -> Result<Self> {
        let folder = folder.join("shown");
        let hwloc = machine.hwloc.value().context("reading a machine's cores")?;
        let cpus = cpus(hwloc);
        write_cpus(&folder, machine, &cpus)?;
        write_numa(&folder, machine, &cpus)?;
        let cpu_info = folder.join("cpuinfo");
        put(&cpu_info, &cpu_info_text(&cpus))?;
        let own_runc = folder.join("runc");
        put(&own_runc, &RUNC.replace("RUNC", &runc.to_string_lossy()))?;
        fs::set_permissions(&own_runc, fs::Permissions::from_mode(0o755))
            .context("making a script executable")?;
        let mut mounts = vec![format!("{}:{CPU_INFO}", cpu_info.display())];
        for place in FOLDERS {
            let own = folder.join(place.trim_start_matches('/'));
            mounts.push(format!("{}:{place}", own.display()));
        }
        Ok(Self {
            mounts,
            runc: own_runc,
        })
    }
}

fn cpus(hwloc: &RawHwloc) -> Vec<Cpu> {
    let package_of = |cpu| hwloc.packages.iter().position(|set| set.contains(cpu));
    let of_core = |(core, threads): (usize, &CpuList)| -> Vec<Cpu> {
        let cpu = |number| Cpu {
            number,
            core,
            package: package_of(number).unwrap_or_default(),
        };
        threads.iter().map(cpu).collect()
    };
    let mut cpus: Vec<Cpu> = hwloc.cores.iter().enumerate().flat_map(of_core).collect();
    cpus.sort_unstable_by_key(|cpu| cpu.number);
    cpus
}

fn write_cpus(folder: &Path, machine: &RawMachine, cpus: &[Cpu]) -> Result<()> {
    let root = folder.join(FOLDERS[0].trim_start_matches('/'));
    let online = machine.sysfs.cpus_online.as_deref();
    put(&root.join("online"), online.unwrap_or_default())?;
    cpus.iter().try_for_each(|cpu| write_cpu(&root, cpu))
}

fn write_numa(folder: &Path, machine: &RawMachine, cpus: &[Cpu]) -> Result<()> {
    let root = folder.join(FOLDERS[1].trim_start_matches('/'));
    for (id, numa) in &machine.sysfs.numa {
        let node = root.join(format!("node{id}"));
        let list = numa.cpulist.as_deref().unwrap_or_default();
        let own: CpuList = list.parse().context("reading a NUMA node's CPUs")?;
        put(&node.join("cpulist"), list)?;
        if let Some(distance) = &numa.distance {
            put(&node.join("distance"), distance)?;
        }
        if let Some(kb) = numa.mem_total_kb {
            let text = format!("Node {id} MemTotal:       {kb} kB");
            put(&node.join("meminfo"), &text)?;
        }
        let own = cpus.iter().filter(|cpu| own.contains(cpu.number));
        own.into_iter().try_for_each(|cpu| write_cpu(&node, cpu))?;
    }
    Ok(())
}

fn write_cpu(root: &Path, cpu: &Cpu) -> Result<()> {
    let topology = root.join(format!("cpu{}/topology", cpu.number));
    put(&topology.join("core_id"), &cpu.core.to_string())?;
    put(
        &topology.join("physical_package_id"),
        &cpu.package.to_string(),
    )
}

/// As much of it as cadvisor reads.
fn cpu_info_text(cpus: &[Cpu]) -> String {
    cpus.iter().fold(String::new(), |mut text, cpu| {
        let Cpu {
            number,
            core,
            package,
        } = cpu;
        let _ = write!(
            text,
            "processor\t: {number}\nvendor_id\t: GenuineIntel\ncpu MHz\t\t: 2200.000\n\
             physical id\t: {package}\ncore id\t\t: {core}\n\n"
        );
        text
    })
}

fn put(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    fs::write(path, format!("{text}\n")).with_context(|| format!("writing {}", path.display()))
}
