//! MIG: the mode of a GPU, and the devices that it is cut into.

use std::ffi::c_uint;

use berth_topology::raw::RawMigDevice;
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlDeviceAttributes_t, nvmlGpuInstance_t, nvmlGpuInstanceInfo_t,
    nvmlGpuInstancePlacement_t, nvmlReturn_t,
};

use crate::code::{INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, recorded};
use crate::exports;
use crate::machine::{Device, handle_of, position};
use crate::out::Out;
use crate::state::State;

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
        let mig = mig_of(state, device).map_err(|_| NOT_SUPPORTED)?;
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

    /// The GPU instance that a MIG device lies in.
    fn nvmlDeviceGetGpuInstanceId(device: nvmlDevice_t, id: Out<c_uint>) |state| {
        id.put(*recorded(&mig_of(state, device)?.gpu_instance_id)?)
    }

    /// Its compute instance there.
    fn nvmlDeviceGetComputeInstanceId(device: nvmlDevice_t, id: Out<c_uint>) |state| {
        id.put(*recorded(&mig_of(state, device)?.compute_instance_id)?)
    }

    /// A GPU instance, whose handle is that of the first MIG device in it.
    fn nvmlDeviceGetGpuInstanceById(
        device: nvmlDevice_t, id: c_uint, instance: Out<nvmlGpuInstance_t>,
    ) |state| {
        let mut migs = state.machine.gpu(device)?.mig_devices.iter();
        let first = migs.position(|mig| mig.gpu_instance_id.value() == Some(&id));
        let handle = handle_of(position(device)?.0, Some(first.ok_or(NOT_FOUND)?));
        instance.put(handle.cast())
    }

    /// Its number and memory slices; the profile is not recorded.
    fn nvmlGpuInstanceGetInfo(
        instance: nvmlGpuInstance_t, info: Out<nvmlGpuInstanceInfo_t>,
    ) |state| {
        let mig = mig_of(state, instance.cast())?;
        let (start, size) = *recorded(&mig.placement)?;
        info.put(nvmlGpuInstanceInfo_t {
            device: handle_of(position(instance.cast())?.0, None),
            id: *recorded(&mig.gpu_instance_id)?,
            profileId: 0,
            placement: nvmlGpuInstancePlacement_t { start, size },
        })
    }
}

fn mig_of(state: &State, device: nvmlDevice_t) -> Result<&RawMigDevice, nvmlReturn_t> {
    match state.machine.device(device)? {
        Device::Mig(mig) => Ok(mig),
        Device::Gpu(_) => Err(INVALID_ARGUMENT),
    }
}
