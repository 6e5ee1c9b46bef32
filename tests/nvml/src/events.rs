//! Events: told by whoever writes a line into the FIFO beside the raw file.
//!
//! Where `FILE.events` is a FIFO (`FILE` is that of `BERTH_NVML_MACHINE`), the GPUs support events, and a
//! wait blocks until a line of it is read or its time is over. A line is `INDEX KIND [DATA]`:
//!
//! * `0 xid 95`, `0 sbe`, `0 dbe`, `0 mig`, `0 recovery`: an event of that GPU, if it was registered for
//! * `lost`: the wait ends with `NVML_ERROR_GPU_IS_LOST`
//!
//! As with NVML, what happens while nobody has a set is lost, and a line that is none of these is skipped.
//! Without the FIFO the GPUs say that they support no events.

use std::env;
use std::ffi::{c_int, c_uint, c_ulonglong};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventMigConfigChange, nvmlEventSet_t,
    nvmlEventTypeDoubleBitEccError, nvmlEventTypeGpuRecoveryAction, nvmlEventTypeSingleBitEccError,
    nvmlEventTypeXidCriticalError, nvmlReturn_t,
};

use crate::code::{GPU_IS_LOST, INVALID_ARGUMENT, NOT_SUPPORTED, TIMEOUT, UNKNOWN};
use crate::exports;
use crate::machine::handle_of;
use crate::out::Out;
use crate::state::{self, MACHINE};

/// Lines that wait to be read take no more; what is longer is dropped.
const PENDING_BYTES_MAX: usize = 64 << 10;
const KINDS: [(&str, c_uint); 5] = [
    ("xid", nvmlEventTypeXidCriticalError),
    ("sbe", nvmlEventTypeSingleBitEccError),
    ("dbe", nvmlEventTypeDoubleBitEccError),
    ("mig", nvmlEventMigConfigChange),
    ("recovery", nvmlEventTypeGpuRecoveryAction),
];
/// What NVML gives where MIG plays no part.
const NO_INSTANCE: c_uint = c_uint::MAX;

/// What is behind an `nvmlEventSet_t`.
#[derive(Debug)]
struct EventSet {
    fifo: File,
    state: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// What was read and not told yet.
    pending: Vec<u8>,
    /// GPUs, by address of the handle, with the types they were registered for.
    registered: Vec<(usize, c_ulonglong)>,
}

/// A line of the FIFO.
#[derive(Debug, PartialEq)]
enum Line {
    Event {
        device: nvmlDevice_t,
        kind: c_ulonglong,
        data: c_ulonglong,
    },
    Lost,
}

exports! {
    /// A set that listens from now on.
    fn nvmlEventSetCreate(set: Out<nvmlEventSet_t>) |_state| {
        let fifo = open_fifo().ok_or(NOT_SUPPORTED)?;
        drain(&fifo);
        let state = Mutex::default();
        set.put(Box::into_raw(Box::new(EventSet { fifo, state })).cast())
    }

    /// All of the above where there is a FIFO, else none.
    fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, types: Out<c_ulonglong>) |state| {
        state.machine.gpu(device)?;
        types.put(supported())
    }

    /// Refuses types that are not supported.
    fn nvmlDeviceRegisterEvents(
        device: nvmlDevice_t, types: c_ulonglong, set: nvmlEventSet_t,
    ) |state| {
        state.machine.gpu(device)?;
        if types & !supported() != 0 {
            return Err(NOT_SUPPORTED);
        }
        let mut waiting = set_of(set)?.state.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.registered.push((device.addr(), types));
        Ok(())
    }
}

/// Blocks until an event or until the time is over. Holds nothing that other calls wait for.
///
/// # Safety
/// As `nvml.h` says: `set` is of `nvmlEventSetCreate` and `data` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    data: Out<nvmlEventData_t>,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    match state::call("nvmlEventSetWait_v2", |_| set_of(set).map(drop)) {
        0 => state::guard(|| {
            let until = Instant::now() + Duration::from_millis(timeout_ms.into());
            data.put(set_of(set)?.next(until)?)
        }),
        code => code,
    }
}

/// The set is gone.
///
/// # Safety
/// As `nvml.h` says: `set` is of `nvmlEventSetCreate`, and nobody uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    state::guard(|| {
        if set.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: by the C interface it came from `nvmlEventSetCreate` and is freed once.
        drop(unsafe { Box::from_raw(set.cast::<EventSet>()) });
        Ok(())
    })
}

