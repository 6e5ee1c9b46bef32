//! NVML calls that the wrapper lacks, or whose answer it narrows to values that it knows.
//!
//! Beside `event_set` and `texts` the one file with `unsafe`. Each call checks that the library has the symbol, passes a handle of
//! a live [`Device`] and pointers to locals that outlive the call, and reads them on success only.
#![expect(
    unsafe_code,
    reason = "NVML is a C library; its symbols are found at run time"
)]

use std::mem::{size_of, zeroed};

use berth_topology::raw::RawFabric;
use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper_sys::bindings::{
    nvmlC2cModeInfo_v1_t, nvmlFieldValue_t, nvmlGpuFabricInfo_v3_t, nvmlGpuInstanceInfo_t,
    nvmlMemory_t, nvmlValue_t, nvmlValueType_t,
};

/// `NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON`: the same for all links.
const FIELD_SPEED_COMMON: u32 = 90;
/// `NVML_FI_DEV_NVLINK_LINK_COUNT`.
const FIELD_LINK_COUNT: u32 = 91;
/// `NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT`.
const FIELD_NVSWITCH_LINK_COUNT: u32 = 147;
/// `NVML_FI_DEV_NVLINK_GET_SPEED`: of the link that the scope names, in MB/s.
const FIELD_LINK_SPEED: u32 = 164;
/// `NVML_FI_DEV_C2C_LINK_COUNT`.
const FIELD_C2C_LINK_COUNT: u32 = 170;
/// `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`.
const FIELD_RECOVERY_ACTION: u32 = 230;

/// `nvmlGpuP2PCapsIndex_t`: what one GPU may do to another.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum P2p {
    Read = 0,
    Write = 1,
    NvLink = 2,
    Atomics = 3,
}

/// `nvmlTemperatureThresholds_t`, of which these two are asked.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum Threshold {
    Shutdown = 0,
    Slowdown = 1,
}

/// Row remapping of a GPU's memory.
pub(super) struct RemappedRows {
    /// A remapping waits for a reset.
    pub(super) is_pending: bool,
    /// A remapping failed: the memory is to be replaced.
    pub(super) has_failed: bool,
}

/// Calls `$symbol(device, args…, &mut out)` and gives `out`.
macro_rules! ask {
    ($device:expr, $symbol:ident $(, $arg:expr)*) => {{
        let call = nvml_sym($device.nvml().lib().$symbol.as_ref())?;
        let mut out = 0;
        // SAFETY: the signature is the header's; the handle lives as long as `$device`, and `out`
        // is a local of the type that the call writes.
        nvml_try(unsafe { call($device.handle() $(, $arg)*, &raw mut out) })?;
        Ok(out)
    }};
}

#[doc(alias = "nvmlDeviceGetModuleId")]
pub(super) fn module_id(device: &Device<'_>) -> Result<u32, NvmlError> {
    ask!(device, nvmlDeviceGetModuleId)
}

/// The level as a number: the wrapper refuses levels that it does not know.
#[doc(alias = "nvmlDeviceGetTopologyCommonAncestor")]
pub(super) fn common_ancestor(device: &Device<'_>, other: &Device<'_>) -> Result<u32, NvmlError> {
    // SAFETY: only handed back to the library that gave it, while `other` lives.
    let other = unsafe { other.handle() };
    ask!(device, nvmlDeviceGetTopologyCommonAncestor, other)
}

/// The status as a number, 0 for a pair that can.
#[doc(alias = "nvmlDeviceGetP2PStatus")]
pub(super) fn p2p(device: &Device<'_>, other: &Device<'_>, what: P2p) -> Result<u32, NvmlError> {
    // SAFETY: only handed back to the library that gave it, while `other` lives.
    let other = unsafe { other.handle() };
    ask!(device, nvmlDeviceGetP2PStatus, other, what as u32)
}

/// In degrees Celsius.
#[doc(alias = "nvmlDeviceGetTemperatureThreshold")]
pub(super) fn threshold_celsius(device: &Device<'_>, which: Threshold) -> Result<u32, NvmlError> {
    ask!(device, nvmlDeviceGetTemperatureThreshold, which as u32)
}

#[doc(alias = "nvmlDeviceGetPowerManagementDefaultLimit")]
pub(super) fn power_default_milliwatts(device: &Device<'_>) -> Result<u32, NvmlError> {
    ask!(device, nvmlDeviceGetPowerManagementDefaultLimit)
}

#[doc(alias = "nvmlDeviceGetEnforcedPowerLimit")]
pub(super) fn power_enforced_milliwatts(device: &Device<'_>) -> Result<u32, NvmlError> {
    ask!(device, nvmlDeviceGetEnforcedPowerLimit)
}

