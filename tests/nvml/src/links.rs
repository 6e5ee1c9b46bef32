//! NVLinks, one by one.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEnableState_t, nvmlIntNvLinkDeviceType_t,
    nvmlNvLinkCapability_enum_NVML_NVLINK_CAP_COUNT as CAPABILITY_COUNT,
    nvmlNvLinkCapability_enum_NVML_NVLINK_CAP_SLI_BRIDGE as SLI_BRIDGE, nvmlNvLinkCapability_t,
    nvmlPciInfo_t,
};

use crate::code::{INVALID_ARGUMENT, recorded};
use crate::exports;
use crate::identity::pci_info;
use crate::out::Out;

exports! {
    /// Whether a link is active.
    fn nvmlDeviceGetNvLinkState(
        device: nvmlDevice_t, link: c_uint, active: Out<nvmlEnableState_t>,
    ) |state| {
        active.put((*recorded(&state.machine.link(device, link)?.active)?).into())
    }

    /// Its version, `nvmlNvlinkVersion_t`.
    fn nvmlDeviceGetNvLinkVersion(
        device: nvmlDevice_t, link: c_uint, version: Out<c_uint>,
    ) |state| {
        version.put(*recorded(&state.machine.link(device, link)?.version)?)
    }

    /// An active link can do everything but be an SLI bridge; one that is down cannot do anything.
    fn nvmlDeviceGetNvLinkCapability(
        device: nvmlDevice_t,
        link: c_uint,
        capability: nvmlNvLinkCapability_t,
        result: Out<c_uint>,
    ) |state| {
        let is_active = *recorded(&state.machine.link(device, link)?.active)?;
        match capability {
            SLI_BRIDGE => result.put(0),
            known if known < CAPABILITY_COUNT => result.put(c_uint::from(is_active)),
            _ => Err(INVALID_ARGUMENT),
        }
    }

    /// What is at its other end.
    fn nvmlDeviceGetNvLinkRemoteDeviceType(
        device: nvmlDevice_t, link: c_uint, kind: Out<nvmlIntNvLinkDeviceType_t>,
    ) |state| {
        kind.put(*recorded(&state.machine.link(device, link)?.remote_type)?)
    }

    /// Where that is on PCI.
    fn nvmlDeviceGetNvLinkRemotePciInfo_v2(
        device: nvmlDevice_t, link: c_uint, pci: Out<nvmlPciInfo_t>,
    ) |state| {
        pci.put(pci_info(&state.machine.link(device, link)?.remote_pci_bus_id)?)
    }
}
