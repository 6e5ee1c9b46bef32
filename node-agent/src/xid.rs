//! What the errors of NVIDIA's driver (XIDs) mean for a GPU's health. A pure table.
//!
//! Each row is taken from NVIDIA's Xid catalogue
//! (<https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html>): the numbers, what they
//! report, and its "immediate action", from which [`Bucket::meaning`] follows. Rows that the catalogue
//! calls unused are left out: such a number is unlisted.

use std::ops::RangeInclusive;

/// One row of the catalogue, or several that say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its numbers.
    pub codes: RangeInclusive<u32>,
    /// What happened.
    pub what: &'static str,
    /// The catalogue's immediate action.
    pub bucket: Bucket,
}

/// The catalogue's immediate actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// `IGNORE`.
    Ignore,
    /// `RESTART_APP`.
    RestartApp,
    /// `WORKFLOW_XID_45`, and what only accompanies another error, which decides.
    FollowOther,
    /// None: tells a state, no fault.
    NoFault,
    /// `XID_154`: the driver tells its recovery action, which is read by itself.
    RecoveryAction,
    /// `WORKFLOW_NVLINK_ERR`, `WORKFLOW_NVLINK5_ERR`.
    NvLink,
    /// `WORKFLOW_XID_48`: reset, at the latest after draining.
    DoubleBit,
    /// `RESET_GPU`.
    ResetGpu,
    /// `RESTART_VM`, `RESTART_BM`.
    RestartMachine,
    /// `CHECK_MECHANICALS`, `CHECK_UVM`, `UPDATE_SWFW`, `CONTACT_SUPPORT`.
    Investigate,
    /// None, of a fault.
    NotGiven,
}

/// What an error does to the GPU's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Meaning {
    /// Nothing: the application's fault, or over with it, or told better by NVML's own counters.
    Told,
    /// One or more of its NVLinks are in doubt; the GPU itself is not.
    Link,
    /// In doubt: it is used, and said to be degraded.
    Suspect,
    /// Not usable until it was reset.
    Fatal,
}

const fn entry(codes: RangeInclusive<u32>, what: &'static str, bucket: Bucket) -> Entry {
    Entry {
        codes,
        what,
        bucket,
    }
}

/// In the order of their numbers, without overlaps.
pub const CATALOGUE: [Entry; 68] = [
    entry(8..=8, "a channel stopped", Bucket::RestartApp),
    entry(11..=11, "invalid push buffer", Bucket::RestartApp),
    entry(13..=13, "graphics engine exception", Bucket::RestartApp),
    entry(25..=25, "illegal push buffer", Bucket::RestartApp),
    entry(31..=31, "memory page fault", Bucket::RestartApp),
    entry(32..=32, "corrupted push buffer", Bucket::RestartApp),
    entry(37..=38, "driver firmware error", Bucket::Ignore),
    entry(39..=41, "copy engine exception", Bucket::RestartApp),
    entry(43..=43, "an application was stopped", Bucket::Ignore),
    entry(44..=44, "fault during a context switch", Bucket::Ignore),
    entry(
        45..=45,
        "channels were removed after another error",
        Bucket::FollowOther,
    ),
    entry(46..=46, "it stopped processing", Bucket::ResetGpu),
    entry(48..=48, "double bit ECC error", Bucket::DoubleBit),
    entry(
        54..=54,
        "auxiliary power is not connected",
        Bucket::Investigate,
    ),
    entry(60..=60, "video processor exception", Bucket::RestartApp),
    entry(62..=62, "its micro-controller halted", Bucket::ResetGpu),
    entry(63..=63, "memory is to be remapped", Bucket::Ignore),
    entry(64..=64, "remapping memory failed", Bucket::ResetGpu),
    entry(66..=67, "illegal access by the driver", Bucket::Ignore),
    entry(68..=68, "video decoder exception", Bucket::RestartApp),
    entry(69..=69, "graphics engine class error", Bucket::RestartApp),
    entry(70..=72, "copy engine exception", Bucket::RestartApp),
    entry(74..=74, "NVLink error", Bucket::NvLink),
    entry(75..=77, "copy engine exception", Bucket::RestartApp),
    entry(78..=78, "a vGPU did not start", Bucket::Investigate),
    entry(79..=79, "it fell off the bus", Bucket::RestartMachine),
    entry(80..=80, "corrupted data was sent to it", Bucket::RestartApp),
    entry(
        82..=86,
        "JPEG, video or copy engine exception",
        Bucket::RestartApp,
    ),
    entry(88..=89, "video decoder exception", Bucket::RestartApp),
    entry(92..=92, "many single bit ECC errors", Bucket::Ignore),
    entry(93..=93, "its InfoROM wears out", Bucket::Ignore),
    entry(94..=94, "contained memory error", Bucket::RestartApp),
    entry(95..=95, "uncontained memory error", Bucket::ResetGpu),
    entry(
        96..=105,
        "video or JPEG engine exception",
        Bucket::RestartApp,
    ),
    entry(106..=107, "a test message", Bucket::Ignore),
    entry(108..=108, "NVLink remote translation error", Bucket::Ignore),
    entry(109..=109, "context switch timeout", Bucket::ResetGpu),
    entry(110..=110, "security fault", Bucket::ResetGpu),
    entry(119..=119, "its GSP did not answer", Bucket::ResetGpu),
    entry(120..=120, "its GSP failed", Bucket::ResetGpu),
    entry(121..=121, "C2C link error", Bucket::Ignore),
    entry(126..=135, "copy engine exception", Bucket::RestartApp),
    entry(136..=136, "an NVLink did not train", Bucket::ResetGpu),
    entry(137..=137, "NVLink access error", Bucket::Ignore),
    entry(139..=139, "optical flow exception", Bucket::RestartApp),
    entry(140..=140, "unrecoverable ECC error", Bucket::ResetGpu),
    entry(141..=141, "fast path error", Bucket::Ignore),
    entry(142..=142, "video encoder exception", Bucket::Investigate),
    entry(143..=143, "it did not initialise", Bucket::ResetGpu),
    entry(144..=150, "NVLink error", Bucket::NvLink),
    entry(
        151..=151,
        "rotating its keys failed",
        Bucket::RestartMachine,
    ),
    entry(152..=153, "deep learning accelerator error", Bucket::Ignore),
    entry(
        154..=154,
        "its recovery action changed",
        Bucket::RecoveryAction,
    ),
    entry(
        155..=155,
        "NVLink error defined by software",
        Bucket::ResetGpu,
    ),
    entry(156..=156, "a resource is to be retired", Bucket::ResetGpu),
    entry(157..=157, "retiring a resource failed", Bucket::Ignore),
    entry(158..=158, "fatal timeout", Bucket::ResetGpu),
    entry(159..=159, "error on the CHI bus", Bucket::Investigate),
    entry(160..=160, "a channel is to be retired", Bucket::Ignore),
    entry(161..=161, "retiring a channel failed", Bucket::Ignore),
    entry(162..=163, "power smoothing changed", Bucket::NoFault),
    entry(164..=165, "power smoothing wears out", Bucket::NoFault),
    entry(166..=166, "NVLink encryption error", Bucket::NotGiven),
    entry(167..=167, "fatal PCIe timeout", Bucket::NotGiven),
    entry(168..=168, "reduced memory capacity", Bucket::NotGiven),
    entry(169..=169, "its SEC2 halted", Bucket::NotGiven),
    entry(
        170..=170,
        "NVLink interrupt in confidential mode",
        Bucket::NotGiven,
    ),
    entry(171..=172, "details of XID 48", Bucket::FollowOther),
];

