//! Whether a GPU can be given to a pod.

use berth_topology::gpu::{Health, HealthState};
use berth_topology::raw::{Answer, RawGpu};

use super::fabric;

/// Answers of a GPU that cannot be used until it is reset or replaced.
const FATAL: [(&str, &str); 2] = [
    ("NVML_ERROR_GPU_IS_LOST", "the GPU fell off the bus"),
    ("NVML_ERROR_RESET_REQUIRED", "the GPU needs a reset"),
];

/// The verdict; `problems` are those of its NVLinks.
pub(crate) fn assess(raw: &RawGpu, problems: &[String]) -> Health {
    let failed = failures(raw);
    let degraded = degradations(raw)
        .into_iter()
        .chain(problems.iter().cloned());
    let state = |reasons: &[String], state| {
        if reasons.is_empty() {
            None
        } else {
            Some(state)
        }
    };
    let degraded: Vec<String> = degraded.collect();
    Health {
        state: state(&failed, HealthState::Failed)
            .or(state(&degraded, HealthState::Degraded))
            .unwrap_or(HealthState::Healthy),
        reasons: failed.into_iter().chain(degraded).collect(),
        recovery_action: raw
            .recovery_action
            .value()
            .map(|action| action_text(*action)),
        ..Health::default()
    }
}

/// `nvmlDeviceGpuRecoveryAction_t`.
fn action_text(action: u32) -> String {
    match action {
        0 => "none".to_owned(),
        1 => "reset".to_owned(),
        2 => "reboot".to_owned(),
        3 => "drain-p2p".to_owned(),
        4 => "drain-and-reset".to_owned(),
        newer => format!("action-{newer}"),
    }
}

/// What the driver wants done, and whether the GPU can be used before it is.
fn recovery(action: u32) -> Option<(HealthState, String)> {
    match action {
        0 => None,
        1 => Some((
            HealthState::Failed,
            "the driver asks for its reset".to_owned(),
        )),
        2 => Some((
            HealthState::Failed,
            "the driver asks for a reboot of the node".to_owned(),
        )),
        3 => Some((
            HealthState::Degraded,
            "the driver asks to end peer-to-peer traffic with it".to_owned(),
        )),
        4 => Some((
            HealthState::Failed,
            "the driver asks to drain it and to reset it".to_owned(),
        )),
        newer => Some((
            HealthState::Degraded,
            format!("the driver asks for recovery action {newer}"),
        )),
    }
}

fn failures(raw: &RawGpu) -> Vec<String> {
    let errors = errors(raw);
    let fatal = FATAL.iter().filter(|(error, _)| errors.contains(error));
    let mut reasons: Vec<String> = fatal.map(|(_, reason)| (*reason).to_owned()).collect();
    if raw.remapped_rows_failed.value() == Some(&true) {
        reasons.push("remapping a row of its memory failed".to_owned());
    }
    reasons.extend(wanted(raw, HealthState::Failed));
    reasons
}

fn wanted(raw: &RawGpu, state: HealthState) -> Option<String> {
    let (worst, reason) = recovery(*raw.recovery_action.value()?)?;
    (worst == state).then_some(reason)
}

fn degradations(raw: &RawGpu) -> Vec<String> {
    let is_true = |answer: &Answer<bool>| answer.value() == Some(&true);
    let has_errors = raw
        .ecc_uncorrected_volatile
        .value()
        .is_some_and(|errors| *errors > 0);
    let pending = [
        (
            has_errors,
            "uncorrected memory errors since the driver was loaded",
        ),
        (
            is_true(&raw.remapped_rows_pending),
            "remapping a row of its memory waits for a reset",
        ),
        (
            is_true(&raw.retired_pages_pending),
            "retiring pages of its memory waits for a reset",
        ),
    ];
    let reasons = pending
        .into_iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, text)| text.to_owned());
    reasons
        .chain(raw.fabric.value().and_then(fabric::problem))
        .chain(wanted(raw, HealthState::Degraded))
        .collect()
}

/// Errors of the calls that a GPU in order answers.
fn errors(raw: &RawGpu) -> Vec<&str> {
    let errors = [
        raw.name.error(),
        raw.minor.error(),
        raw.pci_bus_id.error(),
        raw.memory_total_bytes.error(),
        raw.compute_capability.error(),
        raw.pcie_generation.error(),
        raw.pcie_width.error(),
        raw.mig_mode.error(),
        raw.ecc_uncorrected_volatile.error(),
        raw.remapped_rows_pending.error(),
        raw.nvlink_count.error(),
        raw.recovery_action.error(),
    ];
    errors.into_iter().flatten().collect()
}