/// Least and most.
#[doc(alias = "nvmlDeviceGetPowerManagementLimitConstraints")]
pub(super) fn power_range_milliwatts(device: &Device<'_>) -> Result<(u32, u32), NvmlError> {
    let mut least = 0;
    let most: Result<u32, NvmlError> = ask!(
        device,
        nvmlDeviceGetPowerManagementLimitConstraints,
        &raw mut least
    );
    most.map(|most| (least, most))
}

/// The mode as a number: the wrapper refuses those that it does not know.
#[doc(alias = "nvmlDeviceGetVirtualizationMode")]
pub(super) fn virtualization_mode(device: &Device<'_>) -> Result<u32, NvmlError> {
    ask!(device, nvmlDeviceGetVirtualizationMode)
}

#[doc(alias = "nvmlDeviceGetGpuInstanceId")]
pub(super) fn gpu_instance_id(mig: &Device<'_>) -> Result<u32, NvmlError> {
    ask!(mig, nvmlDeviceGetGpuInstanceId)
}

#[doc(alias = "nvmlDeviceGetComputeInstanceId")]
pub(super) fn compute_instance_id(mig: &Device<'_>) -> Result<u32, NvmlError> {
    ask!(mig, nvmlDeviceGetComputeInstanceId)
}

/// First memory slice of a GPU instance and how many; NVML tells administrators only.
#[doc(alias = "nvmlGpuInstanceGetInfo")]
pub(super) fn placement(gpu: &Device<'_>, gpu_instance_id: u32) -> Result<(u32, u32), NvmlError> {
    let lib = gpu.nvml().lib();
    let find = nvml_sym(lib.nvmlDeviceGetGpuInstanceById.as_ref())?;
    let describe = nvml_sym(lib.nvmlGpuInstanceGetInfo.as_ref())?;
    let mut instance = std::ptr::null_mut();
    // SAFETY: as in `ask`; a handle is a pointer that only the library follows.
    nvml_try(unsafe { find(gpu.handle(), gpu_instance_id, &raw mut instance) })?;
    // SAFETY: plain numbers and a handle; all zero bits are valid.
    let mut info: nvmlGpuInstanceInfo_t = unsafe { zeroed() };
    // SAFETY: the handle was just given by the library, and the struct is that of the call.
    nvml_try(unsafe { describe(instance, &raw mut info) })?;
    Ok((info.placement.start, info.placement.size))
}

#[doc(alias = "nvmlDeviceGetC2cModeInfoV")]
pub(super) fn is_c2c_enabled(device: &Device<'_>) -> Result<bool, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetC2cModeInfoV.as_ref())?;
    let mut info = nvmlC2cModeInfo_v1_t { isC2cEnabled: 0 };
    // SAFETY: as in `ask`; the struct is that of the call, and has no version in it.
    nvml_try(unsafe { call(device.handle(), &raw mut info) })?;
    Ok(info.isC2cEnabled != 0)
}

/// How many C2C links the GPU has.
pub(super) fn c2c_link_count(device: &Device<'_>) -> Result<u32, NvmlError> {
    field(device, FIELD_C2C_LINK_COUNT, 0).and_then(count)
}

#[doc(alias = "nvmlDeviceGetNvLinkRemoteDeviceType")]
pub(super) fn nvlink_remote_type(device: &Device<'_>, link: u32) -> Result<u32, NvmlError> {
    ask!(device, nvmlDeviceGetNvLinkRemoteDeviceType, link)
}

/// Total memory by the first version of the call, which every driver and MIG devices answer.
#[doc(alias = "nvmlDeviceGetMemoryInfo")]
pub(super) fn memory_total_bytes_v1(device: &Device<'_>) -> Result<u64, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetMemoryInfo.as_ref())?;
    let mut memory = nvmlMemory_t {
        total: 0,
        free: 0,
        used: 0,
    };
    // SAFETY: as in `ask`; `memory` is the struct of this version of the call.
    nvml_try(unsafe { call(device.handle(), &raw mut memory) })?;
    Ok(memory.total)
}

#[doc(alias = "nvmlDeviceGetRemappedRows")]
pub(super) fn remapped_rows(device: &Device<'_>) -> Result<RemappedRows, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetRemappedRows.as_ref())?;
    let (mut corrected, mut uncorrected, mut pending, mut failed) = (0, 0, 0, 0);
    // SAFETY: as in `ask`; the call writes one unsigned int through each pointer.
    let code = unsafe {
        call(
            device.handle(),
            &raw mut corrected,
            &raw mut uncorrected,
            &raw mut pending,
            &raw mut failed,
        )
    };
    nvml_try(code)?;
    Ok(RemappedRows {
        is_pending: pending != 0,
        has_failed: failed != 0,
    })
}

/// How many NVLinks the GPU has, connected or not.
pub(super) fn nvlink_count(device: &Device<'_>) -> Result<u32, NvmlError> {
    field(device, FIELD_LINK_COUNT, 0).and_then(count)
}

/// How many of its NVLinks end at a switch.
pub(super) fn nvswitch_link_count(device: &Device<'_>) -> Result<u32, NvmlError> {
    field(device, FIELD_NVSWITCH_LINK_COUNT, 0).and_then(count)
}

