//! NVML's errors by the names of its header, so that a record means the same on every version.

use berth_topology::raw::Answer;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::nvmlReturn_t;

/// `nvmlReturn_t` by value, from nvml.h of CUDA 13.
const NAMES: [(nvmlReturn_t, &str); 31] = [
    (1, "NVML_ERROR_UNINITIALIZED"),
    (2, "NVML_ERROR_INVALID_ARGUMENT"),
    (3, "NVML_ERROR_NOT_SUPPORTED"),
    (4, "NVML_ERROR_NO_PERMISSION"),
    (5, "NVML_ERROR_ALREADY_INITIALIZED"),
    (6, "NVML_ERROR_NOT_FOUND"),
    (7, "NVML_ERROR_INSUFFICIENT_SIZE"),
    (8, "NVML_ERROR_INSUFFICIENT_POWER"),
    (9, "NVML_ERROR_DRIVER_NOT_LOADED"),
    (10, "NVML_ERROR_TIMEOUT"),
    (11, "NVML_ERROR_IRQ_ISSUE"),
    (12, "NVML_ERROR_LIBRARY_NOT_FOUND"),
    (13, "NVML_ERROR_FUNCTION_NOT_FOUND"),
    (14, "NVML_ERROR_CORRUPTED_INFOROM"),
    (15, "NVML_ERROR_GPU_IS_LOST"),
    (16, "NVML_ERROR_RESET_REQUIRED"),
    (17, "NVML_ERROR_OPERATING_SYSTEM"),
    (18, "NVML_ERROR_LIB_RM_VERSION_MISMATCH"),
    (19, "NVML_ERROR_IN_USE"),
    (20, "NVML_ERROR_MEMORY"),
    (21, "NVML_ERROR_NO_DATA"),
    (22, "NVML_ERROR_VGPU_ECC_NOT_SUPPORTED"),
    (23, "NVML_ERROR_INSUFFICIENT_RESOURCES"),
    (24, "NVML_ERROR_FREQ_NOT_SUPPORTED"),
    (25, "NVML_ERROR_ARGUMENT_VERSION_MISMATCH"),
    (26, "NVML_ERROR_DEPRECATED"),
    (27, "NVML_ERROR_NOT_READY"),
    (28, "NVML_ERROR_GPU_NOT_FOUND"),
    (29, "NVML_ERROR_INVALID_STATE"),
    (30, "NVML_ERROR_RESET_TYPE_NOT_SUPPORTED"),
    (999, "NVML_ERROR_UNKNOWN"),
];

/// A call's outcome as it is recorded.
pub(super) fn answer<T>(result: Result<T, NvmlError>) -> Answer<T> {
    match result {
        Ok(value) => Answer::Value(value),
        Err(error) => Answer::failed(name(&error)),
    }
}

/// The header's name of an error; a sentence for what the header has no name for.
pub(crate) fn name(error: &NvmlError) -> String {
    match error {
        // an old library lacks the newer calls
        NvmlError::FailedToLoadSymbol(_) => "NVML_ERROR_FUNCTION_NOT_FOUND".to_owned(),
        NvmlError::LibloadingError(error) => format!("libnvidia-ml cannot be opened: {error}"),
        NvmlError::Utf8Error(_) => "NVML answered a text that is not UTF-8".to_owned(),
        other => code_of(other).map_or_else(|| other.to_string(), name_of_code),
    }
}

/// The name of a return code other than success.
pub(super) fn name_of_code(code: nvmlReturn_t) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == code);
    known.map_or_else(
        || format!("NVML_ERROR_{code}"),
        |(_, name)| (*name).to_owned(),
    )
}

/// The wrapper converts by value only, and its error cannot be cloned: each code is tried.
fn code_of(error: &NvmlError) -> Option<nvmlReturn_t> {
    if let NvmlError::UnexpectedVariant(code) = error {
        return Some(*code);
    }
    let same = |code: nvmlReturn_t| {
        std::mem::discriminant(&NvmlError::from(code)) == std::mem::discriminant(error)
    };
    NAMES.iter().map(|(code, _)| *code).find(|code| same(*code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wrappers_error_type() {
        for (code, expected) in NAMES {
            assert_eq!(name(&NvmlError::from(code)), expected);
        }
    }

    #[test]
    fn a_code_of_a_newer_driver_and_a_missing_symbol_have_names_too() {
        assert_eq!(name(&NvmlError::from(77)), "NVML_ERROR_77");
        let missing = NvmlError::FailedToLoadSymbol("undefined symbol: nvmlDeviceGetX".to_owned());
        assert_eq!(name(&missing), "NVML_ERROR_FUNCTION_NOT_FOUND");
    }
}
