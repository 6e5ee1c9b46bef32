//! XIDs that still count against a GPU, and what ends them. Pure.
//!
//! ```text
//!   told ──► holds ──► over:  the driver was loaded again, or the machine booted
//!               │              NVML showed the trouble, and shows it no longer
//!               │              the driver, asked late enough, says that nothing is to be done
//!               └─ told again: holds anew
//! ```
//!
//! Time alone ends nothing. A driver without recovery actions (before R565) that hides the trouble, too,
//! is believed only after it was loaded again.

use std::collections::BTreeMap;

use berth_topology::gpu::{Gpu, HealthState, Xid};
use berth_topology::ids::GpuUuid;
use jiff::{SignedDuration, Timestamp};

use crate::xid::{self, Meaning};

/// When a driver that tells recovery actions has made up its mind after an error.
const VERDICT_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// Different numbers kept of one GPU. The catalogue has some forty that count.
const PER_GPU_MAX: usize = 64;

/// By GPU and number.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Incidents(BTreeMap<GpuUuid, BTreeMap<u32, Incident>>);

#[derive(Clone, Debug, PartialEq)]
struct Incident {
    first: Timestamp,
    last: Timestamp,
    driver_load: Option<String>,
    /// Whether NVML showed trouble since.
    was_seen: bool,
}

/// Which load of the driver a look at the machine was of, and when it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) now: Timestamp,
    pub(super) driver_load: Option<&'a str>,
}

// === impl Incidents ===

impl Incidents {
    /// The driver told an error.
    pub(super) fn begin(&mut self, gpu: &GpuUuid, code: u32, look: Look<'_>) {
        if xid::meaning(code) == Meaning::Told {
            return;
        }
        let of_gpu = self.0.entry(gpu.clone()).or_default();
        if of_gpu.len() >= PER_GPU_MAX && !of_gpu.contains_key(&code) {
            return;
        }
        let new = Incident::new(look.now, look.driver_load);
        let incident = of_gpu.entry(code).or_insert(new);
        incident.last = look.now;
        incident.driver_load = look.driver_load.map(str::to_owned);
        incident.was_seen = false;
    }

    /// Takes up what an earlier run of the agent published.
    pub(super) fn recall(&mut self, gpu: &Gpu) {
        for xid in gpu.health.xids.iter().take(PER_GPU_MAX) {
            let at = xid.at.parse().unwrap_or(Timestamp::UNIX_EPOCH);
            let mut incident = Incident::new(at, xid.driver_load.as_deref());
            incident.was_seen = asks_for_recovery(gpu);
            let of_gpu = self.0.entry(gpu.uuid.clone()).or_default();
            of_gpu.entry(xid.code).or_insert(incident);
        }
    }

    /// A GPU does not answer at all.
    pub(super) fn is_lost(&mut self, gpu: &GpuUuid) {
        for incident in self.0.get_mut(gpu).into_iter().flatten() {
            incident.1.was_seen = true;
        }
    }

    /// Ends what is over, and adds the rest to the health of a GPU that NVML answered for.
    pub(super) fn complete(&mut self, gpu: &mut Gpu, look: Look<'_>) {
        let Some(of_gpu) = self.0.get_mut(&gpu.uuid) else {
            return;
        };
        of_gpu.retain(|code, incident| incident.holds(trouble(gpu, *code), gpu, look));
        for (code, incident) in of_gpu {
            weigh(gpu, *code, incident);
        }
    }
}

// === impl Incident ===

impl Incident {
    fn new(at: Timestamp, driver_load: Option<&str>) -> Self {
        Self {
            first: at,
            last: at,
            driver_load: driver_load.map(str::to_owned),
            was_seen: false,
        }
    }

