//! NVML's return codes: their numbers, the names in raw files, the texts of `nvmlErrorString`.

use std::ffi::CStr;

use berth_topology::raw::Answer;
use nvml_wrapper_sys::bindings::nvmlReturn_t;
pub(crate) use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH as ARGUMENT_VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED as DRIVER_NOT_LOADED,
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as GPU_IS_LOST,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_ERROR_TIMEOUT as TIMEOUT,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED,
    nvmlReturn_enum_NVML_ERROR_UNKNOWN as UNKNOWN, nvmlReturn_enum_NVML_SUCCESS as SUCCESS,
};

/// `nvmlReturn_t` of CUDA 13's `nvml.h`: number, name, text.
const TABLE: [(nvmlReturn_t, &str, &CStr); 32] = [
    (0, "NVML_SUCCESS", c"Success"),
    (1, "NVML_ERROR_UNINITIALIZED", c"Uninitialized"),
    (2, "NVML_ERROR_INVALID_ARGUMENT", c"Invalid Argument"),
    (3, "NVML_ERROR_NOT_SUPPORTED", c"Not Supported"),
    (4, "NVML_ERROR_NO_PERMISSION", c"Insufficient Permissions"),
    (5, "NVML_ERROR_ALREADY_INITIALIZED", c"Already Initialized"),
    (6, "NVML_ERROR_NOT_FOUND", c"Not Found"),
    (7, "NVML_ERROR_INSUFFICIENT_SIZE", c"Insufficient Size"),
    (
        8,
        "NVML_ERROR_INSUFFICIENT_POWER",
        c"Insufficient External Power",
    ),
    (9, "NVML_ERROR_DRIVER_NOT_LOADED", c"Driver Not Loaded"),
    (10, "NVML_ERROR_TIMEOUT", c"Timeout"),
    (11, "NVML_ERROR_IRQ_ISSUE", c"Interrupt Request Issue"),
    (
        12,
        "NVML_ERROR_LIBRARY_NOT_FOUND",
        c"NVML Shared Library Not Found",
    ),
    (13, "NVML_ERROR_FUNCTION_NOT_FOUND", c"Function Not Found"),
    (14, "NVML_ERROR_CORRUPTED_INFOROM", c"Corrupted infoROM"),
    (15, "NVML_ERROR_GPU_IS_LOST", c"GPU is lost"),
    (16, "NVML_ERROR_RESET_REQUIRED", c"GPU requires reset"),
    (
        17,
        "NVML_ERROR_OPERATING_SYSTEM",
        c"GPU access blocked by the operating system",
    ),
    (
        18,
        "NVML_ERROR_LIB_RM_VERSION_MISMATCH",
        c"Driver/library version mismatch",
    ),
    (19, "NVML_ERROR_IN_USE", c"In use by another client"),
    (20, "NVML_ERROR_MEMORY", c"Insufficient Memory"),
    (21, "NVML_ERROR_NO_DATA", c"No data"),
    (
        22,
        "NVML_ERROR_VGPU_ECC_NOT_SUPPORTED",
        c"vGPU ECC Not Supported",
    ),
    (
        23,
        "NVML_ERROR_INSUFFICIENT_RESOURCES",
        c"Insufficient Resources",
    ),
    (
        24,
        "NVML_ERROR_FREQ_NOT_SUPPORTED",
        c"Frequency Not Supported",
    ),
    (
        25,
        "NVML_ERROR_ARGUMENT_VERSION_MISMATCH",
        c"Argument version mismatch",
    ),
    (26, "NVML_ERROR_DEPRECATED", c"Deprecated"),
    (27, "NVML_ERROR_NOT_READY", c"Not Ready"),
    (28, "NVML_ERROR_GPU_NOT_FOUND", c"GPU Not Found"),
    (29, "NVML_ERROR_INVALID_STATE", c"Invalid State"),
    (
        30,
        "NVML_ERROR_RESET_TYPE_NOT_SUPPORTED",
        c"Reset Type Not Supported",
    ),
    (999, "NVML_ERROR_UNKNOWN", c"Unknown Error"),
];
/// How a code without a name is recorded: `NVML_ERROR_77`.
const UNNAMED: &str = "NVML_ERROR_";

/// The text of a code, as `nvmlErrorString` gives it.
pub(crate) fn text(code: nvmlReturn_t) -> &'static CStr {
    TABLE
        .iter()
        .find(|row| row.0 == code)
        .map_or(c"Unknown Error", |row| row.2)
}

/// A recorded answer as a call's: its value, or its failure's code. A failure that is not one of
/// NVML's names is unknown.
pub(crate) fn recorded<T>(answer: &Answer<T>) -> Result<&T, nvmlReturn_t> {
    match answer {
        Answer::Value(value) => Ok(value),
        Answer::Failed { error } => Err(code(error)),
    }
}

fn code(name: &str) -> nvmlReturn_t {
    let unnamed = || {
        name.strip_prefix(UNNAMED)
            .and_then(|number| number.parse().ok())
    };
    let named = TABLE.iter().find(|row| row.1 == name).map(|row| row.0);
    named
        .or_else(unnamed)
        .filter(|code| *code != SUCCESS)
        .unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: nvmlReturn_t) {
        assert_eq!(recorded(&Answer::<u32>::failed(name)), Err(expected));
    }

    #[test]
    fn recorded_failures_keep_their_codes() {
        check("NVML_ERROR_NOT_SUPPORTED", 3);
        check("NVML_ERROR_GPU_IS_LOST", 15);
        check("NVML_ERROR_77", 77);
    }

    #[test]
    fn a_failure_is_never_a_success() {
        check("NVML_SUCCESS", 999);
        check("libnvidia-ml.so.1 was not found", 999);
    }
}
