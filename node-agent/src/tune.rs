//! Node tuning: what of this machine costs an engine time, and, where asked for, another setting.
//!
//! ```text
//! host (sysfs, procfs) ──▶ plan (pure) ──▶ report
//!                                     └──▶ apply ──▶ wait for a signal ──▶ restore
//! ```
//!
//! All of it is off unless asked for by name. `report` writes nothing. `apply` writes through
//! [`write`](mod@write) only, which knows three kinds of file and no other, and puts back what it
//! changed when it ends; what somebody else changed meanwhile is left alone.

pub mod apply;
pub mod args;
pub mod host;
pub mod pcie;
pub mod plan;
pub mod show;
pub mod write;

use std::path::PathBuf;

use args::{Step, TuneArgs};

/// Where the kernel's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// sysfs.
    pub sys: PathBuf,
    /// procfs.
    pub proc: PathBuf,
}

/// Reports, or applies until a signal comes. The answer is whether all that was wanted was done.
///
/// # Errors
/// When standard output or the state file cannot be written.
pub async fn run(args: &TuneArgs) -> anyhow::Result<bool> {
    let roots = Roots {
        sys: args.sysfs_root.clone(),
        proc: args.procfs_root.clone(),
    };
    let plan = plan::plan(&host::read(&roots), &args.wish());
    match args.step {
        Step::Report => show::print(&plan, args.output).map(|()| true),
        Step::Apply => {
            show::print(&plan, args.output)?;
            apply::apply_until_signal(&plan, &roots, args.state.as_deref()).await
        }
    }
}