    fn holds(&mut self, is_trouble: bool, gpu: &Gpu, look: Look<'_>) -> bool {
        if self.driver_load.is_none() {
            // told before a look said which load it was
            self.driver_load = look.driver_load.map(str::to_owned);
        }
        let was_loaded_again = match (&self.driver_load, look.driver_load) {
            (Some(then), Some(now)) => then != now,
            _ => false,
        };
        if was_loaded_again {
            return false;
        }
        if is_trouble {
            self.was_seen = true;
            return true;
        }
        let is_verdict = gpu.health.recovery_action.as_deref() == Some("none")
            && look.now.duration_since(self.last) >= VERDICT_AFTER;
        !self.was_seen && !is_verdict
    }
}

/// Whether NVML itself shows what an error tells.
fn trouble(gpu: &Gpu, code: u32) -> bool {
    let has_dark_lanes = || {
        let nvlink = gpu.nvlink.as_ref();
        nvlink.is_some_and(|nvlink| nvlink.lanes < nvlink.lanes_expected)
    };
    let is_link = xid::meaning(code) == Meaning::Link;
    gpu.health.state == HealthState::Failed
        || asks_for_recovery(gpu)
        || (is_link && has_dark_lanes())
}

fn asks_for_recovery(gpu: &Gpu) -> bool {
    let action = gpu.health.recovery_action.as_deref();
    action.is_some_and(|action| action != "none")
}

fn weigh(gpu: &mut Gpu, code: u32, incident: &Incident) {
    let (state, until) = match xid::meaning(code) {
        Meaning::Told => return,
        Meaning::Fatal => (HealthState::Failed, "; it needs a reset"),
        Meaning::Link | Meaning::Suspect => (HealthState::Degraded, ""),
    };
    let health = &mut gpu.health;
    if health.state != HealthState::Failed {
        health.state = state;
    }
    health
        .reasons
        .push(format!("{}{until}", xid::sentence(code)));
    health.xids.push(Xid {
        code,
        at: incident.first.to_string(),
        driver_load: incident.driver_load.clone(),
    });
}

#[cfg(test)]
mod tests {
    use berth_topology::gpu::{GpuNvLink, Health};
    use expect_test::{Expect, expect};

    use super::*;

    fn gpu(state: HealthState, recovery_action: Option<&str>) -> Gpu {
        Gpu {
            uuid: "GPU-0".into(),
            health: Health {
                state,
                recovery_action: recovery_action.map(str::to_owned),
                ..Health::default()
            },
            ..Gpu::default()
        }
    }

