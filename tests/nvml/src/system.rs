//! The library and the driver: init, shutdown, versions, error texts.

use std::ffi::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::nvmlReturn_t;

use crate::code::{NOT_SUPPORTED, recorded, text};
use crate::exports;
use crate::out::Out;
use crate::state;

/// Reads the machine; counted.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    state::init("nvmlInit_v2")
}

/// The same; all flags are accepted.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    state::init("nvmlInitWithFlags")
}

/// Undoes one init.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    state::shutdown()
}

/// The text of a code. Works before init.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    text(result).as_ptr()
}

exports! {
    /// The driver's version.
    fn nvmlSystemGetDriverVersion(version: Out<c_char>, length: c_uint) |state| {
        version.put_text(length, recorded(&state.machine.nvml()?.driver_version)?)
    }

    /// NVML's version.
    fn nvmlSystemGetNVMLVersion(version: Out<c_char>, length: c_uint) |state| {
        version.put_text(length, recorded(&state.machine.nvml()?.nvml_version)?)
    }

    /// Not recorded.
    fn nvmlSystemGetCudaDriverVersion_v2(_version: Out<c_int>) |_state| {
        Err(NOT_SUPPORTED)
    }
}
