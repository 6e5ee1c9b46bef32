//! Runs any engine where it was put: CPUs, memory, GPUs in rank order, then exec.
//!
//! ```text
//! source ──▶ ranks ─┐
//!                   ├──▶ plan (pure) ──▶ exec, or ranks: one process each
//! container ────────┘
//! ```
//!
//! Static, so that an init container can drop it into any image: nothing is opened at run time,
//! NVML neither ([`container::gpus`] says how a GPU's index is found without it).

pub mod args;
pub mod container;
pub mod exec;
pub mod install;
pub mod plan;
pub mod ranks;
pub mod report;
pub mod source;

mod kernel;
