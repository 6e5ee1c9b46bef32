//! Which GPUs this container has, in the order in which CUDA counts them.
//!
//! With `CUDA_DEVICE_ORDER=PCI_BUS_ID` a GPU's index is its turn, by PCI address, among those that
//! the container can open. That is asked in two ways, neither of which needs NVML in this process
//! (a static program cannot open a library):
//!
//! 1. `/proc/driver/nvidia/gpus/*/information` has each GPU's UUID, PCI address and minor number.
//!    Where CDI or a device plugin handed out the device files, that folder shows the GPUs of the
//!    whole machine, so a GPU counts only if `/dev/nvidiaMINOR` is here; NVIDIA's older hook shows
//!    those of the container only, which the same rule leaves as they are. It costs microseconds
//!    and wakes no GPU.
//! 2. Where that does not tell (the driver writes `GPU-????????-…` until a GPU was first opened;
//!    WSL has no such folder), `nvidia-smi` is asked: NVML's own answer, from a child process.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

/// One file of the driver has ten lines.
const INFORMATION_BYTES_MAX: u64 = 4096;
/// What `nvidia-smi` may answer: a thousand lines.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// More GPUs than any machine has.
const GPUS_MAX: usize = 256;
/// Without persistence mode each GPU takes a second or two to wake.
const NVIDIA_SMI_PATIENCE: Duration = Duration::from_secs(60);

/// The GPUs of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gpus {
    /// Their UUIDs; the position is the index.
    Known(Vec<String>),
    /// They cannot be told, and why.
    Unknown(String),
}

/// A PCI address as numbers, in its order.
type Address = (u32, u32, u32, u32);

/// One GPU, as it was told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    address: Address,
    uuid: String,
}

/// Asks, unless no GPU is `wanted`.
#[must_use]
pub fn find(root: &Path, wanted: bool) -> Gpus {
    if !wanted {
        return Gpus::Known(Vec::new());
    }
    let driver = match from_driver(root) {
        Ok(seen) => return ordered(seen),
        Err(reason) => reason,
    };
    match from_nvidia_smi() {
        Ok(seen) => ordered(seen),
        Err(reason) => Gpus::Unknown(format!("{driver}; {reason}")),
    }
}

fn ordered(mut seen: Vec<Seen>) -> Gpus {
    seen.sort();
    Gpus::Known(seen.into_iter().map(|gpu| gpu.uuid).collect())
}

/// The driver's files, as far as the device files are here.
fn from_driver(root: &Path) -> Result<Vec<Seen>, String> {
    let folder = root.join("proc/driver/nvidia/gpus");
    let told = |error: io::Error| format!("{}: {error}", folder.display());
    let mut seen = Vec::new();
    for entry in fs::read_dir(&folder).map_err(told)?.take(GPUS_MAX) {
        let path = entry.map_err(told)?.path().join("information");
        let text = read_bounded(&path, INFORMATION_BYTES_MAX)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let unclear = || format!("{} does not tell UUID and minor", path.display());
        let (address, minor, uuid) = information(&text).ok_or_else(unclear)?;
        if root.join(format!("dev/nvidia{minor}")).exists() {
            let uuid = uuid.ok_or_else(unclear)?;
            seen.push(Seen { address, uuid });
        }
    }
    if seen.is_empty() {
        return Err(format!("{} names no GPU that is here", folder.display()));
    }
    Ok(seen)
}

/// Address, minor and UUID of one `information` file; the UUID of a GPU that was never opened is
/// not known to the driver yet.
fn information(text: &str) -> Option<(Address, u32, Option<String>)> {
    let field = |name: &str| {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(str::trim)
    };
    let minor = field("Device Minor")?.parse().ok()?;
    Some((
        address(field("Bus Location")?)?,
        minor,
        uuid(field("GPU UUID")?),
    ))
}

/// What NVML says in a process of its own.
fn from_nvidia_smi() -> Result<Vec<Seen>, String> {
    let mut child = Command::new("nvidia-smi")
        .args(["--query-gpu=uuid,pci.bus_id", "--format=csv,noheader"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("nvidia-smi: {error}"))?;
    let stdout = child.stdout.take().expect("its stdout is piped");
    let (sender, answer) = sync_channel(1);
    thread::spawn(move || sender.send(read_to_end(stdout, ANSWER_BYTES_MAX)));
    let text = answer.recv_timeout(NVIDIA_SMI_PATIENCE);
    // Ends one that hangs; one that has answered has ended, or has nothing more to say.
    if text.is_err() {
        let _ = child.kill();
    }
    let status = child
        .wait()
        .map_err(|error| format!("nvidia-smi: {error}"))?;
    match text {
        Ok(Ok(text)) if status.success() => {
            answer_lines(&text).ok_or_else(|| "nvidia-smi names no GPU by UUID".to_owned())
        }
        Ok(Ok(_)) => Err(format!("nvidia-smi ended with {status}")),
        Ok(Err(error)) => Err(format!("nvidia-smi: {error}")),
        Err(_) => Err("nvidia-smi did not answer within a minute".to_owned()),
    }
}

/// Lines such as `GPU-…, 00000000:1A:00.0`; `None` where one is of another form.
fn answer_lines(text: &str) -> Option<Vec<Seen>> {
    let line = |line: &str| {
        let (named, at) = line.split_once(',')?;
        Some(Seen {
            address: address(at.trim())?,
            uuid: uuid(named.trim())?,
        })
    };
    let seen: Vec<Seen> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .take(GPUS_MAX)
        .map(line)
        .collect::<Option<_>>()?;
    Some(seen).filter(|seen| !seen.is_empty())
}

/// A UUID that tells something: the driver writes `?` for what it does not know yet.
fn uuid(text: &str) -> Option<String> {
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let is_uuid = text.starts_with("GPU-") && text.len() <= 80 && text.chars().all(sound);
    is_uuid.then(|| text.to_owned())
}

/// `domain:bus:device.function`, all hexadecimal; NVML's domain has eight digits, the kernel's four
/// or more.
fn address(text: &str) -> Option<Address> {
    let hex = |digits: &str| u32::from_str_radix(digits, 16).ok();
    let mut parts = text.split(':');
    let (domain, bus, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (device, function) = rest.split_once('.')?;
    let address = (hex(domain)?, hex(bus)?, hex(device)?, hex(function)?);
    parts.next().is_none().then_some(address)
}

fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<String> {
    read_to_end(File::open(path)?, bytes_max)
}

/// What is beyond the bound is left unread.
fn read_to_end(from: impl Read, bytes_max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
