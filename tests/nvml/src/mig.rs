//! MIG: the mode of a GPU, and the devices that it is cut into.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlDeviceAttributes_t};

use crate::code::{INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, recorded};
use crate::exports;
use crate::machine::{Device, handle_of, position};
use crate::out::Out;

/// MIG devices that a GPU has at most.
const MIG_DEVICES_MAX: c_uint = 7;

exports! {
    /// Current and pending mode, which are equal here.
    fn nvmlDeviceGetMigMode(
        device: nvmlDevice_t, current: Out<c_uint>, pending: Out<c_uint>,
    ) |state| {
        let mode = *recorded(&state.machine.gpu(device)?.mig_mode)?;
        current.put(mode)?;
        pending.put(mode)
    }

    /// Seven, or none where MIG is off or unknown.
    fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: Out<c_uint>) |state| {
        let is_on = state.machine.gpu(device)?.mig_mode.value() == Some(&1);
        count.put(if is_on { MIG_DEVICES_MAX } else { 0 })
    }

    /// The MIG device at an index.
    fn nvmlDeviceGetMigDeviceHandleByIndex(
        device: nvmlDevice_t, index: c_uint, mig: Out<nvmlDevice_t>,
    ) |state| {
        let gpu = state.machine.gpu(device)?;
        recorded(&gpu.mig_mode)?;
        let index = usize::try_from(index).map_err(|_| INVALID_ARGUMENT)?;
        gpu.mig_devices.get(index).ok_or(NOT_FOUND)?;
        mig.put(handle_of(position(device)?.0, Some(index)))
    }

    /// The GPU that a MIG device is part of.
    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
        mig: nvmlDevice_t, device: Out<nvmlDevice_t>,
    ) |state| {
        match state.machine.device(mig)? {
            Device::Mig(_) => device.put(handle_of(position(mig)?.0, None)),
            Device::Gpu(_) => Err(INVALID_ARGUMENT),
        }
    }

    /// Whether a handle is a MIG device's.
    fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, is_mig: Out<c_uint>) |state| {
        is_mig.put(matches!(state.machine.device(device)?, Device::Mig(_)).into())
    }

    /// Slices and memory of a MIG device.
    fn nvmlDeviceGetAttributes_v2(
        device: nvmlDevice_t, attributes: Out<nvmlDeviceAttributes_t>,
    ) |state| {
        let Device::Mig(mig) = state.machine.device(device)? else { return Err(NOT_SUPPORTED) };
        let slices = *recorded(&mig.slices)?;
        let memory_bytes = *recorded(&mig.memory_total_bytes)?;
        attributes.put(nvmlDeviceAttributes_t {
            multiprocessorCount: 0,
            sharedCopyEngineCount: 0,
            sharedDecoderCount: 0,
            sharedEncoderCount: 0,
            sharedJpegCount: 0,
            sharedOfaCount: 0,
            gpuInstanceSliceCount: slices,
            computeInstanceSliceCount: slices,
            memorySizeMB: memory_bytes >> 20,
        })
    }
}