// === impl EventSet ===

impl EventSet {
    fn next(&self, until: Instant) -> Result<nvmlEventData_t, nvmlReturn_t> {
        loop {
            match self.take_line() {
                Some(Line::Lost) => return Err(GPU_IS_LOST),
                Some(Line::Event { device, kind, data }) if self.listens_to(device, kind) => {
                    return Ok(nvmlEventData_t {
                        device,
                        eventType: kind,
                        eventData: data,
                        gpuInstanceId: NO_INSTANCE,
                        computeInstanceId: NO_INSTANCE,
                    });
                }
                Some(Line::Event { .. }) => {}
                None => self.fill(until)?,
            }
        }
    }

    /// The next whole line that says something.
    fn take_line(&self) -> Option<Line> {
        let mut waiting = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let end = waiting.pending.iter().position(|byte| *byte == b'\n')?;
            let line: Vec<u8> = waiting.pending.drain(..=end).collect();
            if let Some(line) = parse(&String::from_utf8_lossy(&line)) {
                return Some(line);
            }
        }
    }

    fn listens_to(&self, device: nvmlDevice_t, kind: c_ulonglong) -> bool {
        let waiting = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut registered = waiting.registered.iter();
        registered.any(|(handle, types)| *handle == device.addr() && types & kind != 0)
    }

    /// Waits for more to read.
    fn fill(&self, until: Instant) -> Result<(), nvmlReturn_t> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = c_int::try_from(left.as_millis()).unwrap_or(c_int::MAX);
        let mut readable = libc::pollfd {
            fd: self.fifo.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one `pollfd`, a local that outlives the call; the descriptor is open.
        match unsafe { libc::poll(&raw mut readable, 1, timeout) } {
            0 => return Err(TIMEOUT),
            ready if ready < 0 => return Err(UNKNOWN),
            _ => {}
        }
        let mut bytes = [0; 4096];
        let count = (&self.fifo).read(&mut bytes).unwrap_or(0);
        let mut waiting = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.pending.len() + count <= PENDING_BYTES_MAX {
            waiting.pending.extend_from_slice(&bytes[..count]);
        }
        Ok(())
    }
}

/// Open for writing too: a FIFO that nobody writes to has no end of file then.
fn open_fifo() -> Option<File> {
    let mut path = env::var_os(MACHINE)?;
    path.push(".events");
    let path = PathBuf::from(path);
    if !path.metadata().ok()?.file_type().is_fifo() {
        return None;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(libc::O_NONBLOCK).open(path).ok()
}

/// What was told before somebody listened is lost.
fn drain(mut fifo: &File) {
    let mut bytes = [0; 4096];
    while fifo.read(&mut bytes).is_ok_and(|count| count > 0) {}
}

fn supported() -> c_ulonglong {
    match open_fifo() {
        Some(_) => KINDS.iter().map(|(_, kind)| c_ulonglong::from(*kind)).sum(),
        None => 0,
    }
}

fn set_of<'a>(set: nvmlEventSet_t) -> Result<&'a EventSet, nvmlReturn_t> {
    // SAFETY: by the C interface null or of `nvmlEventSetCreate` and not freed while it is used.
    unsafe { set.cast::<EventSet>().as_ref() }.ok_or(INVALID_ARGUMENT)
}

fn parse(line: &str) -> Option<Line> {
    let mut words = line.split_whitespace();
    let first = words.next()?;
    if first == "lost" {
        return Some(Line::Lost);
    }
    let index = first.parse().ok().filter(|index: &usize| *index < 1024)?;
    let name = words.next()?;
    let kind = KINDS.iter().find(|(known, _)| *known == name)?.1;
    Some(Line::Event {
        device: handle_of(index, None),
        kind: kind.into(),
        data: words.next().map_or(Some(0), |data| data.parse().ok())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_event_a_loss_or_nothing() {
        let event = |index, kind: c_uint, data| {
            Some(Line::Event {
                device: handle_of(index, None),
                kind: kind.into(),
                data,
            })
        };
        assert_eq!(parse("3 xid 95"), event(3, 8, 95));
        assert_eq!(parse("0 dbe\n"), event(0, 2, 0));
        assert_eq!(parse("lost"), Some(Line::Lost));
        for nothing in ["", "x xid 1", "0 banana", "0 xid y", "-1 xid 1"] {
            assert_eq!(parse(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_machine_without_a_fifo_supports_no_events() {
        assert_eq!(supported(), 0);
    }
}
