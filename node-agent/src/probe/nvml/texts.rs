//! Texts that NVML writes into our buffers.
//!
//! The wrapper reads on until a zero byte, wherever that is. Here a text that fills its buffer without one was
//! cut, and is answered as NVML does for a buffer that is too small: a cut identity would be another one.
#![expect(
    unsafe_code,
    reason = "NVML is a C library; its symbols are found at run time"
)]

use std::ffi::{CStr, c_char, c_uint};
use std::mem::zeroed;

use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    NVML_DEVICE_NAME_V2_BUFFER_SIZE, NVML_DEVICE_UUID_V2_BUFFER_SIZE,
    NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE, NVML_SYSTEM_NVML_VERSION_BUFFER_SIZE, nvmlPciInfo_t,
    nvmlReturn_t,
};

/// `GPU-…` or `MIG-…`.
#[doc(alias = "nvmlDeviceGetUUID")]
pub(crate) fn uuid(device: &Device<'_>) -> Result<String, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetUUID.as_ref())?;
    read(NVML_DEVICE_UUID_V2_BUFFER_SIZE, |buffer, length| {
        // SAFETY: the signature is the header's; the handle lives as long as `device`, and the buffer is
        // a local of that length.
        unsafe { call(device.handle(), buffer, length) }
    })
}

/// Product name.
#[doc(alias = "nvmlDeviceGetName")]
pub(super) fn name(device: &Device<'_>) -> Result<String, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetName.as_ref())?;
    read(NVML_DEVICE_NAME_V2_BUFFER_SIZE, |buffer, length| {
        // SAFETY: as in `uuid`.
        unsafe { call(device.handle(), buffer, length) }
    })
}

#[doc(alias = "nvmlSystemGetDriverVersion")]
pub(super) fn driver_version(nvml: &Nvml) -> Result<String, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlSystemGetDriverVersion.as_ref())?;
    read(NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE, |buffer, length| {
        // SAFETY: as in `uuid`, without a handle.
        unsafe { call(buffer, length) }
    })
}

#[doc(alias = "nvmlSystemGetNVMLVersion")]
pub(super) fn nvml_version(nvml: &Nvml) -> Result<String, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlSystemGetNVMLVersion.as_ref())?;
    read(NVML_SYSTEM_NVML_VERSION_BUFFER_SIZE, |buffer, length| {
        // SAFETY: as in `uuid`, without a handle.
        unsafe { call(buffer, length) }
    })
}

/// `00000000:1A:00.0`.
#[doc(alias = "nvmlDeviceGetPciInfo_v3")]
pub(super) fn bus_id(device: &Device<'_>) -> Result<String, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetPciInfo_v3.as_ref())?;
    bus_id_in(|info| {
        // SAFETY: as in `uuid`; the struct is that of the call.
        unsafe { call(device.handle(), info) }
    })
}

/// Of what one of its NVLinks ends at.
#[doc(alias = "nvmlDeviceGetNvLinkRemotePciInfo_v2")]
pub(super) fn remote_bus_id(device: &Device<'_>, link: c_uint) -> Result<String, NvmlError> {
    let lib = device.nvml().lib();
    let call = nvml_sym(lib.nvmlDeviceGetNvLinkRemotePciInfo_v2.as_ref())?;
    bus_id_in(|info| {
        // SAFETY: as in `uuid`; the struct is that of the call.
        unsafe { call(device.handle(), link, info) }
    })
}

fn bus_id_in(call: impl FnOnce(*mut nvmlPciInfo_t) -> nvmlReturn_t) -> Result<String, NvmlError> {
    // SAFETY: plain numbers; all zero bits are valid.
    let mut info: nvmlPciInfo_t = unsafe { zeroed() };
    nvml_try(call(&raw mut info))?;
    text(&info.busId)
}

fn read(
    length: c_uint,
    call: impl FnOnce(*mut c_char, c_uint) -> nvmlReturn_t,
) -> Result<String, NvmlError> {
    let mut buffer: Vec<c_char> = (0..length).map(|_| 0).collect();
    nvml_try(call(buffer.as_mut_ptr(), length))?;
    text(&buffer)
}

fn text(buffer: &[c_char]) -> Result<String, NvmlError> {
    let bytes: Vec<u8> = buffer.iter().flat_map(|byte| byte.to_ne_bytes()).collect();
    let text = CStr::from_bytes_until_nul(&bytes);
    let text = text.map_err(|_| NvmlError::InsufficientSize(None))?;
    Ok(text.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Result<String, String> {
        let chars = bytes.iter().map(|byte| c_char::from_ne_bytes([*byte]));
        text(&chars.collect::<Vec<_>>()).map_err(|error| super::super::error::name(&error))
    }

    #[test]
    fn a_text_ends_at_the_first_zero_byte_and_nowhere_else() {
        assert_eq!(of(b"GPU-1\0rest\0"), Ok("GPU-1".to_owned()));
        assert_eq!(of(b"\0"), Ok(String::new()));
        let cut = Err("NVML_ERROR_INSUFFICIENT_SIZE".to_owned());
        assert_eq!(of(b"GPU-1"), cut);
        assert_eq!(of(b""), cut);
    }

    #[test]
    fn what_is_not_utf_8_is_no_text() {
        let why = of(b"GPU-\xff\0").unwrap_err();
        assert_eq!(why, "NVML answered a text that is not UTF-8");
    }
}