/// The catalogue's row; `None` for a number that it does not list.
#[must_use]
pub fn find(code: u32) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.codes.contains(&code))
}

/// What a number means. One that the catalogue does not list is no reason to take a GPU away from
/// everybody, and none to say nothing.
#[must_use]
pub fn meaning(code: u32) -> Meaning {
    find(code).map_or(Meaning::Suspect, |entry| entry.bucket.meaning())
}

/// `XID 95: uncontained memory error`.
#[must_use]
pub fn sentence(code: u32) -> String {
    let what = find(code).map_or("not in NVIDIA's catalogue", |entry| entry.what);
    format!("XID {code}: {what}")
}

// === impl Bucket ===

impl Bucket {
    /// What follows from it.
    #[must_use]
    pub fn meaning(self) -> Meaning {
        match self {
            Self::Ignore
            | Self::RestartApp
            | Self::FollowOther
            | Self::NoFault
            | Self::RecoveryAction => Meaning::Told,
            Self::NvLink => Meaning::Link,
            Self::Investigate | Self::NotGiven => Meaning::Suspect,
            Self::DoubleBit | Self::ResetGpu | Self::RestartMachine => Meaning::Fatal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_do_not_overlap() {
        for pair in CATALOGUE.windows(2) {
            assert!(
                pair[0].codes.end() < pair[1].codes.start(),
                "{:?}, {:?}",
                pair[0].codes,
                pair[1].codes
            );
        }
    }

    #[test]
    fn each_kind_of_error_is_what_the_catalogue_says() {
        let cases: [(Meaning, &[u32]); 4] = [
            (
                Meaning::Told,
                &[13, 31, 43, 45, 63, 68, 92, 94, 121, 137, 154],
            ),
            (Meaning::Link, &[74, 144, 150]),
            (Meaning::Suspect, &[54, 78, 142]),
            (
                Meaning::Fatal,
                &[46, 48, 62, 64, 79, 95, 109, 119, 120, 140, 143, 158],
            ),
        ];
        for (expected, codes) in cases {
            for code in codes {
                assert_eq!(meaning(*code), expected, "XID {code}");
            }
        }
    }

    #[test]
    fn an_unlisted_number_is_a_doubt_that_says_so() {
        assert_eq!(meaning(90), Meaning::Suspect, "the catalogue: unused");
        assert_eq!(meaning(u32::MAX), Meaning::Suspect);
        assert_eq!(sentence(999), "XID 999: not in NVIDIA's catalogue");
    }
}
