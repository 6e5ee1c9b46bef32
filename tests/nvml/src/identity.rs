//! Which devices there are, and who each is.

use std::ffi::{c_char, c_uint};

use berth_topology::raw::Answer;
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlPciInfo_t, nvmlReturn_t};

use crate::code::{INVALID_ARGUMENT, NOT_SUPPORTED, UNKNOWN, recorded};
use crate::exports;
use crate::machine::{Device, handle_of, position};
use crate::out::{Out, array, text};

/// NVIDIA's PCI vendor, the low half of `pciDeviceId`; the device half is not recorded.
const VENDOR_ID: c_uint = 0x10de;

exports! {
    /// How many GPUs.
    fn nvmlDeviceGetCount_v2(count: Out<c_uint>) |state| {
        count.put(*recorded(&state.machine.nvml()?.device_count)?)
    }

    /// The GPU at an index.
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: Out<nvmlDevice_t>) |state| {
        let index = usize::try_from(index).map_err(|_| INVALID_ARGUMENT)?;
        state.machine.gpu_at(index)?;
        device.put(handle_of(index, None))
    }

    /// The GPU or MIG device with a UUID.
    fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: Out<nvmlDevice_t>) |state| {
        let uuid = text(uuid)?;
        device.put(state.machine.find(|device| device.uuid().value() == Some(&uuid))?)
    }

    /// The GPU at a PCI address, in any spelling of NVML's or the kernel's.
    fn nvmlDeviceGetHandleByPciBusId_v2(bus_id: *const c_char, device: Out<nvmlDevice_t>) |state| {
        let wanted = parse_bus_id(&text(bus_id)?)?;
        let is_there = |device: Device<'_>| match device {
            Device::Gpu(gpu) => {
                gpu.pci_bus_id.value().and_then(|id| parse_bus_id(id).ok()) == Some(wanted)
            }
            Device::Mig(_) => false,
        };
        device.put(state.machine.find(is_there)?)
    }

    /// `GPU-…` or `MIG-…`.
    fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: Out<c_char>, length: c_uint) |state| {
        uuid.put_text(length, recorded(state.machine.device(device)?.uuid())?)
    }

    /// Product name.
    fn nvmlDeviceGetName(device: nvmlDevice_t, name: Out<c_char>, length: c_uint) |state| {
        name.put_text(length, recorded(state.machine.device(device)?.name())?)
    }

    /// Not recorded.
    fn nvmlDeviceGetSerial(device: nvmlDevice_t, _serial: Out<c_char>, _length: c_uint) |state| {
        state.machine.gpu(device)?;
        Err(NOT_SUPPORTED)
    }

    /// The position that gave the handle.
    fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: Out<c_uint>) |state| {
        state.machine.gpu(device)?;
        index.put(c_uint::try_from(position(device)?.0).map_err(|_| UNKNOWN)?)
    }

    /// Number of `/dev/nvidiaN`.
    fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: Out<c_uint>) |state| {
        minor.put(*recorded(&state.machine.gpu(device)?.minor)?)
    }

    /// The fabric manager's number.
    fn nvmlDeviceGetModuleId(device: nvmlDevice_t, module: Out<c_uint>) |state| {
        module.put(*recorded(&state.machine.gpu(device)?.module_id)?)
    }

    /// Where it is on PCI.
    fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: Out<nvmlPciInfo_t>) |state| {
        pci.put(pci_info(&state.machine.gpu(device)?.pci_bus_id)?)
    }
}

/// A recorded address as NVML's struct.
pub(crate) fn pci_info(address: &Answer<String>) -> Result<nvmlPciInfo_t, nvmlReturn_t> {
    let text = recorded(address)?;
    let (domain, bus, device) = parse_bus_id(text).map_err(|_| UNKNOWN)?;
    let function = text.rsplit_once('.').map_or("0", |(_, function)| function);
    Ok(nvmlPciInfo_t {
        busIdLegacy: array(&format!("{domain:04X}:{bus:02X}:{device:02X}.{function}")),
        domain,
        bus,
        device,
        pciDeviceId: VENDOR_ID,
        pciSubSystemId: 0,
        busId: array(text),
    })
}

/// Domain, bus and device of `00000000:1A:00.0`, `0000:1a:00.0` or `1a:00.0`.
fn parse_bus_id(text: &str) -> Result<(c_uint, c_uint, c_uint), nvmlReturn_t> {
    let hex = |digits: &str| c_uint::from_str_radix(digits, 16).map_err(|_| INVALID_ARGUMENT);
    let parts: Vec<&str> = text.split([':', '.']).collect();
    match parts[..] {
        [domain, bus, device, _function] => Ok((hex(domain)?, hex(bus)?, hex(device)?)),
        [bus, device, _function] => Ok((0, hex(bus)?, hex(device)?)),
        _ => Err(INVALID_ARGUMENT),
    }
}
