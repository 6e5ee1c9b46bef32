//! Node tuning: what of this machine costs an engine time, and, where asked for, another setting.
//!
//! ```text
//! host (sysfs, procfs, NVML) ──▶ plan (pure) ──▶ report
//!                                           └──▶ apply ──▶ wait for a signal ──▶ restore
//! ```
//!
//! All of it is off unless asked for by name. `report` writes nothing. `apply` writes through
//! [`write`](mod@write) only, which knows three kinds of file and three settings of a GPU and no other, and
//! puts back what it changed when it ends; what somebody else changed meanwhile is left alone.

pub mod apply;
pub mod args;
pub mod gpus;
pub mod host;
pub mod pcie;
pub mod plan;
pub mod show;
pub mod write;

use std::path::PathBuf;

use args::{Step, TuneArgs};
use gpus::Gpus;

/// What is read and written: the kernel's files, and GPUs through NVML.
#[derive(Debug)]
pub struct Machine {
    /// sysfs.
    pub sys: PathBuf,
    /// procfs.
    pub proc: PathBuf,
    /// NVML, open for as long as this lives.
    pub gpus: Gpus,
}

/// Reports, or applies until a signal comes. The answer is whether all that was wanted was done.
///
/// # Errors
/// When standard output or the state file cannot be written.
pub async fn run(args: &TuneArgs) -> anyhow::Result<bool> {
    let machine = Machine {
        sys: args.sysfs_root.clone(),
        proc: args.procfs_root.clone(),
        gpus: Gpus::open(args.nvml()),
    };
    let plan = plan::plan(&host::read(&machine), &args.wish());
    match args.step {
        Step::Report => show::print(&plan, args.output).map(|()| true),
        Step::Apply => {
            show::print(&plan, args.output)?;
            apply::apply_until_signal(&plan, &machine, args.state.as_deref()).await
        }
    }
}
