//! What the library holds between calls: the machine, and how often it was initialised.
//!
//! Process-wide, because NVML is: `nvmlInit` gives no handle.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock};
use std::time::SystemTime;

use nvml_wrapper_sys::bindings::nvmlReturn_t;

use crate::code::{DRIVER_NOT_LOADED, SUCCESS, UNINITIALIZED, UNKNOWN, recorded};
use crate::machine::Machine;

/// Names the raw file.
pub(crate) const MACHINE: &str = "BERTH_NVML_MACHINE";
const BREAK: &str = "BERTH_NVML_BREAK";
const UNTERMINATED: &str = "BERTH_NVML_UNTERMINATED";
/// What is called first whenever everything is asked.
const COUNT: &str = "nvmlDeviceGetCount_v2";

static STATE: RwLock<Option<State>> = RwLock::new(None);

/// An initialised library.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) machine: Machine,
    /// When its file was written, as the file system says.
    written: Option<SystemTime>,
    /// Inits less shutdowns.
    users: u32,
}

/// Runs one call: initialised, not broken, and never a panic across the C boundary.
pub(crate) fn call(
    name: &str,
    body: impl FnOnce(&State) -> Result<(), nvmlReturn_t>,
) -> nvmlReturn_t {
    guard(|| {
        if name == COUNT {
            look_again();
        }
        let state = STATE.read().unwrap_or_else(PoisonError::into_inner);
        let state = state.as_ref().ok_or(UNINITIALIZED)?;
        fail_if_broken(name)?;
        body(state)
    })
}

/// `nvmlInit`: reads the machine when nobody had.
pub(crate) fn init(name: &str) -> nvmlReturn_t {
    guard(|| {
        fail_if_broken(name)?;
        let mut state = STATE.write().unwrap_or_else(PoisonError::into_inner);
        match state.as_mut() {
            Some(state) => state.users += 1,
            None => {
                let written = written();
                let machine = read_machine()?;
                *state = Some(State {
                    machine,
                    written,
                    users: 1,
                });
            }
        }
        Ok(())
    })
}

/// `nvmlShutdown`: the last one forgets the machine.
pub(crate) fn shutdown() -> nvmlReturn_t {
    guard(|| {
        fail_if_broken("nvmlShutdown")?;
        let mut state = STATE.write().unwrap_or_else(PoisonError::into_inner);
        let users = state.as_ref().ok_or(UNINITIALIZED)?.users;
        match users {
            1 => *state = None,
            _ => state.iter_mut().for_each(|state| state.users -= 1),
        }
        Ok(())
    })
}

/// Reads the machine again if its file has changed. One that cannot be read leaves what there was.
fn look_again() {
    let mut state = STATE.write().unwrap_or_else(PoisonError::into_inner);
    let now = written();
    let Some(state) = state.as_mut().filter(|state| state.written != now) else {
        return;
    };
    if let Ok(machine) = read_machine() {
        state.machine = machine;
        state.written = now;
    }
}

/// Whether a text that is too long fills its buffer to the last byte.
pub(crate) fn is_unterminated() -> bool {
    env::var_os(UNTERMINATED).is_some()
}

fn written() -> Option<SystemTime> {
    let path = env::var_os(MACHINE)?;
    std::fs::metadata(path).ok()?.modified().ok()
}

/// A code, and never a panic across the C boundary.
pub(crate) fn guard(body: impl FnOnce() -> Result<(), nvmlReturn_t>) -> nvmlReturn_t {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => UNKNOWN,
    }
}

/// A machine whose file cannot be read is a driver that is not loaded; a recorded failure of NVML
/// as a whole is init's.
fn read_machine() -> Result<Machine, nvmlReturn_t> {
    let path = env::var_os(MACHINE).ok_or_else(|| complain(&format!("{MACHINE} is not set")))?;
    let machine = Machine::read(path.as_ref()).map_err(|error| complain(&error))?;
    recorded(&machine.raw.nvml)?;
    Ok(machine)
}

#[expect(
    clippy::print_stderr,
    reason = "NVML has no other way to tell why init failed"
)]
fn complain(why: &str) -> nvmlReturn_t {
    eprintln!("stand-in NVML: {why}");
    DRIVER_NOT_LOADED
}

fn fail_if_broken(name: &str) -> Result<(), nvmlReturn_t> {
    let Ok(list) = env::var(BREAK) else {
        return Ok(());
    };
    let list = match list.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).unwrap_or_default(),
        None => list,
    };
    let mut broken = list.split(',').map(str::trim);
    if broken.any(|entry| entry == name || entry == "all") {
        Err(UNKNOWN)
    } else {
        Ok(())
    }
}

/// Runs `body` on a library that was initialised with `raw`, one at a time.
#[cfg(test)]
pub(crate) fn with_machine(raw: berth_topology::raw::RawMachine, body: impl FnOnce()) {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let set = |state| *STATE.write().unwrap_or_else(PoisonError::into_inner) = state;
    set(Some(State {
        machine: Machine { raw },
        written: written(),
        users: 1,
    }));
    body();
    set(None);
}
