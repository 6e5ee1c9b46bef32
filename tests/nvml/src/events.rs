//! Events: a recorded machine has none, and says so as a GPU without them does.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t};

use crate::code::NOT_SUPPORTED;
use crate::exports;
use crate::out::Out;

exports! {
    /// Not supported.
    fn nvmlEventSetCreate(_set: Out<nvmlEventSet_t>) |_state| {
        Err(NOT_SUPPORTED)
    }

    /// None.
    fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, types: Out<c_ulonglong>) |state| {
        state.machine.gpu(device)?;
        types.put(0)
    }

    /// Not supported.
    fn nvmlDeviceRegisterEvents(
        device: nvmlDevice_t, _types: c_ulonglong, _set: nvmlEventSet_t,
    ) |state| {
        state.machine.gpu(device)?;
        Err(NOT_SUPPORTED)
    }

    /// Not supported.
    fn nvmlEventSetWait_v2(
        _set: nvmlEventSet_t, _data: Out<nvmlEventData_t>, _timeout_ms: c_uint,
    ) |_state| {
        Err(NOT_SUPPORTED)
    }

    /// Not supported.
    fn nvmlEventSetFree(_set: nvmlEventSet_t) |_state| {
        Err(NOT_SUPPORTED)
    }
}
