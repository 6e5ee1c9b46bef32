//! One GPU: each field is one NVML call, and one answer.

use berth_topology::cpus::CpuList;
use berth_topology::raw::{Answer, RawGpu, RawMigDevice, RawNvLink};
use nvml_wrapper::Device;
use nvml_wrapper::error::NvmlError;

use super::calls::{self, P2p, Threshold};
use super::error::{answer, name};
use super::texts;
use super::vitals::{Vitals, mig_devices};

/// The kernel's greatest `NR_CPUS`, in words.
const CPU_WORDS: usize = 8192 / 64;
/// The kernel's greatest `MAX_NUMNODES`, in words.
const NODE_WORDS: usize = 1024 / 64;
const SCOPE_NODE: u32 = 0;

pub(super) type Handle<'nvml> = Result<Device<'nvml>, NvmlError>;

/// Asks one GPU everything; `all` are the machine's, in index order.
pub(super) fn read(device: &Handle<'_>, all: &[Handle<'_>]) -> Answer<RawGpu> {
    match device {
        Ok(device) => Answer::Value(read_device(device, all)),
        Err(error) => Answer::failed(name(error)),
    }
}

fn read_device(device: &Device<'_>, all: &[Handle<'_>]) -> RawGpu {
    let nvlink_count = answer(calls::nvlink_count(device));
    let vitals = Vitals::read(device, &nvlink_count);
    RawGpu {
        minor: answer(device.minor_number()),
        module_id: answer(calls::module_id(device)),
        name: answer(texts::name(device)),
        pci_bus_id: answer(texts::bus_id(device)),
        memory_total_bytes: memory_total_bytes(device),
        compute_capability: answer(
            device
                .cuda_compute_capability()
                .map(|version| (version.major, version.minor)),
        ),
        pcie_max_generation: answer(device.max_pcie_link_gen()),
        pcie_max_width: answer(device.max_pcie_link_width()),
        cpu_affinity: answer(device.cpu_affinity_within_scope(CPU_WORDS, SCOPE_NODE))
            .map(|words| bits(&words).collect::<CpuList>()),
        memory_affinity: answer(device.memory_affinity(NODE_WORDS, SCOPE_NODE))
            .map(|words| bits(&words).collect()),
        numa_node_id: answer(device.numa_node_id()),
        common_ancestors: with_each(all, |other| calls::common_ancestor(device, other)),
        p2p_nvlink: with_each(all, |other| calls::p2p(device, other, P2p::NvLink)),
        p2p_read: with_each(all, |other| calls::p2p(device, other, P2p::Read)),
        p2p_write: with_each(all, |other| calls::p2p(device, other, P2p::Write)),
        p2p_atomics: with_each(all, |other| calls::p2p(device, other, P2p::Atomics)),
        nvlinks: links(device, vitals.links_active),
        nvlink_count,
        nvswitch_link_count: answer(calls::nvswitch_link_count(device)),
        mig_devices: mig_devices(device, &vitals.mig_mode)
            .map(|mig| mig_device(device, &mig))
            .collect(),
        power_default_milliwatts: answer(calls::power_default_milliwatts(device)),
        power_enforced_milliwatts: answer(calls::power_enforced_milliwatts(device)),
        power_range_milliwatts: answer(calls::power_range_milliwatts(device)),
        slowdown_celsius: answer(calls::threshold_celsius(device, Threshold::Slowdown)),
        shutdown_celsius: answer(calls::threshold_celsius(device, Threshold::Shutdown)),
        c2c_enabled: answer(calls::is_c2c_enabled(device)),
        c2c_link_count: answer(calls::c2c_link_count(device)),
        virtualization_mode: answer(calls::virtualization_mode(device)),
        uuid: vitals.uuid,
        pcie_generation: vitals.pcie_generation,
        pcie_width: vitals.pcie_width,
        mig_mode: vitals.mig_mode,
        fabric: vitals.fabric,
        ecc_uncorrected_volatile: vitals.ecc_uncorrected_volatile,
        remapped_rows_pending: vitals.remapped_rows_pending,
        remapped_rows_failed: vitals.remapped_rows_failed,
        retired_pages_pending: vitals.retired_pages_pending,
        recovery_action: vitals.recovery_action,
        // asked where it is to be changed: see `tune`
        settings: None,
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

fn links(device: &Device<'_>, active: Vec<Answer<bool>>) -> Vec<RawNvLink> {
    let numbered = (0..).zip(active);
    numbered
        .map(|(link, active)| link_of(device, link, active))
        .collect()
}

fn link_of(device: &Device<'_>, index: u32, active: Answer<bool>) -> RawNvLink {
    let link = device.link_wrapper_for(index);
    RawNvLink {
        active,
        version: answer(link.version()),
        remote_type: answer(calls::nvlink_remote_type(device, index)),
        remote_pci_bus_id: answer(texts::remote_bus_id(device, index)),
        speed_mb_per_second: answer(calls::nvlink_speed_mb_per_second(device, index)),
    }
}

fn mig_device(gpu: &Device<'_>, mig: &Device<'_>) -> RawMigDevice {
    let gpu_instance_id = calls::gpu_instance_id(mig);
    let placement = match &gpu_instance_id {
        Ok(id) => answer(calls::placement(gpu, *id)),
        Err(error) => Answer::failed(name(error)),
    };
    RawMigDevice {
        uuid: answer(texts::uuid(mig)),
        name: answer(texts::name(mig)),
        memory_total_bytes: answer(calls::memory_total_bytes_v1(mig)),
        slices: answer(
            mig.attributes()
                .map(|attributes| attributes.gpu_instance_slice_count),
        ),
        placement,
        gpu_instance_id: answer(gpu_instance_id),
        compute_instance_id: answer(calls::compute_instance_id(mig)),
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
