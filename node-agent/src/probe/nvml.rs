//! NVML, opened at run time: one binary for nodes with and without GPUs.

mod calls;
mod driver_root;
mod error;
mod event_set;
mod gpu;
mod library;
mod listen;
mod texts;
mod vitals;

use std::sync::Arc;

use berth_topology::raw::{Answer, RawGpu, RawNvml};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use error::answer;
pub(crate) use error::name as nvml_error_name;
use gpu::Handle;
use library::Library;
pub use library::Place;
pub use listen::{Listener, Notice};
pub(crate) use texts::uuid as nvml_uuid;
use vitals::Vitals;

/// More than any machine has; NVML's count is not trusted beyond it.
const GPUS_MAX: u32 = 64;

/// NVML kept open between probes: opening it wakes up every GPU that nothing else uses.
#[derive(Debug, Default)]
pub(crate) struct Session {
    library: Arc<Library>,
    /// Identities as of the last full answer.
    uuids: Vec<Answer<String>>,
}

// === impl Session ===

impl Session {
    /// Asks everything, opening the library if it is not open.
    pub(crate) fn read(&mut self, place: Place<'_>) -> Answer<RawNvml> {
        match self.library.open(place) {
            Ok(nvml) => {
                let raw = read(&nvml);
                drop(nvml);
                if raw.device_count.error().is_some() {
                    // a driver that was replaced answers nothing until NVML is opened again
                    self.library.close();
                }
                self.compare_gpus(&raw);
                Answer::Value(raw)
            }
            Err(error) => Answer::failed(error.to_string()),
        }
    }

    /// Asks only what may change, and says whether it is as known. PCIe's state is written down.
    pub(crate) fn agrees_with(&self, place: Place<'_>, known: &mut Answer<RawNvml>) -> bool {
        let (Ok(nvml), Answer::Value(known)) = (self.library.open(place), known) else {
            return false;
        };
        let count = answer(nvml.device_count());
        count.value().is_some()
            && count == known.device_count
            && known
                .gpus
                .iter_mut()
                .zip(0..)
                .all(|(gpu, index)| is_gpu_as_in(&nvml.device_by_index(index), gpu))
    }

    /// Tells what happens to the GPUs that this session asks.
    pub(crate) fn listener(&self) -> Listener {
        Listener::new(self.library.clone())
    }

    fn compare_gpus(&mut self, raw: &RawNvml) {
        let uuid = |gpu: &Answer<RawGpu>| match gpu {
            Answer::Value(gpu) => gpu.uuid.clone(),
            Answer::Failed { error } => Answer::failed(error.as_str()),
        };
        let uuids: Vec<Answer<String>> = raw.gpus.iter().map(uuid).collect();
        if !self.uuids.is_empty() && self.uuids != uuids {
            self.library.has_other_gpus();
        }
        self.uuids = uuids;
    }
}

fn is_gpu_as_in(device: &Handle<'_>, known: &mut Answer<RawGpu>) -> bool {
    match (device, known) {
        (Ok(device), Answer::Value(known)) => {
            Vitals::read(device, &known.nvlink_count.clone()).agrees_with(known)
        }
        (Err(now), Answer::Failed { error }) => error::name(now) == *error,
        _ => false,
    }
}

fn read(nvml: &Nvml) -> RawNvml {
    let device_count = nvml.device_count();
    let count = device_count
        .as_ref()
        .map_or(0, |count| (*count).min(GPUS_MAX));
    let devices: Vec<Result<Device<'_>, NvmlError>> = (0..count)
        .map(|index| nvml.device_by_index(index))
        .collect();
    RawNvml {
        driver_version: answer(texts::driver_version(nvml)),
        nvml_version: answer(texts::nvml_version(nvml)),
        device_count: answer(device_count),
        gpus: devices
            .iter()
            .map(|device| gpu::read(device, &devices))
            .collect(),
    }
}
