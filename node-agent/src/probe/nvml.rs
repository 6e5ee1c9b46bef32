//! NVML, opened at run time: one binary for nodes with and without GPUs.

mod calls;
mod error;
mod gpu;

use std::path::{Path, PathBuf};

use berth_topology::raw::{Answer, RawNvml};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use error::answer;

/// More than any machine has; NVML's count is not trusted beyond it.
const GPUS_MAX: u32 = 64;

/// NVML kept open between probes: opening it wakes up every GPU that nothing else uses.
#[derive(Debug, Default)]
pub(crate) struct Session {
    open: Option<(Option<PathBuf>, Nvml)>,
}

// === impl Session ===

impl Session {
    /// Asks everything, opening the library if it is not open.
    pub(crate) fn read(&mut self, library: Option<&Path>) -> Answer<RawNvml> {
        match self.nvml(library) {
            Ok(nvml) => {
                let raw = read(nvml);
                if raw.device_count.error().is_some() {
                    // a driver that was replaced answers nothing until NVML is opened again
                    self.open = None;
                }
                Answer::Value(raw)
            }
            Err(error) => Answer::failed(error::name(&error)),
        }
    }

    fn nvml(&mut self, library: Option<&Path>) -> Result<&Nvml, NvmlError> {
        let open = match self.open.take() {
            Some(open) if open.0.as_deref() == library => open,
            _ => (library.map(Path::to_owned), open(library)?),
        };
        Ok(&self.open.insert(open).1)
    }
}

fn open(library: Option<&Path>) -> Result<Nvml, NvmlError> {
    match library {
        Some(path) => Nvml::builder().lib_path(path.as_os_str()).init(),
        None => Nvml::init(),
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
        driver_version: answer(nvml.sys_driver_version()),
        nvml_version: answer(nvml.sys_nvml_version()),
        device_count: answer(device_count),
        gpus: devices
            .iter()
            .map(|device| gpu::read(device, &devices))
            .collect(),
    }
}
