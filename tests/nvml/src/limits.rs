//! Power, temperature, NVLink-C2C and virtualisation of a device.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlC2cModeInfo_v1_t, nvmlDevice_t, nvmlGpuVirtualizationMode_t,
    nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_COUNT as THRESHOLDS,
    nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_SHUTDOWN as SHUTDOWN,
    nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_SLOWDOWN as SLOWDOWN,
    nvmlTemperatureThresholds_t,
};

use crate::code::{INVALID_ARGUMENT, NOT_SUPPORTED, recorded};
use crate::exports;
use crate::out::Out;

exports! {
    /// Power limit after a boot.
    fn nvmlDeviceGetPowerManagementDefaultLimit(device: nvmlDevice_t, limit: Out<c_uint>) |state| {
        limit.put(*recorded(&state.machine.gpu(device)?.power_default_milliwatts)?)
    }

    /// The least of all limits.
    fn nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, limit: Out<c_uint>) |state| {
        limit.put(*recorded(&state.machine.gpu(device)?.power_enforced_milliwatts)?)
    }

    /// What may be set.
    fn nvmlDeviceGetPowerManagementLimitConstraints(
        device: nvmlDevice_t, least: Out<c_uint>, most: Out<c_uint>,
    ) |state| {
        let range = recorded(&state.machine.gpu(device)?.power_range_milliwatts)?;
        least.put(range.0)?;
        most.put(range.1)
    }

    /// Where it slows down and where it shuts down; others are not recorded.
    fn nvmlDeviceGetTemperatureThreshold(
        device: nvmlDevice_t, which: nvmlTemperatureThresholds_t, celsius: Out<c_uint>,
    ) |state| {
        let gpu = state.machine.gpu(device)?;
        match which {
            SHUTDOWN => celsius.put(*recorded(&gpu.shutdown_celsius)?),
            SLOWDOWN => celsius.put(*recorded(&gpu.slowdown_celsius)?),
            which if which < THRESHOLDS => Err(NOT_SUPPORTED),
            _ => Err(INVALID_ARGUMENT),
        }
    }

    /// Whether NVLink-C2C is in use. The struct has no version.
    fn nvmlDeviceGetC2cModeInfoV(device: nvmlDevice_t, info: Out<nvmlC2cModeInfo_v1_t>) |state| {
        let is_enabled = *recorded(&state.machine.gpu(device)?.c2c_enabled)?;
        info.put(nvmlC2cModeInfo_v1_t { isC2cEnabled: is_enabled.into() })
    }

    /// Whether it is passed through, cut into vGPUs, or one.
    fn nvmlDeviceGetVirtualizationMode(
        device: nvmlDevice_t, mode: Out<nvmlGpuVirtualizationMode_t>,
    ) |state| {
        mode.put(*recorded(&state.machine.gpu(device)?.virtualization_mode)?)
    }
}
