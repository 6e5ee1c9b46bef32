//! Settings of GPUs through NVML: persistence mode, application clocks, a locked clock.
//!
//! NVML stays open from the plan to the end: a driver that nobody uses forgets clocks.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::str::FromStr;

use berth_topology::ids::GpuUuid;
use berth_topology::raw::Answer;
use nvml_wrapper::enum_wrappers::device::{Api, Clock};
use nvml_wrapper::enums::device::GpuLockedClocksSetting;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use serde::{Deserialize, Serialize};

use super::plan::Target;
use crate::probe::{Place, nvml_error_name, nvml_uuid};

/// No lock on the clock.
pub const UNLOCKED: &str = "unlocked";
/// More than any machine has.
const GPUS_MAX: u32 = 64;
/// `NVML_ERROR_NOT_FOUND`: no GPU of that identity is here.
const NOT_FOUND: &str = "NVML_ERROR_NOT_FOUND";

/// NVML, or why it cannot be asked.
#[derive(Debug)]
pub struct Gpus(Result<Nvml, String>);

/// One GPU's settings, and what it offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// Its identity.
    pub uuid: GpuUuid,
    /// As a person knows it: `GPU 0`.
    pub name: String,
    /// `nvmlDeviceGetPersistenceMode`.
    pub persistence: Answer<bool>,
    /// `nvmlDeviceGetApplicationsClock`.
    pub application_clocks: Answer<Clocks>,
    /// `nvmlDeviceGetSupportedMemoryClocks`, each with `nvmlDeviceGetSupportedGraphicsClocks`, in MHz.
    pub supported_clocks: Answer<BTreeMap<u32, Vec<u32>>>,
    /// `nvmlDeviceGetAPIRestriction(SET_APPLICATION_CLOCKS)`: root's alone.
    pub clocks_restricted: Answer<bool>,
}

/// A memory and a graphics clock. Written `877,1530`, as nvidia-smi takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Of the memory, in MHz.
    pub memory_mhz: u32,
    /// Of the multiprocessors, in MHz.
    pub graphics_mhz: u32,
}

/// What is set of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Setting {
    /// `nvmlDeviceSetPersistenceMode`: `on`, `off`.
    Persistence,
    /// `nvmlDeviceSetApplicationsClocks`: [`Clocks`].
    ApplicationClocks,
    /// `nvmlDeviceSetGpuLockedClocks`: the graphics clock in MHz, or [`UNLOCKED`]. NVML does not tell it.
    LockedClock,
}

// === impl Gpus ===

impl Gpus {
    /// Opens the library that is there.
    #[must_use]
    pub fn open(place: Place<'_>) -> Self {
        Self(place.open().map_err(|error| error.to_string()))
    }

    /// For machines without.
    #[must_use]
    pub fn none() -> Self {
        Self(Err("there is no NVML".to_owned()))
    }

    /// All that answer.
    #[must_use]
    pub fn read(&self) -> Answer<Vec<Gpu>> {
        let nvml = match &self.0 {
            Ok(nvml) => nvml,
            Err(error) => return Answer::failed(error.as_str()),
        };
        answer(nvml.device_count()).map(|count| {
            let gpus = 0..count.min(GPUS_MAX);
            gpus.filter_map(|index| gpu(nvml, index)).collect()
        })
    }

    /// The value that a setting has; a locked clock's is not told.
    ///
    /// # Errors
    /// When the GPU is not there or does not say.
    pub fn value(&self, uuid: &GpuUuid, setting: Setting) -> io::Result<String> {
        let device = self.device(uuid)?;
        match setting {
            Setting::Persistence => {
                let is_on = device.is_in_persistent_mode().map_err(failed)?;
                Ok(if is_on { "on" } else { "off" }.to_owned())
            }
            Setting::ApplicationClocks => {
                let clocks = application_clocks(&device).map_err(failed)?;
                Ok(clocks.to_string())
            }
            Setting::LockedClock => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "NVML does not tell whether a clock is locked",
            )),
        }
    }

    /// Gives a setting a value that has its form: see [`Setting::check`].
    ///
    /// # Errors
    /// When the GPU is not there, does not offer the clock, or refuses.
    pub(super) fn set(&self, uuid: &GpuUuid, setting: Setting, value: &str) -> io::Result<()> {
        let mut device = self.device(uuid)?;
        match setting {
            Setting::Persistence => device.set_persistent(value == "on"),
            Setting::ApplicationClocks => {
                let clocks: Clocks = value.parse().map_err(io::Error::other)?;
                offered(&device, |memory, graphics| {
                    (memory, graphics) == (clocks.memory_mhz, clocks.graphics_mhz)
                })?;
                device.set_applications_clocks(clocks.memory_mhz, clocks.graphics_mhz)
            }
            Setting::LockedClock if value == UNLOCKED => device.reset_gpu_locked_clocks(),
            Setting::LockedClock => {
                let mhz: u32 = value.parse().map_err(io::Error::other)?;
                offered(&device, |_, graphics| graphics == mhz)?;
                device.set_gpu_locked_clocks(GpuLockedClocksSetting::Numeric {
                    min_clock_mhz: mhz,
                    max_clock_mhz: mhz,
                })
            }
        }
        .map_err(failed)
    }

    fn device(&self, uuid: &GpuUuid) -> io::Result<Device<'_>> {
        let nvml = self
            .0
            .as_ref()
            .map_err(|error| io::Error::other(error.as_str()))?;
        nvml.device_by_uuid(uuid.as_str()).map_err(failed)
    }
}