    fn look(second: i64, driver_load: &str) -> Look<'_> {
        Look {
            now: Timestamp::from_second(second).unwrap(),
            driver_load: Some(driver_load),
        }
    }

    /// An XID at second 0, then what is seen at each second: state by NVML, recovery action, load.
    #[track_caller]
    fn check(code: u32, seen: &[(i64, HealthState, Option<&str>, &str)], expected: Expect) {
        let mut incidents = Incidents::default();
        incidents.begin(&"GPU-0".into(), code, look(0, "1"));
        let mut text = String::new();
        for (second, state, action, load) in seen {
            let mut gpu = gpu(*state, *action);
            incidents.complete(&mut gpu, look(*second, load));
            let reasons = gpu.health.reasons.join(", ");
            text += &format!("{second}: {} {reasons}\n", gpu.health.state.as_str());
        }
        expected.assert_eq(&text);
    }

    use HealthState::{Failed, Healthy};

    #[test]
    fn a_fatal_error_holds_until_the_driver_was_loaded_again_however_long_it_takes() {
        check(
            95,
            &[
                (0, Healthy, None, "1"),
                (90_000, Healthy, None, "1"),
                (90_001, Healthy, None, "2"),
            ],
            expect![[r#"
                0: failed XID 95: uncontained memory error; it needs a reset
                90000: failed XID 95: uncontained memory error; it needs a reset
                90001: healthy 
            "#]],
        );
    }

    #[test]
    fn an_error_that_was_told_before_the_first_look_ends_with_the_next_load_too() {
        let mut incidents = Incidents::default();
        let before = Look {
            driver_load: None,
            ..look(0, "")
        };
        incidents.begin(&"GPU-0".into(), 95, before);
        let states = ["1", "1", "2"].map(|load| {
            let mut gpu = gpu(Healthy, None);
            incidents.complete(&mut gpu, look(1, load));
            gpu.health.state
        });
        assert_eq!(states, [Failed, Failed, Healthy]);
    }

    #[test]
    fn a_gpu_that_nvml_shows_as_failed_and_then_healthy_has_recovered() {
        check(
            79,
            &[
                (0, Healthy, None, "1"),
                (1, Failed, None, "1"),
                (2, Healthy, None, "1"),
            ],
            expect![[r#"
                0: failed XID 79: it fell off the bus; it needs a reset
                1: failed XID 79: it fell off the bus; it needs a reset
                2: healthy 
            "#]],
        );
    }

    #[test]
    fn the_drivers_recovery_action_decides_when_it_asked_for_one_or_had_time_to() {
        check(
            119,
            &[
                (0, Healthy, Some("none"), "1"),
                (1, Healthy, Some("reset"), "1"),
                (2, Healthy, Some("none"), "1"),
            ],
            expect![[r#"
                0: failed XID 119: its GSP did not answer; it needs a reset
                1: failed XID 119: its GSP did not answer; it needs a reset
                2: healthy 
            "#]],
        );
        check(
            48,
            &[
                (29, Healthy, Some("none"), "1"),
                (30, Healthy, Some("none"), "1"),
            ],
            expect![[r#"
                29: failed XID 48: double bit ECC error; it needs a reset
                30: healthy 
            "#]],
        );
    }

    #[test]
    fn an_applications_fault_changes_nothing_and_an_unlisted_error_is_a_doubt() {
        check(
            31,
            &[(0, Healthy, None, "1")],
            expect![[r#"
            0: healthy 
        "#]],
        );
        check(
            999,
            &[(0, Healthy, None, "1")],
            expect![[r#"
                0: degraded XID 999: not in NVIDIA's catalogue
            "#]],
        );
    }

    #[test]
    fn a_link_error_is_over_when_the_lanes_that_it_took_are_back() {
        let lanes = |lanes| Gpu {
            nvlink: Some(GpuNvLink {
                lanes,
                lanes_expected: 18,
                gb_per_second: 0.0,
            }),
            ..gpu(Healthy, None)
        };
        let mut incidents = Incidents::default();
        incidents.begin(&"GPU-0".into(), 74, look(0, "1"));
        let mut states = Vec::new();
        for (second, count) in [(0, 18), (1, 17), (2, 18)] {
            let mut gpu = lanes(count);
            incidents.complete(&mut gpu, look(second, "1"));
            states.push(gpu.health.state);
        }
        use HealthState::Degraded;
        assert_eq!(states, [Degraded, Degraded, Healthy]);
    }

    #[test]
    fn an_error_that_is_told_again_holds_anew_and_is_published_with_its_first_time() {
        let mut incidents = Incidents::default();
        let uuid = "GPU-0".into();
        incidents.begin(&uuid, 48, look(0, "1"));
        incidents.begin(&uuid, 48, look(20, "1"));
        let mut seen = gpu(Healthy, Some("none"));
        incidents.complete(&mut seen, look(40, "1"));
        assert_eq!(seen.health.state, Failed);
        assert_eq!(seen.health.xids[0].at, "1970-01-01T00:00:00Z");
    }

    #[test]
    fn an_agent_that_starts_takes_up_what_was_published() {
        let mut before = Incidents::default();
        before.begin(&"GPU-0".into(), 95, look(5, "1"));
        let mut published = gpu(Healthy, None);
        before.complete(&mut published, look(6, "1"));
        let mut after = Incidents::default();
        after.recall(&published);
        let mut seen = gpu(Healthy, None);
        after.complete(&mut seen, look(7, "1"));
        assert_eq!(seen.health, published.health);
    }
}
