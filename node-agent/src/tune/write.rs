//! The one place that writes: three kinds of file and three settings of a GPU, and no other.
//!
//! A path is made from a [`Target`]'s numbers, never taken from a text; where it leads must lie
//! below the mount that it is of, under its own name; nothing is created.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use berth_topology::cpus::CpuList;

use super::Machine;
use super::plan::Target;
use crate::probe::text;

/// `O_NOFOLLOW`, the same on every architecture that Linux has but a few, which have no GPUs.
const NO_FOLLOW: i32 = if cfg!(target_arch = "aarch64") {
    0o100_000
} else {
    0o400_000
};
/// A governor's name has at most 15 characters (`CPUFREQ_NAME_LEN`).
const GOVERNOR_BYTES_MAX: usize = 15;

/// The value that a setting has.
///
/// # Errors
/// When its file is not there, leads elsewhere, or cannot be read; when NVML does not tell it.
pub fn read(machine: &Machine, target: &Target) -> io::Result<String> {
    if let Target::Gpu { uuid, setting } = target {
        return machine.gpus.value(uuid, *setting);
    }
    let path = path_of(machine, target)?;
    text::read(&path).ok_or_else(|| io::Error::other(format!("{} cannot be read", path.display())))
}

/// Gives a setting a value, and reads back what the kernel made of it.
///
/// # Errors
/// When the value is not one of that setting's form, the file is not there or leads elsewhere, or
/// the kernel or NVML refuses.
pub fn write(machine: &Machine, target: &Target, value: &str) -> io::Result<String> {
    check(target, value)?;
    if let Target::Gpu { uuid, setting } = target {
        machine.gpus.set(uuid, *setting, value)?;
        return match setting.is_told() {
            true => machine.gpus.value(uuid, *setting),
            false => Ok(value.to_owned()),
        };
    }
    let path = path_of(machine, target)?;
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .custom_flags(NO_FOLLOW)
        .open(&path)?;
    // In one call, as sysfs takes it.
    file.write_all(format!("{value}\n").as_bytes())?;
    drop(file);
    read(machine, target)
}

/// A value of another form never reaches the kernel, from the state file neither.
fn check(target: &Target, value: &str) -> io::Result<()> {
    let is_sound = match target {
        Target::Governor { .. } => {
            let sound = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            (1..=GOVERNOR_BYTES_MAX).contains(&value.len()) && value.bytes().all(sound)
        }
        Target::IrqAffinity { .. } => value
            .parse::<CpuList>()
            .is_ok_and(|cpus| !cpus.is_empty() && cpus.to_string() == value),
        Target::HugePages { .. } => value.parse::<u64>().is_ok(),
        Target::Gpu { setting, .. } => setting.check(value),
    };
    if is_sound {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{value:?} is no value of {target}"),
        ))
    }
}

/// Where the file really is. `cpuN/cpufreq` is itself a link: it may lead anywhere below the root.
fn path_of(machine: &Machine, target: &Target) -> io::Result<PathBuf> {
    let (root, name) = match target {
        Target::Governor { cpu } => (
            &machine.sys,
            format!("devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"),
        ),
        Target::IrqAffinity { irq } => (&machine.proc, format!("irq/{irq}/smp_affinity_list")),
        Target::HugePages { node, size_kb } => (
            &machine.sys,
            format!("devices/system/node/node{node}/hugepages/hugepages-{size_kb}kB/nr_hugepages"),
        ),
        Target::Gpu { .. } => return Err(io::Error::other("NVML's settings have no file")),
    };
    let (root, path) = (fs::canonicalize(root)?, root.join(name));
    let real = fs::canonicalize(&path)?;
    let is_below = real.starts_with(root) && real.file_name() == path.file_name();
    if is_below && is_file(&real) {
        Ok(real)
    } else {
        Err(io::Error::other(format!(
            "{} leads to {}",
            path.display(),
            real.display()
        )))
    }
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|data| data.is_file())
}

// === impl Target ===

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Governor { cpu } => write!(f, "governor of CPU {cpu}"),
            Self::IrqAffinity { irq } => write!(f, "CPUs of interrupt {irq}"),
            Self::HugePages { node, size_kb } => {
                write!(f, "huge pages of {size_kb} KiB on NUMA node {node}")
            }
            Self::Gpu { uuid, setting } => write!(f, "{setting} of {uuid}"),
        }
    }
}
