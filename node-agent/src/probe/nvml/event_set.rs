//! NVML's event calls, by number: the wrapper refuses kinds of events that it does not know.
//!
//! Each call checks that the library has the symbol, and passes handles of a live [`Nvml`] and pointers
//! to locals that outlive the call.
#![expect(
    unsafe_code,
    reason = "NVML is a C library; its symbols are found at run time"
)]

use std::mem::zeroed;
use std::ptr;
use std::time::Duration;

use berth_topology::ids::GpuUuid;
use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{nvmlEventData_t, nvmlEventSet_t};

use super::texts;

/// `nvmlEventTypeXidCriticalError`.
const XID: u64 = 0x8;
/// Single and double bit ECC errors, storms of the former, MIG changes, retired memory, poison, a GPU
/// that is no longer available, and recovery actions. Not clocks, performance states and power: they
/// change all the time and nothing of them is published.
const WANTED: u64 =
    0x1 | 0x2 | XID | 0x100 | 0x200 | 0x400 | 0x800 | 0x1000 | 0x2000 | 0x4000 | 0x8000;

/// Some GPUs, registered for what they support of [`WANTED`].
#[derive(Debug)]
pub(super) struct EventSet<'nvml> {
    nvml: &'nvml Nvml,
    set: nvmlEventSet_t,
    /// By address of the handle: a GPU that was lost does not tell its UUID.
    gpus: Vec<(usize, GpuUuid)>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Absent for a device that was not registered.
    pub(super) gpu: Option<GpuUuid>,
    /// The XID, where it is one.
    pub(super) xid: Option<u32>,
}

// === impl EventSet ===

impl<'nvml> EventSet<'nvml> {
    /// A set of all GPUs that support events.
    #[doc(alias = "nvmlEventSetCreate")]
    pub(super) fn of_all(nvml: &'nvml Nvml, gpus_max: u32) -> Result<Self, NvmlError> {
        let call = nvml_sym(nvml.lib().nvmlEventSetCreate.as_ref())?;
        let mut set: nvmlEventSet_t = ptr::null_mut();
        // SAFETY: the signature is the header's; `set` is a local of the type that the call writes.
        nvml_try(unsafe { call(&raw mut set) })?;
        let gpus = Vec::new();
        let mut events = Self { nvml, set, gpus };
        let mut refusal = NvmlError::NotSupported;
        for index in 0..nvml.device_count()?.min(gpus_max) {
            let device = nvml.device_by_index(index);
            if let Err(error) = device.and_then(|device| events.register(&device)) {
                refusal = error;
            }
        }
        match events.gpus.is_empty() {
            true => Err(refusal),
            false => Ok(events),
        }
    }

    pub(super) fn gpu_count(&self) -> usize {
        self.gpus.len()
    }

    #[doc(alias = "nvmlDeviceRegisterEvents")]
    fn register(&mut self, device: &Device<'_>) -> Result<(), NvmlError> {
        let types = supported(device)? & WANTED;
        if types == 0 {
            return Err(NvmlError::NotSupported);
        }
        let uuid = GpuUuid(texts::uuid(device)?);
        let call = nvml_sym(self.nvml.lib().nvmlDeviceRegisterEvents.as_ref())?;
        // SAFETY: only handed back to the library that gave it, while `device` lives.
        let handle = unsafe { device.handle() };
        // SAFETY: the signature is the header's; the handle and the set are of the open library.
        nvml_try(unsafe { call(handle, types, self.set) })?;
        self.gpus.push((handle.addr(), uuid));
        Ok(())
    }

    /// Blocks until something happens, but not longer; `None` when nothing did.
    #[doc(alias = "nvmlEventSetWait_v2")]
    pub(super) fn wait(&self, wait_max: Duration) -> Result<Option<Event>, NvmlError> {
        let call = nvml_sym(self.nvml.lib().nvmlEventSetWait_v2.as_ref())?;
        let wait_ms = u32::try_from(wait_max.as_millis()).unwrap_or(u32::MAX);
        // SAFETY: plain numbers and a pointer that is never followed; all zero bits are valid.
        let mut data: nvmlEventData_t = unsafe { zeroed() };
        // SAFETY: the signature is the header's; the set is of the open library and `data` a local.
        match nvml_try(unsafe { call(self.set, &raw mut data, wait_ms) }) {
            Ok(()) => Ok(Some(self.event(&data))),
            Err(NvmlError::Timeout) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn event(&self, data: &nvmlEventData_t) -> Event {
        let handle = data.device.addr();
        let gpu = self.gpus.iter().find(|(of_gpu, _)| *of_gpu == handle);
        Event {
            gpu: gpu.map(|(_, uuid)| uuid.clone()),
            xid: (data.eventType == XID).then(|| u32::try_from(data.eventData).unwrap_or(u32::MAX)),
        }
    }
}

impl Drop for EventSet<'_> {
    #[doc(alias = "nvmlEventSetFree")]
    fn drop(&mut self) {
        if let Ok(call) = nvml_sym(self.nvml.lib().nvmlEventSetFree.as_ref()) {
            // SAFETY: the set is of the open library, and nobody uses it after this. There is nobody
            // to tell a failure.
            let _ = unsafe { call(self.set) };
        }
    }
}

#[doc(alias = "nvmlDeviceGetSupportedEventTypes")]
fn supported(device: &Device<'_>) -> Result<u64, NvmlError> {
    let lib = device.nvml().lib();
    let call = nvml_sym(lib.nvmlDeviceGetSupportedEventTypes.as_ref())?;
    let mut types = 0;
    // SAFETY: the signature is the header's; the handle lives as long as `device`, and `types` is a
    // local of the type that the call writes.
    nvml_try(unsafe { call(device.handle(), &raw mut types) })?;
    Ok(types)
}
