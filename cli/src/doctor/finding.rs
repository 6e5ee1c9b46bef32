//! What the doctor finds: how bad it is, what was read, what to do.

use serde::Serialize;

use super::escape::plain;

/// A finding lists the first so many of what was read.
const EVIDENCE_MAX: usize = 16;

/// How bad, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Looked at, and in order.
    Ok,
    /// Could not be looked at.
    Unknown,
    /// Worth knowing.
    Note,
    /// Something is slower or less sure than it could be.
    Warning,
    /// Something does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    /// Which check: `pcie`, `lease`.
    pub(crate) check: &'static str,
    pub(crate) severity: Severity,
    /// What is so, in a sentence without a full stop.
    pub(crate) message: String,
    /// What was read, and where.
    pub(crate) evidence: Vec<Evidence>,
    /// How many readings more there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) evidence_left_out: usize,
    /// A command or a setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Evidence {
    pub(crate) value: String,
    pub(crate) from: String,
}

// === impl Severity ===

impl Severity {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

// === impl Finding ===

impl Finding {
    pub(crate) fn new(check: &'static str, severity: Severity, message: impl AsRef<str>) -> Self {
        Self {
            check,
            severity,
            message: plain(message.as_ref()),
            evidence: Vec::new(),
            evidence_left_out: 0,
            fix: None,
        }
    }

    /// What was read, and where.
    pub(crate) fn read(mut self, value: impl AsRef<str>, from: impl AsRef<str>) -> Self {
        if self.evidence.len() == EVIDENCE_MAX {
            self.evidence_left_out += 1;
        } else {
            self.evidence.push(Evidence {
                value: plain(value.as_ref()),
                from: plain(from.as_ref()),
            });
        }
        self
    }

    /// Several values of one kind.
    pub(crate) fn read_all(self, all: impl IntoIterator<Item = (String, String)>) -> Self {
        all.into_iter()
            .fold(self, |finding, (value, from)| finding.read(value, from))
    }

    pub(crate) fn fix(mut self, fix: impl AsRef<str>) -> Self {
        self.fix = Some(plain(fix.as_ref()));
        self
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}