/// What the driver wants done: `nvmlDeviceGpuRecoveryAction_t`.
pub(super) fn recovery_action(device: &Device<'_>) -> Result<u32, NvmlError> {
    field(device, FIELD_RECOVERY_ACTION, 0).and_then(count)
}

/// Speed of one link in MB/s; drivers before 510 know only the speed common to all links.
pub(super) fn nvlink_speed_mb_per_second(device: &Device<'_>, link: u32) -> Result<u64, NvmlError> {
    let failed = match field(device, FIELD_LINK_SPEED, link) {
        Ok(speed) => return Ok(speed),
        Err(error) => error,
    };
    field(device, FIELD_SPEED_COMMON, 0).map_err(|_| failed)
}

fn count(value: u64) -> Result<u32, NvmlError> {
    u32::try_from(value).map_err(|_| NvmlError::Unknown)
}

/// One field; the wrapper cannot pass a scope.
#[doc(alias = "nvmlDeviceGetFieldValues")]
fn field(device: &Device<'_>, field_id: u32, scope: u32) -> Result<u64, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetFieldValues.as_ref())?;
    // SAFETY: plain numbers and a union of numbers; all zero bits are valid in each.
    let mut value: nvmlFieldValue_t = unsafe { zeroed() };
    value.fieldId = field_id;
    value.scopeId = scope;
    // SAFETY: as in `ask`; the count is that of the values behind the pointer.
    nvml_try(unsafe { call(device.handle(), 1, &raw mut value) })?;
    nvml_try(value.nvmlReturn)?;
    number(value.valueType, value.value).ok_or(NvmlError::UnexpectedVariant(value.valueType))
}

/// A field's value, if it is a whole number that is not negative.
fn number(kind: nvmlValueType_t, value: nvmlValue_t) -> Option<u64> {
    // SAFETY: each member is a number and the union was zeroed before the call wrote to it, so
    // that whichever member is read is initialised, and every bit pattern of it is valid.
    unsafe {
        match kind {
            1 => Some(u64::from(value.uiVal)),
            2 => Some(value.ulVal),
            3 => Some(value.ullVal),
            4 => u64::try_from(value.sllVal).ok(),
            5 => u64::try_from(value.siVal).ok(),
            6 => Some(u64::from(value.usVal)),
            _ => None,
        }
    }
}

/// Registration with the NVSwitch fabric. Version 3 of the struct extends version 2, which older
/// drivers ask for.
#[doc(alias = "nvmlDeviceGetGpuFabricInfoV")]
pub(super) fn fabric(device: &Device<'_>) -> Result<RawFabric, NvmlError> {
    /// `NVML_ERROR_ARGUMENT_VERSION_MISMATCH`.
    const VERSION_MISMATCH: u32 = 25;
    match fabric_of_version(device, 3) {
        Err(NvmlError::UnexpectedVariant(VERSION_MISMATCH)) => fabric_of_version(device, 2),
        result => result,
    }
}

fn fabric_of_version(device: &Device<'_>, version: u32) -> Result<RawFabric, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetGpuFabricInfoV.as_ref())?;
    // SAFETY: plain numbers; all zero bits are valid.
    let mut info: nvmlGpuFabricInfo_v3_t = unsafe { zeroed() };
    info.version = struct_version(version);
    // SAFETY: as in `ask`; the struct of version 2 is the beginning of that of version 3, so that
    // the call writes inside it for both.
    nvml_try(unsafe { call(device.handle(), &raw mut info) })?;
    Ok(RawFabric {
        cluster_uuid: uuid_text(info.clusterUuid),
        clique_id: info.cliqueId,
        state: u32::from(info.state),
        status: info.status,
        health_mask: info.healthMask,
        // zero where the struct of version 2 ends before it: not told
        health_summary: u32::from(info.healthSummary),
    })
}

/// `NVML_STRUCT_VERSION`: the struct's size with the version in the top byte.
fn struct_version(version: u32) -> u32 {
    use nvml_wrapper_sys::bindings::nvmlGpuFabricInfo_v2_t;
    let size = match version {
        2 => size_of::<nvmlGpuFabricInfo_v2_t>(),
        _ => size_of::<nvmlGpuFabricInfo_v3_t>(),
    };
    u32::try_from(size).expect("a struct of some bytes") | version << 24
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (position, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&position) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn struct_versions_are_those_of_the_header() {
        assert_eq!(struct_version(2), 2 << 24 | 36);
        assert_eq!(struct_version(3), 3 << 24 | 40);
    }

    #[test]
    fn a_cluster_uuid_is_written_as_uuids_are() {
        let bytes = std::array::from_fn(|byte| u8::try_from(byte * 16 + 1).unwrap());
        assert_eq!(uuid_text(bytes), "01112131-4151-6171-8191-a1b1c1d1e1f1");
    }
}
