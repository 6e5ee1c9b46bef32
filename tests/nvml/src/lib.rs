//! A stand-in `libnvidia-ml.so.1` that answers NVML's calls from a recorded machine. For tests only.
//!
//! A program that opens it by path runs the same code as on a node with GPUs. It exports the C names
//! and types of NVML and keeps its habits: counted `nvmlInit`, sizes and struct versions checked,
//! a recorded failure returned as its code. What it does not export is a symbol that is missing, as
//! with an older driver.
//!
//! * `BERTH_NVML_MACHINE`: a machine's raw file (`machines/NAME.raw.json`), read at every first init,
//!   and when the devices are counted and it has changed; `FILE.events` beside it, if it is a FIFO,
//!   tells events: see [`events`]; what is set of a GPU is written to `FILE.settings`: see [`settings`]
//! * `BERTH_NVML_BREAK`: functions that return `NVML_ERROR_UNKNOWN`: `all`, a list with commas, or
//!   `@FILE`, read at every call and holding such a list
//! * `BERTH_NVML_UNTERMINATED`: if set, a text that is too long for its buffer fills it to the last byte, without
//!   an end, which NVML never does

#![expect(
    unsafe_code,
    reason = "NVML's C interface: exported names, and pointers that the caller passes"
)]

pub mod affinity;
mod code;
pub mod device;
pub mod events;
pub mod fields;
pub mod identity;
pub mod limits;
pub mod links;
mod machine;
pub mod mig;
mod out;
pub mod settings;
mod state;
pub mod system;
#[cfg(test)]
mod tests;

/// Defines exported functions. The body is `|state| Result<(), nvmlReturn_t>`; a panic in it is
/// caught, and a function named by `BERTH_NVML_BREAK` fails before it.
macro_rules! exports {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) |$state:ident| $body:block)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// As `nvml.h` says: pointers are null or valid for what the function writes or reads.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> nvml_wrapper_sys::bindings::nvmlReturn_t {
                crate::state::call(stringify!($name), |$state: &crate::state::State| $body)
            }
        )*
    };
}
pub(crate) use exports;
