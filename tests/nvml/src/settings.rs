//! What a program may set of a GPU: persistence mode and clocks.
//!
//! A machine's file gives them in `settings`, which no probe asks. What is set is written, a line each, to
//! `FILE.settings` beside it (`FILE` is that of `BERTH_NVML_MACHINE`), and holds from then on, in other processes
//! too, as in a driver that stays loaded: `UUID persistence 1`, `UUID application 877 1530`, `UUID locked 1530
//! 1530`, `UUID unlocked`.

use std::env;
use std::ffi::c_uint;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use berth_topology::raw::{RawGpu, RawSettings};
use nvml_wrapper_sys::bindings::{
    nvmlClockType_enum_NVML_CLOCK_GRAPHICS as GRAPHICS,
    nvmlClockType_enum_NVML_CLOCK_MEM as MEMORY, nvmlClockType_t, nvmlDevice_t, nvmlEnableState_t,
    nvmlRestrictedAPI_enum_NVML_RESTRICTED_API_SET_APPLICATION_CLOCKS as APPLICATION_CLOCKS,
    nvmlRestrictedAPI_t, nvmlReturn_t,
};

use crate::code::{
    INSUFFICIENT_SIZE, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, UNKNOWN, recorded,
};
use crate::exports;
use crate::out::Out;
use crate::state::MACHINE;

exports! {
    /// Whether the driver stays loaded when nobody uses the GPU.
    fn nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: Out<nvmlEnableState_t>) |state| {
        let gpu = state.machine.gpu(device)?;
        let recorded = *recorded(&settings(gpu)?.persistence)?;
        mode.put(match last_set(gpu, "persistence")?.as_deref() {
            Some([mode]) => *mode,
            _ => recorded.into(),
        })
    }

    /// Sets it.
    fn nvmlDeviceSetPersistenceMode(device: nvmlDevice_t, mode: nvmlEnableState_t) |state| {
        let gpu = state.machine.gpu(device)?;
        recorded(&settings(gpu)?.persistence)?;
        set(gpu, &format!("persistence {mode}"))
    }

    /// The memory or the graphics clock that programs get.
    fn nvmlDeviceGetApplicationsClock(
        device: nvmlDevice_t, kind: nvmlClockType_t, mhz: Out<c_uint>,
    ) |state| {
        let gpu = state.machine.gpu(device)?;
        let recorded = *recorded(&settings(gpu)?.application_clocks_mhz)?;
        let (memory, graphics) = match last_set(gpu, "application")?.as_deref() {
            Some([memory, graphics]) => (*memory, *graphics),
            _ => recorded,
        };
        match kind {
            MEMORY => mhz.put(memory),
            GRAPHICS => mhz.put(graphics),
            _ => Err(INVALID_ARGUMENT),
        }
    }

    /// Sets both; only a pair that is supported.
    fn nvmlDeviceSetApplicationsClocks(
        device: nvmlDevice_t, memory: c_uint, graphics: c_uint,
    ) |state| {
        let gpu = state.machine.gpu(device)?;
        recorded(&settings(gpu)?.application_clocks_mhz)?;
        if !graphics_clocks(gpu, memory)?.contains(&graphics) {
            return Err(INVALID_ARGUMENT);
        }
        set(gpu, &format!("application {memory} {graphics}"))
    }

    /// Keeps the graphics clock between two.
    fn nvmlDeviceSetGpuLockedClocks(device: nvmlDevice_t, least: c_uint, most: c_uint) |state| {
        let gpu = state.machine.gpu(device)?;
        recorded(&settings(gpu)?.supported_clocks_mhz)?;
        if least > most {
            return Err(INVALID_ARGUMENT);
        }
        set(gpu, &format!("locked {least} {most}"))
    }

    /// No longer.
    fn nvmlDeviceResetGpuLockedClocks(device: nvmlDevice_t) |state| {
        let gpu = state.machine.gpu(device)?;
        recorded(&settings(gpu)?.supported_clocks_mhz)?;
        set(gpu, "unlocked")
    }

    /// Memory clocks, and how many.
    fn nvmlDeviceGetSupportedMemoryClocks(
        device: nvmlDevice_t, count: Out<c_uint>, clocks: Out<c_uint>,
    ) |state| {
        let gpu = state.machine.gpu(device)?;
        let supported = recorded(&settings(gpu)?.supported_clocks_mhz)?;
        let memory: Vec<c_uint> = supported.iter().map(|(memory, _)| *memory).collect();
        list(&memory, count, clocks)
    }

    /// Graphics clocks that go with a memory clock, and how many.
    fn nvmlDeviceGetSupportedGraphicsClocks(
        device: nvmlDevice_t, memory: c_uint, count: Out<c_uint>, clocks: Out<c_uint>,
    ) |state| {
        list(graphics_clocks(state.machine.gpu(device)?, memory)?, count, clocks)
    }

    /// Whether application clocks are root's alone; the other restriction is not recorded.
    fn nvmlDeviceGetAPIRestriction(
        device: nvmlDevice_t, api: nvmlRestrictedAPI_t, restricted: Out<nvmlEnableState_t>,
    ) |state| {
        let settings = settings(state.machine.gpu(device)?)?;
        match api {
            APPLICATION_CLOCKS => restricted.put((*recorded(&settings.clocks_restricted)?).into()),
            _ => Err(NOT_SUPPORTED),
        }
    }
}

fn settings(gpu: &RawGpu) -> Result<&RawSettings, nvmlReturn_t> {
    gpu.settings.as_ref().ok_or(NOT_SUPPORTED)
}

fn graphics_clocks(gpu: &RawGpu, memory: c_uint) -> Result<&[c_uint], nvmlReturn_t> {
    let supported = recorded(&settings(gpu)?.supported_clocks_mhz)?;
    let with = supported.iter().find(|(known, _)| *known == memory);
    with.map(|(_, graphics)| &graphics[..]).ok_or(NOT_FOUND)
}

/// As NVML gives lists: what does not fit is refused, with the length that would.
fn list(items: &[c_uint], count: Out<c_uint>, places: Out<c_uint>) -> Result<(), nvmlReturn_t> {
    let room = count.value()?;
    let length = c_uint::try_from(items.len()).map_err(|_| UNKNOWN)?;
    count.put(length)?;
    match length {
        0 => Ok(()),
        length if length > room => Err(INSUFFICIENT_SIZE),
        length => places.fill(length, items, 0),
    }
}

fn file() -> Result<PathBuf, nvmlReturn_t> {
    let mut path = env::var_os(MACHINE).ok_or(UNKNOWN)?;
    path.push(".settings");
    Ok(path.into())
}

fn uuid(gpu: &RawGpu) -> Result<&str, nvmlReturn_t> {
    recorded(&gpu.uuid).map(String::as_str)
}

/// The numbers of the last line of that kind for a GPU.
fn last_set(gpu: &RawGpu, kind: &str) -> Result<Option<Vec<c_uint>>, nvmlReturn_t> {
    let text = fs::read_to_string(file()?).unwrap_or_default();
    let prefix = format!("{} {kind} ", uuid(gpu)?);
    let last = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(&prefix));
    let numbers = last.map(|line| line.split(' ').map(str::parse).collect());
    numbers.transpose().map_err(|_| UNKNOWN)
}

fn set(gpu: &RawGpu, what: &str) -> Result<(), nvmlReturn_t> {
    let file = OpenOptions::new().create(true).append(true).open(file()?);
    let line = format!("{} {what}\n", uuid(gpu)?);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.map_err(|_| UNKNOWN)
}
