//! Field values: the link counts, states and speeds that have no function of their own.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::field_id::{
    NVML_FI_DEV_C2C_LINK_COUNT, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, NVML_FI_DEV_NVLINK_GET_SPEED,
    NVML_FI_DEV_NVLINK_GET_STATE, NVML_FI_DEV_NVLINK_LINK_COUNT,
    NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON, NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT,
};
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlFieldValue_t, nvmlReturn_t, nvmlValue_t,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT as UNSIGNED_INT,
};

use crate::code::{INVALID_ARGUMENT, NOT_SUPPORTED, SUCCESS, UNKNOWN, recorded};
use crate::exports;
use crate::out::Out;
use crate::state::State;

exports! {
    /// Answers each field by itself: the call succeeds, a field may not.
    fn nvmlDeviceGetFieldValues(
        device: nvmlDevice_t, count: std::ffi::c_int, values: Out<nvmlFieldValue_t>,
    ) |state| {
        state.machine.gpu(device)?;
        let count = c_uint::try_from(count).map_err(|_| INVALID_ARGUMENT)?;
        values.update(count, |field| answered(state, device, field))
    }
}

fn answered(state: &State, device: nvmlDevice_t, field: nvmlFieldValue_t) -> nvmlFieldValue_t {
    let (code, value) = match value_of(state, device, field.fieldId, field.scopeId) {
        Ok(value) => (SUCCESS, value),
        Err(code) => (code, 0),
    };
    nvmlFieldValue_t {
        timestamp: 0,
        latencyUsec: 0,
        valueType: UNSIGNED_INT,
        nvmlReturn: code,
        // All bytes are set, for callers that read it as a wider number.
        value: nvmlValue_t {
            ullVal: u64::from(value),
        },
        ..field
    }
}

fn value_of(
    state: &State,
    device: nvmlDevice_t,
    field: c_uint,
    scope: c_uint,
) -> Result<c_uint, nvmlReturn_t> {
    let gpu = state.machine.gpu(device)?;
    match field {
        NVML_FI_DEV_NVLINK_LINK_COUNT => recorded(&gpu.nvlink_count).copied(),
        NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT => recorded(&gpu.nvswitch_link_count).copied(),
        NVML_FI_DEV_GET_GPU_RECOVERY_ACTION => recorded(&gpu.recovery_action).copied(),
        NVML_FI_DEV_C2C_LINK_COUNT => recorded(&gpu.c2c_link_count).copied(),
        NVML_FI_DEV_NVLINK_GET_SPEED => speed(state, device, scope),
        NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON => speed(state, device, 0),
        NVML_FI_DEV_NVLINK_GET_STATE => Ok(c_uint::from(*recorded(
            &state.machine.link(device, scope)?.active,
        )?)),
        _ => Err(NOT_SUPPORTED),
    }
}

/// A link's speed in MB/s.
fn speed(state: &State, device: nvmlDevice_t, link: c_uint) -> Result<c_uint, nvmlReturn_t> {
    let speed = *recorded(&state.machine.link(device, link)?.speed_mb_per_second)?;
    c_uint::try_from(speed).map_err(|_| UNKNOWN)
}
