//! The recorded machine behind the handles: which GPU or MIG device a handle means.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::ptr;

use berth_topology::raw::{Answer, RawGpu, RawMachine, RawMigDevice, RawNvLink, RawNvml};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};

use crate::code::{INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, recorded};

/// The largest recorded machine is under 50 kB.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Handles are numbers: a GPU is `(index + 1) × HANDLE_STEP`, its MIG devices follow it.
const HANDLE_STEP: usize = 0x100;

/// The machine of `BERTH_NVML_MACHINE`.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) raw: RawMachine,
}

/// What a handle means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Device<'a> {
    Gpu(&'a RawGpu),
    Mig(&'a RawMigDevice),
}

// === impl Machine ===

impl Machine {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let fail = |why: &dyn std::fmt::Display| format!("reading {}: {why}", path.display());
        let file = File::open(path).map_err(|error| fail(&error))?;
        let mut text = String::new();
        let limited = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
        match limited.map_err(|error| fail(&error))? as u64 {
            bytes if bytes > FILE_BYTES_MAX => Err(fail(&"larger than 4 MiB")),
            _ => serde_json::from_str(&text)
                .map(|raw| Self { raw })
                .map_err(|error| fail(&error)),
        }
    }

    pub(crate) fn nvml(&self) -> Result<&RawNvml, nvmlReturn_t> {
        recorded(&self.raw.nvml)
    }

    /// The GPU at an NVML index; a recorded failure of the handle is given as it is.
    pub(crate) fn gpu_at(&self, index: usize) -> Result<&RawGpu, nvmlReturn_t> {
        recorded(self.nvml()?.gpus.get(index).ok_or(INVALID_ARGUMENT)?)
    }

    pub(crate) fn device(&self, handle: nvmlDevice_t) -> Result<Device<'_>, nvmlReturn_t> {
        let (index, mig) = position(handle)?;
        let gpu = self.gpu_at(index)?;
        match mig {
            None => Ok(Device::Gpu(gpu)),
            Some(mig) => gpu
                .mig_devices
                .get(mig)
                .map(Device::Mig)
                .ok_or(INVALID_ARGUMENT),
        }
    }

    /// The GPU of a handle; a MIG device's handle is refused, as most of NVML does.
    pub(crate) fn gpu(&self, handle: nvmlDevice_t) -> Result<&RawGpu, nvmlReturn_t> {
        match self.device(handle)? {
            Device::Gpu(gpu) => Ok(gpu),
            Device::Mig(_) => Err(INVALID_ARGUMENT),
        }
    }

    /// One link. A GPU without NVLink does not support the call; a number beyond its links is wrong.
    pub(crate) fn link(
        &self,
        handle: nvmlDevice_t,
        number: u32,
    ) -> Result<&RawNvLink, nvmlReturn_t> {
        let links = &self.gpu(handle)?.nvlinks;
        match usize::try_from(number)
            .ok()
            .and_then(|number| links.get(number))
        {
            Some(link) => Ok(link),
            None if links.is_empty() => Err(NOT_SUPPORTED),
            None => Err(INVALID_ARGUMENT),
        }
    }

    /// The handle of the GPU or MIG device that `matches`.
    pub(crate) fn find(
        &self,
        matches: impl Fn(Device<'_>) -> bool,
    ) -> Result<nvmlDevice_t, nvmlReturn_t> {
        let gpus = self.nvml()?.gpus.iter().enumerate();
        for (index, gpu) in gpus.filter_map(|(index, gpu)| Some((index, gpu.value()?))) {
            if matches(Device::Gpu(gpu)) {
                return Ok(handle_of(index, None));
            }
            let mut migs = gpu.mig_devices.iter();
            if let Some(mig) = migs.position(|mig| matches(Device::Mig(mig))) {
                return Ok(handle_of(index, Some(mig)));
            }
        }
        Err(NOT_FOUND)
    }
}

// === impl Device ===

impl Device<'_> {
    pub(crate) fn uuid(&self) -> &Answer<String> {
        match self {
            Self::Gpu(gpu) => &gpu.uuid,
            Self::Mig(mig) => &mig.uuid,
        }
    }

    pub(crate) fn name(&self) -> &Answer<String> {
        match self {
            Self::Gpu(gpu) => &gpu.name,
            Self::Mig(mig) => &mig.name,
        }
    }

    pub(crate) fn memory_total_bytes(&self) -> &Answer<u64> {
        match self {
            Self::Gpu(gpu) => &gpu.memory_total_bytes,
            Self::Mig(mig) => &mig.memory_total_bytes,
        }
    }
}

/// The handle of a GPU, or of one of its MIG devices. It is a number, never followed.
pub(crate) fn handle_of(gpu: usize, mig: Option<usize>) -> nvmlDevice_t {
    ptr::without_provenance_mut((gpu + 1) * HANDLE_STEP + mig.map_or(0, |mig| mig + 1))
}

/// The GPU index and MIG position of a handle.
pub(crate) fn position(handle: nvmlDevice_t) -> Result<(usize, Option<usize>), nvmlReturn_t> {
    let number = handle.addr();
    let gpu = (number / HANDLE_STEP)
        .checked_sub(1)
        .ok_or(INVALID_ARGUMENT)?;
    Ok((gpu, (number % HANDLE_STEP).checked_sub(1)))
}
