//! What may change while a GPU runs: some ten calls and one for each NVLink, where everything is hundreds.

use berth_topology::raw::{Answer, RawFabric, RawGpu};
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::error::NvmlError;

use super::calls;
use super::error::{answer, name};
use super::texts;

/// `NVML_NVLINK_MAX_LINKS` of the newest header; 18 is the most of any GPU up to Blackwell.
const LINKS_MAX: u32 = 36;
/// An A100 or H100 has at most 7 MIG devices.
const MIG_DEVICES_MAX: u32 = 64;

/// These answers of one GPU. All else of it stays as it is until the driver is loaded again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Vitals {
    pub(super) uuid: Answer<String>,
    /// PCIe links idle and wake up all the time: see [`Vitals::agrees_with`].
    pub(super) pcie_generation: Answer<u32>,
    pub(super) pcie_width: Answer<u32>,
    pub(super) links_active: Vec<Answer<bool>>,
    pub(super) mig_mode: Answer<u32>,
    pub(super) mig_uuids: Vec<Answer<String>>,
    pub(super) fabric: Answer<RawFabric>,
    pub(super) ecc_uncorrected_volatile: Answer<u64>,
    pub(super) remapped_rows_pending: Answer<bool>,
    pub(super) remapped_rows_failed: Answer<bool>,
    pub(super) retired_pages_pending: Answer<bool>,
    pub(super) recovery_action: Answer<u32>,
}

// === impl Vitals ===

impl Vitals {
    /// Asks as many links as NVML counts; where it does not count, up to the first without an answer.
    pub(super) fn read(device: &Device<'_>, nvlink_count: &Answer<u32>) -> Self {
        let mig_mode = answer(device.mig_mode().map(|mode| mode.current));
        let remapped = calls::remapped_rows(device);
        let uncorrected = (MemoryError::Uncorrected, EccCounter::Volatile);
        Self {
            uuid: answer(texts::uuid(device)),
            pcie_generation: answer(device.current_pcie_link_gen()),
            pcie_width: answer(device.current_pcie_link_width()),
            links_active: links_active(device, nvlink_count),
            mig_uuids: mig_devices(device, &mig_mode)
                .map(|mig| answer(texts::uuid(&mig)))
                .collect(),
            mig_mode,
            fabric: answer(calls::fabric(device)),
            ecc_uncorrected_volatile: answer(device.total_ecc_errors(uncorrected.0, uncorrected.1)),
            remapped_rows_pending: answer_of(&remapped, |rows| rows.is_pending),
            remapped_rows_failed: answer_of(&remapped, |rows| rows.has_failed),
            retired_pages_pending: answer(device.are_pages_pending_retired()),
            recovery_action: answer(calls::recovery_action(device)),
        }
    }

    /// Whether nothing differs from what is known but PCIe's state, which is then taken over: that it
    /// changes is no reason to ask for all the rest.
    pub(super) fn agrees_with(self, known: &mut RawGpu) -> bool {
        known.pcie_generation.clone_from(&self.pcie_generation);
        known.pcie_width.clone_from(&self.pcie_width);
        self == Self::of(known)
    }

    fn of(raw: &RawGpu) -> Self {
        Self {
            uuid: raw.uuid.clone(),
            pcie_generation: raw.pcie_generation.clone(),
            pcie_width: raw.pcie_width.clone(),
            links_active: raw.nvlinks.iter().map(|link| link.active.clone()).collect(),
            mig_mode: raw.mig_mode.clone(),
            mig_uuids: raw.mig_devices.iter().map(|mig| mig.uuid.clone()).collect(),
            fabric: raw.fabric.clone(),
            ecc_uncorrected_volatile: raw.ecc_uncorrected_volatile.clone(),
            remapped_rows_pending: raw.remapped_rows_pending.clone(),
            remapped_rows_failed: raw.remapped_rows_failed.clone(),
            retired_pages_pending: raw.retired_pages_pending.clone(),
            recovery_action: raw.recovery_action.clone(),
        }
    }
}

fn links_active(device: &Device<'_>, count: &Answer<u32>) -> Vec<Answer<bool>> {
    let is_active = |link| answer(device.link_wrapper_for(link).is_active());
    match count.value() {
        Some(count) => (0..(*count).min(LINKS_MAX)).map(is_active).collect(),
        None => (0..LINKS_MAX)
            .map(is_active)
            .take_while(|active| active.value().is_some())
            .collect(),
    }
}

/// Those that exist; none where MIG is off.
pub(super) fn mig_devices<'a>(
    device: &'a Device<'a>,
    mode: &Answer<u32>,
) -> impl Iterator<Item = Device<'a>> + use<'a> {
    let count = match mode.value() {
        Some(1) => device.mig_device_count().unwrap_or(0).min(MIG_DEVICES_MAX),
        _ => 0,
    };
    // indices of devices that do not exist answer NVML_ERROR_NOT_FOUND
    (0..count).filter_map(|index| device.mig_device_by_index(index).ok())
}

/// One part of a call that answers several.
fn answer_of<T, U>(result: &Result<T, NvmlError>, part: impl Fn(&T) -> U) -> Answer<U> {
    match result {
        Ok(value) => Answer::Value(part(value)),
        Err(error) => Answer::failed(name(error)),
    }
}
