//! Changes, and the way back.
//!
//! ```text
//! former values to the state file ──▶ write each ──▶ wait ──▶ put back in reverse ──▶ file away
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::Machine;
use super::plan::{Change, Plan, Target};
use super::write;
use crate::probe::text;

/// A machine with 16,384 CPUs stays below it.
const STATE_BYTES_MAX: u64 = 8 << 20;

/// Does what the plan says, waits for SIGTERM or SIGINT, and puts back what was there. The answer
/// is whether all of it was done and undone.
///
/// # Errors
/// When the state file cannot be used; nothing is changed then.
pub async fn apply_until_signal(
    plan: &Plan,
    machine: &Machine,
    state: Option<&Path>,
) -> anyhow::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let changes = with_former_values(&plan.changes, state, machine)?;
    if let Some(state) = state {
        keep(&changes, state).with_context(|| format!("writing {}", state.display()))?;
    }
    let done = apply(&changes, machine);
    // The kernel may have taken less than was asked for, and that is what is to be undone.
    if let Some(state) = state {
        keep(&done, state).with_context(|| format!("writing {}", state.display()))?;
    }
    let all_done = done.len() == changes.len() && plan.impossible.is_empty();
    tracing::info!(changed = done.len(), asked = changes.len(), "tuned");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let all_undone = restore(&done, machine);
    if let Some(state) = state.filter(|_| all_undone) {
        fs::remove_file(state).with_context(|| format!("removing {}", state.display()))?;
    }
    Ok(all_done && all_undone)
}

/// Writes each change; the answer is those that the kernel took, as it took them.
pub fn apply(changes: &[Change], machine: &Machine) -> Vec<Change> {
    let mut done = Vec::new();
    for change in changes {
        match write::write(machine, &change.target, &change.to) {
            Ok(now) => {
                if now != change.to {
                    tracing::warn!(setting = %change.target, wanted = change.to, now, "taken in part");
                }
                let to = now;
                done.push(Change {
                    to,
                    ..change.clone()
                });
            }
            Err(error) => tracing::warn!(setting = %change.target, %error, "not changed"),
        }
    }
    done
}

/// Puts the former values back, the last change first; what somebody else changed since is left.
/// The answer is whether nothing failed.
#[must_use]
pub fn restore(done: &[Change], machine: &Machine) -> bool {
    let mut all = true;
    for change in done.iter().rev() {
        let target = &change.target;
        match write::read(machine, target) {
            Ok(now) if now != change.to => {
                tracing::warn!(setting = %target, now, "somebody else changed it: left");
                continue;
            }
            Ok(_) => {}
            // What cannot be read cannot have been changed by somebody else that we could see.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            // A CPU or device that went away took its setting along.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => tracing::warn!(setting = %target, %error, "cannot be read"),
        }
        if let Err(error) = write::write(machine, target, &change.from) {
            tracing::error!(setting = %target, former = change.from, %error, "not put back");
            all = false;
        }
    }
    tracing::info!("former values are back");
    all
}

/// The changes, with what an `apply` that was killed left in the state file: a setting that still
/// has the value which that one gave it goes back to what was before that.
fn with_former_values(
    planned: &[Change],
    state: Option<&Path>,
    machine: &Machine,
) -> anyhow::Result<Vec<Change>> {
    let Some(state) = state.filter(|state| state.exists()) else {
        return Ok(planned.to_vec());
    };
    let bytes = text::read_bounded(state, STATE_BYTES_MAX)
        .with_context(|| format!("reading {}", state.display()))?;
    let left: Vec<Change> = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} holds no former values", state.display()))?;
    let still_so = |change: &Change| match write::read(machine, &change.target) {
        Ok(now) => now == change.to,
        Err(error) => error.kind() == io::ErrorKind::Unsupported,
    };
    let left: Vec<Change> = left.into_iter().filter(still_so).collect();
    let former = |target: &Target| left.iter().find(|change| change.target == *target);
    let planned_again = planned.iter().map(|change| Change {
        from: former(&change.target)
            .map_or(&change.from, |left| &left.from)
            .clone(),
        ..change.clone()
    });
    let is_planned = |left: &&Change| !planned.iter().any(|change| change.target == left.target);
    let untouched = left.iter().filter(is_planned).cloned();
    Ok(untouched.chain(planned_again).collect())
}

/// Whole, or not at all.
fn keep(changes: &[Change], state: &Path) -> io::Result<()> {
    let whole = state.with_extension("new");
    let mut file = File::create(&whole)?;
    file.write_all(&serde_json::to_vec(changes)?)?;
    file.sync_all()?;
    fs::rename(whole, state)
}

#[cfg(test)]
mod tests;