// === impl Gpu ===

impl Gpu {
    /// One of its settings.
    #[must_use]
    pub fn target(&self, setting: Setting) -> Target {
        Target::Gpu {
            uuid: self.uuid.clone(),
            setting,
        }
    }
}

// === impl Setting ===

impl Setting {
    /// Whether a value has the setting's form.
    #[must_use]
    pub fn check(self, value: &str) -> bool {
        match self {
            Self::Persistence => matches!(value, "on" | "off"),
            Self::ApplicationClocks => value.parse::<Clocks>().is_ok(),
            Self::LockedClock => value == UNLOCKED || value.parse::<u32>().is_ok(),
        }
    }

    /// Whether NVML tells the value.
    #[must_use]
    pub fn is_told(self) -> bool {
        self != Self::LockedClock
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Persistence => "persistence mode",
            Self::ApplicationClocks => "application clocks",
            Self::LockedClock => "locked clock",
        })
    }
}

// === impl Clocks ===

impl fmt::Display for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.memory_mhz, self.graphics_mhz)
    }
}

impl FromStr for Clocks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (memory, graphics) = text
            .split_once(',')
            .ok_or("expected MEMORY,GRAPHICS in MHz")?;
        let mhz = |text: &str| text.parse().map_err(|_| format!("{text:?} is no clock"));
        Ok(Self {
            memory_mhz: mhz(memory)?,
            graphics_mhz: mhz(graphics)?,
        })
    }
}

fn gpu(nvml: &Nvml, index: u32) -> Option<Gpu> {
    let device = nvml.device_by_index(index).ok()?;
    Some(Gpu {
        uuid: GpuUuid(nvml_uuid(&device).ok()?),
        name: format!("GPU {index}"),
        persistence: answer(device.is_in_persistent_mode()),
        application_clocks: answer(application_clocks(&device)),
        supported_clocks: answer(supported_clocks(&device)),
        clocks_restricted: answer(device.is_api_restricted(Api::ApplicationClocks)),
    })
}

fn application_clocks(device: &Device<'_>) -> Result<Clocks, NvmlError> {
    Ok(Clocks {
        memory_mhz: device.applications_clock(Clock::Memory)?,
        graphics_mhz: device.applications_clock(Clock::Graphics)?,
    })
}

fn supported_clocks(device: &Device<'_>) -> Result<BTreeMap<u32, Vec<u32>>, NvmlError> {
    let memory = device.supported_memory_clocks()?;
    let with_graphics = |memory: u32| Ok((memory, device.supported_graphics_clocks(memory)?));
    memory.into_iter().map(with_graphics).collect()
}

/// What a state file holds was offered once, on this GPU or another.
fn offered(device: &Device<'_>, is_it: impl Fn(u32, u32) -> bool) -> io::Result<()> {
    let supported = supported_clocks(device).map_err(failed)?;
    let mut pairs = supported
        .iter()
        .flat_map(|(memory, graphics)| graphics.iter().map(move |graphics| (*memory, *graphics)));
    if pairs.any(|(memory, graphics)| is_it(memory, graphics)) {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the GPU does not offer that clock",
        ))
    }
}

fn answer<T>(result: Result<T, NvmlError>) -> Answer<T> {
    match result {
        Ok(value) => Answer::Value(value),
        Err(error) => Answer::failed(nvml_error_name(&error)),
    }
}

fn failed(error: NvmlError) -> io::Error {
    match nvml_error_name(&error) {
        name if name == NOT_FOUND => io::Error::new(io::ErrorKind::NotFound, name),
        name => io::Error::other(name),
    }
}
