//! The list that a person would go through. Each check is a pure function over [`Facts`].
//!
//! A check says ok only about what was read, says unknown where something it needs was not, and says
//! nothing where its question does not arise (a machine without GPUs has no NVLinks).

mod bus;
mod gpus;
mod kubelet;
mod links;
mod memory;
mod numa;
mod plugin;
mod sharing;
mod working;

use berth_topology::gpu::Gpu;
use berth_topology::node::Status;

use super::facts::Facts;
use super::finding::{Finding, Severity};

/// A check, and the name that its findings have.
type Check = (&'static str, fn(&'static str, &Facts) -> Vec<Finding>);

/// In the order in which one thing rests on another.
const CHECKS: [Check; 22] = [
    ("agent", working::agent),
    ("driver", gpus::driver),
    ("gpus", gpus::listed),
    ("health", gpus::health),
    ("device-files", gpus::device_files),
    ("nvlink", links::nvlink),
    ("fabric", links::fabric),
    ("pcie", links::pcie),
    ("numa", numa::known),
    ("numa-agreement", numa::agreement),
    ("mig", sharing::mig),
    ("sharing", sharing::sharing),
    ("acs", bus::acs),
    ("iommu", bus::iommu),
    ("interrupts", bus::interrupts),
    ("huge-pages", memory::huge_pages),
    ("shared-memory", memory::shared_memory),
    ("kubelet", kubelet::policies),
    ("device-plugin", plugin::served),
    ("promises", plugin::promises),
    ("cluster", working::cluster),
    ("extender", working::extender),
];

/// What every check says, the worst first, else in the order of the list.
pub(crate) fn findings(facts: &Facts) -> Vec<Finding> {
    let of_check = |(name, check): &Check| check(name, facts);
    let mut findings: Vec<Finding> = CHECKS.iter().flat_map(of_check).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// The status, or what is said in place of every check that needs it: the check `agent` tells why.
fn status(facts: &Facts) -> Option<&Status> {
    facts.status.as_ref().ok()
}

/// The GPUs; nothing is to be said of a machine that has none, or of one that nobody could read.
fn gpus(facts: &Facts) -> &[Gpu] {
    status(facts).map_or(&[], |status| status.gpus.as_slice())
}

/// Where a field of the status was read.
fn at(facts: &Facts, field: &str) -> String {
    format!("status.{field} of {}", facts.status_from)
}

/// Where a field of a GPU was read.
fn at_gpu(facts: &Facts, gpu: &Gpu, field: &str) -> String {
    at(facts, &format!("gpus[index {}].{field}", gpu.index))
}

fn ok(check: &'static str, message: impl AsRef<str>) -> Finding {
    Finding::new(check, Severity::Ok, message)
}

fn unknown(check: &'static str, message: impl AsRef<str>) -> Finding {
    Finding::new(check, Severity::Unknown, message)
}

fn note(check: &'static str, message: impl AsRef<str>) -> Finding {
    Finding::new(check, Severity::Note, message)
}

fn warning(check: &'static str, message: impl AsRef<str>) -> Finding {
    Finding::new(check, Severity::Warning, message)
}

fn error(check: &'static str, message: impl AsRef<str>) -> Finding {
    Finding::new(check, Severity::Error, message)
}

/// `GPU 3`, `GPUs 0, 3`.
fn named<'a>(gpus: impl IntoIterator<Item = &'a Gpu>) -> String {
    let indices: Vec<String> = gpus.into_iter().map(|gpu| gpu.index.to_string()).collect();
    let plural = if indices.len() == 1 { "" } else { "s" };
    format!("GPU{plural} {}", indices.join(", "))
}
