//! One GPU: each field is one NVML call, and one answer.

use berth_topology::cpus::CpuList;
use berth_topology::raw::{Answer, RawGpu, RawMigDevice, RawNvLink};
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::error::NvmlError;

use super::calls;
use super::error::{answer, name};

/// `NVML_NVLINK_MAX_LINKS` of the newest header; 18 is the most of any GPU up to Blackwell.
const LINKS_MAX: u32 = 36;
/// An A100 or H100 has at most 7 MIG devices.
const MIG_DEVICES_MAX: u32 = 64;
/// The kernel's greatest `NR_CPUS`, in words.
const CPU_WORDS: usize = 8192 / 64;
/// The kernel's greatest `MAX_NUMNODES`, in words.
const NODE_WORDS: usize = 1024 / 64;
const SCOPE_NODE: u32 = 0;

type Handle<'nvml> = Result<Device<'nvml>, NvmlError>;

/// Asks one GPU everything; `all` are the machine's, in index order.
pub(super) fn read(device: &Handle<'_>, all: &[Handle<'_>]) -> Answer<RawGpu> {
    match device {
        Ok(device) => Answer::Value(read_device(device, all)),
        Err(error) => Answer::failed(name(error)),
    }
}

fn read_device(device: &Device<'_>, all: &[Handle<'_>]) -> RawGpu {
    let nvlink_count = answer(calls::nvlink_count(device));
    let mig_mode = answer(device.mig_mode().map(|mode| mode.current));
    let remapped = calls::remapped_rows(device);
    RawGpu {
        uuid: answer(device.uuid()),
        minor: answer(device.minor_number()),
        module_id: answer(calls::module_id(device)),
        name: answer(device.name()),
        pci_bus_id: answer(device.pci_info().map(|pci| pci.bus_id)),
        memory_total_bytes: memory_total_bytes(device),
        compute_capability: answer(
            device
                .cuda_compute_capability()
                .map(|version| (version.major, version.minor)),
        ),
        pcie_generation: answer(device.current_pcie_link_gen()),
        pcie_width: answer(device.current_pcie_link_width()),
        pcie_max_generation: answer(device.max_pcie_link_gen()),
        pcie_max_width: answer(device.max_pcie_link_width()),
        cpu_affinity: answer(device.cpu_affinity_within_scope(CPU_WORDS, SCOPE_NODE))
            .map(|words| bits(&words).collect::<CpuList>()),
        memory_affinity: answer(device.memory_affinity(NODE_WORDS, SCOPE_NODE))
            .map(|words| bits(&words).collect()),
        numa_node_id: answer(device.numa_node_id()),
        common_ancestors: with_each(all, |other| calls::common_ancestor(device, other)),
        p2p_nvlink: with_each(all, |other| calls::p2p_nvlink(device, other)),
        nvlinks: links(device, &nvlink_count),
        nvlink_count,
        nvswitch_link_count: answer(calls::nvswitch_link_count(device)),
        mig_devices: mig_devices(device, &mig_mode),
        mig_mode,
        fabric: answer(calls::fabric(device)),
        ecc_uncorrected_volatile: answer(
            device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile),
        ),
        remapped_rows_pending: answer_of(&remapped, |rows| rows.is_pending),
        remapped_rows_failed: answer_of(&remapped, |rows| rows.has_failed),
        retired_pages_pending: answer(device.are_pages_pending_retired()),
    }
}

/// `nvmlDeviceGetMemoryInfo_v2`, which drivers before 510 lack.
fn memory_total_bytes(device: &Device<'_>) -> Answer<u64> {
    match device.memory_info() {
        Err(NvmlError::FailedToLoadSymbol(_)) => answer(calls::memory_total_bytes_v1(device)),
        result => answer(result.map(|memory| memory.total)),
    }
}

fn with_each<'a>(
    all: &[Handle<'a>],
    ask: impl Fn(&Device<'a>) -> Result<u32, NvmlError>,
) -> Vec<Answer<u32>> {
    let with = |other: &Handle<'a>| match other {
        Ok(other) => answer(ask(other)),
        Err(error) => Answer::failed(name(error)),
    };
    all.iter().map(with).collect()
}

/// As many links as NVML counts; where it does not count, up to the first that does not answer.
fn links(device: &Device<'_>, count: &Answer<u32>) -> Vec<RawNvLink> {
    let read = |link| link_of(device, link);
    match count.value() {
        Some(count) => (0..(*count).min(LINKS_MAX)).map(read).collect(),
        None => (0..LINKS_MAX)
            .map(read)
            .take_while(|link| link.active.value().is_some())
            .collect(),
    }
}

fn link_of(device: &Device<'_>, index: u32) -> RawNvLink {
    let link = device.link_wrapper_for(index);
    RawNvLink {
        active: answer(link.is_active()),
        version: answer(link.version()),
        remote_type: answer(calls::nvlink_remote_type(device, index)),
        remote_pci_bus_id: answer(link.remote_pci_info().map(|pci| pci.bus_id)),
        speed_mb_per_second: answer(calls::nvlink_speed_mb_per_second(device, index)),
    }
}

fn mig_devices(device: &Device<'_>, mode: &Answer<u32>) -> Vec<RawMigDevice> {
    if mode.value() != Some(&1) {
        return Vec::new();
    }
    let count = device.mig_device_count().unwrap_or(0).min(MIG_DEVICES_MAX);
    // indices of devices that do not exist answer NVML_ERROR_NOT_FOUND
    let existing = (0..count).filter_map(|index| device.mig_device_by_index(index).ok());
    existing.map(|mig| mig_device(&mig)).collect()
}

fn mig_device(mig: &Device<'_>) -> RawMigDevice {
    RawMigDevice {
        uuid: answer(mig.uuid()),
        name: answer(mig.name()),
        memory_total_bytes: answer(calls::memory_total_bytes_v1(mig)),
        slices: answer(
            mig.attributes()
                .map(|attributes| attributes.gpu_instance_slice_count),
        ),
    }
}

/// One part of a call that answers several.
fn answer_of<T, U>(result: &Result<T, NvmlError>, part: impl Fn(&T) -> U) -> Answer<U> {
    match result {
        Ok(value) => Answer::Value(part(value)),
        Err(error) => Answer::failed(name(error)),
    }
}

/// Numbers of the bits that are set.
fn bits(words: &[std::ffi::c_ulong]) -> impl Iterator<Item = u32> + '_ {
    let numbered = (0_u32..).zip(words);
    numbered.flat_map(|(word, bits)| {
        (0..64)
            .filter(move |bit| bits >> bit & 1 == 1)
            .map(move |bit| word * 64 + bit)
    })
}

#[cfg(test)]
mod tests {
    use super::bits;

    #[test]
    fn bits_of_the_second_word_count_on() {
        assert_eq!(bits(&[0b1001, 1 << 63]).collect::<Vec<_>>(), [0, 3, 127]);
    }
}
