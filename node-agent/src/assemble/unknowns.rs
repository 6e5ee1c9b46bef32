//! What could not be read, and why.

use berth_topology::node::Unknown;
use berth_topology::raw::Answer;

use super::told::tame;

/// What a GPU that lacks a feature answers.
pub(crate) const NOT_SUPPORTED: &str = "NVML_ERROR_NOT_SUPPORTED";
/// A machine of 64 GPUs of which nothing but the identities can be read has fewer.
const UNKNOWNS_MAX: usize = 8192;

/// Collects them in the order in which the topology is assembled.
#[derive(Default)]
pub(crate) struct Unknowns(Vec<Unknown>);

// === impl Unknowns ===

impl Unknowns {
    /// Notes that `what` is unknown, or doubtful, because of `why`.
    pub(crate) fn note(&mut self, what: &str, why: impl Into<String>) {
        let unknown = Unknown {
            what: tame(what),
            why: tame(&why.into()),
        };
        if self.0.len() < UNKNOWNS_MAX && !self.0.contains(&unknown) {
            self.0.push(unknown);
        }
    }

    /// The value of a call that every machine should answer; a failure is noted.
    pub(crate) fn value<'a, T>(
        &mut self,
        what: &str,
        call: &str,
        answer: &'a Answer<T>,
    ) -> Option<&'a T> {
        if let Some(error) = answer.error() {
            self.note(what, format!("{call}: {error}"));
        }
        answer.value()
    }

    /// The value of a call for a feature that not every GPU has: not supported is an answer.
    pub(crate) fn optional<'a, T>(
        &mut self,
        what: &str,
        call: &str,
        answer: &'a Answer<T>,
    ) -> Option<&'a T> {
        match answer.error() {
            Some(NOT_SUPPORTED) => None,
            _ => self.value(what, call, answer),
        }
    }

    pub(crate) fn into_list(self) -> Vec<Unknown> {
        self.0
    }
}
