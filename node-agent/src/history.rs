//! What one probe alone cannot know, kept between probes.
//!
//! PCIe links idle at Gen1 and wake up under load: the highest seen counts. A GPU that stops
//! answering vanishes from NVML: it stays listed, as failed. An NVLink lane that went dark no longer
//! tells where it led: the most seen is what is expected. An XID is told once: it counts until there is
//! evidence that it is over.

mod incidents;
mod shared;

use std::collections::BTreeMap;

use berth_topology::gpu::{Gpu, GpuNvLink, Health, HealthState, Pcie};
use berth_topology::hash;
use berth_topology::ids::GpuUuid;
use berth_topology::link::{Link, PairNvLink};
use berth_topology::node::Status;
use jiff::Timestamp;

use incidents::{Incidents, Look};
pub use shared::SharedHistory;

/// GPUs and links as they were last, since boot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    boot_id: Option<String>,
    driver_load: Option<String>,
    gpus: BTreeMap<GpuUuid, Gpu>,
    links: BTreeMap<(GpuUuid, GpuUuid), Link>,
    incidents: Incidents,
}

// === impl History ===

impl History {
    /// What an earlier run of the agent published; counts only if it was since this boot.
    pub fn recall(&mut self, published: &Status, boot_id: Option<&str>) {
        if boot_id.is_some() && published.boot_id.as_deref() == boot_id {
            self.boot_id = boot_id.map(str::to_owned);
            self.remember(published);
            for gpu in &published.gpus {
                self.incidents.recall(gpu);
            }
        }
    }

    /// The driver told an XID of a GPU.
    pub fn begin(&mut self, gpu: &GpuUuid, code: u32, now: Timestamp) {
        let driver_load = self.driver_load.as_deref();
        self.incidents.begin(gpu, code, Look { now, driver_load });
    }

    /// An assembled topology completed by what was seen before. The same one twice gives the same.
    #[must_use]
    pub fn complete(&mut self, assembled: Status, now: Timestamp) -> Status {
        let mut status = assembled;
        if self.boot_id.is_some() && self.boot_id != status.boot_id {
            *self = Self::default();
        }
        self.boot_id.clone_from(&status.boot_id);
        self.driver_load.clone_from(&status.driver_load);
        let time = now.to_string();
        for gpu in &mut status.gpus {
            self.complete_gpu(gpu, now, &time);
        }
        for link in &mut status.links {
            self.complete_link(link);
        }
        self.add_lost(&mut status, &time);
        status.observed_at = Some(time);
        status.agent_version = Some(env!("CARGO_PKG_VERSION").to_owned());
        status.hash = hash::of_status(&status);
        self.remember(&status);
        status
    }

    fn remember(&mut self, status: &Status) {
        let gpus = status
            .gpus
            .iter()
            .map(|gpu| (gpu.uuid.clone(), gpu.clone()));
        self.gpus.extend(gpus);
        let pair = |link: &Link| (link.a.clone(), link.b.clone());
        self.links
            .extend(status.links.iter().map(|link| (pair(link), link.clone())));
    }

    fn complete_gpu(&mut self, gpu: &mut Gpu, now: Timestamp, time: &str) {
        let before = self.gpus.get(&gpu.uuid);
        if let Some(before) = before {
            gpu.pcie = highest(gpu.pcie.as_ref(), before.pcie.as_ref());
            if let (Some(nvlink), Some(before)) = (&mut gpu.nvlink, &before.nvlink) {
                expect_lanes(nvlink, before, &mut gpu.health);
            }
        }
        let driver_load = self.driver_load.as_deref();
        self.incidents.complete(gpu, Look { now, driver_load });
        let from_the_start = Health {
            state: HealthState::Healthy,
            ..Health::default()
        };
        let before = before.map_or(&from_the_start, |before| &before.health);
        date(&mut gpu.health, before, time);
    }

    fn complete_link(&self, link: &mut Link) {
        let before = self.links.get(&(link.a.clone(), link.b.clone()));
        let before = before.and_then(|before| before.nvlink.as_ref());
        link.nvlink = match (link.nvlink.take(), before) {
            (Some(nvlink), Some(before)) => Some(PairNvLink {
                lanes_expected: nvlink.lanes_expected.max(before.lanes_expected),
                ..nvlink
            }),
            // all lanes between the two went dark and no longer tell where they lead
            (None, Some(before)) => Some(PairNvLink {
                lanes: 0,
                gb_per_second: 0.0,
                ..before.clone()
            }),
            (nvlink, None) => nvlink,
        };
    }

    /// Lists GPUs that were there and no longer are, with their paths.
    fn add_lost(&mut self, status: &mut Status, now: &str) {
        let lost: Vec<Gpu> = self
            .gpus
            .values()
            .filter(|gpu| status.gpu(&gpu.uuid).is_none())
            .map(|gpu| failed(gpu, status, now))
            .collect();
        if lost.is_empty() {
            return;
        }
        for gpu in &lost {
            self.incidents.is_lost(&gpu.uuid);
        }
        status.gpus.extend(lost);
        status
            .gpus
            .sort_by(|a, b| (a.index, &a.uuid).cmp(&(b.index, &b.uuid)));
        let listed = |link: &Link| status.link(&link.a, &link.b).is_some();
        let lost_links: Vec<Link> = self
            .links
            .values()
            .filter(|link| !listed(link))
            .map(without_lanes)
            .collect();
        status.links.extend(lost_links);
    }
}

/// A GPU that no longer answers.
fn failed(before: &Gpu, status: &Status, now: &str) -> Gpu {
    let what = format!("gpu {}", before.index);
    let why = status
        .unknowns
        .iter()
        .find(|unknown| unknown.what == what || unknown.what == "gpus");
    let why = why.map_or("NVML no longer lists it", |unknown| unknown.why.as_str());
    let reasons = vec![format!("it no longer answers: {why}")];
    let mut health = Health {
        state: HealthState::Failed,
        reasons,
        xids: before.health.xids.clone(),
        ..Health::default()
    };
    date(&mut health, &before.health, now);
    let dark = |nvlink: &GpuNvLink| GpuNvLink {
        lanes: 0,
        gb_per_second: 0.0,
        ..nvlink.clone()
    };
    Gpu {
        health,
        nvlink: before.nvlink.as_ref().map(dark),
        ..before.clone()
    }
}

fn without_lanes(link: &Link) -> Link {
    let dark = |nvlink: &PairNvLink| PairNvLink {
        lanes: 0,
        gb_per_second: 0.0,
        ..nvlink.clone()
    };
    Link {
        nvlink: link.nvlink.as_ref().map(dark),
        ..link.clone()
    }
}

/// Since when the verdict holds; absent for a GPU that was healthy from the start.
fn date(health: &mut Health, before: &Health, now: &str) {
    let is_same = health.state == before.state;
    health.since = if is_same {
        before.since.clone()
    } else {
        Some(now.to_owned())
    };
}

fn expect_lanes(nvlink: &mut GpuNvLink, before: &GpuNvLink, health: &mut Health) {
    if before.lanes_expected <= nvlink.lanes_expected {
        return;
    }
    nvlink.lanes_expected = before.lanes_expected;
    health.state = match health.state {
        HealthState::Healthy => HealthState::Degraded,
        worse => worse,
    };
    health.reasons.push(format!(
        "{} of {} NVLinks are active",
        nvlink.lanes, nvlink.lanes_expected
    ));
}

fn highest(now: Option<&Pcie>, before: Option<&Pcie>) -> Option<Pcie> {
    let (Some(now), Some(before)) = (now, before) else {
        return now.or(before).cloned();
    };
    Some(Pcie {
        generation: now.generation.max(before.generation),
        width: now.width.max(before.width),
        max_generation: now.max_generation.max(before.max_generation),
        max_width: now.max_width.max(before.max_width),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_topology::ids::GpuIndex;
    use berth_topology::link::{Path, Via};
    use berth_topology::node::Unknown;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn gpu(index: u32) -> Gpu {
        let health = Health {
            state: HealthState::Healthy,
            ..Health::default()
        };
        let uuid = GpuUuid(format!("GPU-{index}"));
        Gpu {
            uuid,
            index: GpuIndex(index),
            health,
            ..Gpu::default()
        }
    }

    fn pair(lanes: u32) -> Link {
        let gb_per_second = f64::from(lanes) * 25.0;
        let nvlink = PairNvLink {
            lanes,
            lanes_expected: lanes,
            gb_per_second,
            via: Via::Direct,
        };
        let nvlink = (lanes > 0).then_some(nvlink);
        Link {
            a: "GPU-0".into(),
            b: "GPU-1".into(),
            path: Path::Switch,
            nvlink,
        }
    }

    fn status(gpus: Vec<Gpu>, links: Vec<Link>) -> Status {
        Status {
            gpus,
            links,
            boot_id: Some("boot".into()),
            ..Status::default()
        }
    }

    #[test]
    fn the_highest_pcie_generation_seen_stays() {
        let running_at = |generation| Gpu {
            pcie: Some(Pcie {
                generation: Some(generation),
                ..Pcie::default()
            }),
            ..gpu(0)
        };
        let mut history = History::default();
        let seen = [1, 5, 1].map(|generation| {
            let status = history.complete(status(vec![running_at(generation)], vec![]), at(0));
            status.gpus[0]
                .pcie
                .as_ref()
                .and_then(|pcie| pcie.generation)
        });
        assert_eq!(seen, [Some(1), Some(5), Some(5)]);
    }

    #[test]
    fn a_gpu_that_is_lost_stays_listed_as_failed_with_its_paths_and_comes_back() {
        let mut history = History::default();
        let whole = || status(vec![gpu(0), gpu(1)], vec![pair(2)]);
        assert_eq!(history.complete(whole(), at(1)).gpus[1].health.since, None);
        let mut broken = status(vec![gpu(0)], vec![]);
        broken.unknowns.push(Unknown {
            what: "gpu 1".into(),
            why: "NVML_ERROR_GPU_IS_LOST".into(),
        });
        let seen = history.complete(broken.clone(), at(2));
        assert_eq!(seen.gpus[1].health.state, HealthState::Failed);
        assert_eq!(
            seen.gpus[1].health.since.as_deref(),
            Some("1970-01-01T00:00:02Z")
        );
        assert_eq!(
            seen.gpus[1].health.reasons,
            ["it no longer answers: NVML_ERROR_GPU_IS_LOST"]
        );
        assert_eq!(
            seen.links[0].nvlink.as_ref().map(|nvlink| nvlink.lanes),
            Some(0)
        );
        let again = history.complete(broken, at(3));
        assert_eq!(
            again.without_volatile(),
            seen.without_volatile(),
            "nothing to write"
        );
        let back = history.complete(whole(), at(4));
        assert_eq!(back.gpus[1].health.state, HealthState::Healthy);
        assert_eq!(
            back.gpus[1].health.since.as_deref(),
            Some("1970-01-01T00:00:04Z")
        );
        assert_eq!(
            back.links[0].nvlink.as_ref().map(|nvlink| nvlink.lanes),
            Some(2)
        );
    }

    #[test]
    fn lanes_that_went_dark_are_still_expected() {
        let with = |lanes| Gpu {
            nvlink: Some(GpuNvLink {
                lanes,
                lanes_expected: lanes,
                gb_per_second: 0.0,
            }),
            ..gpu(0)
        };
        let mut history = History::default();
        let _ = history.complete(status(vec![with(6), gpu(1)], vec![pair(2)]), at(1));
        let seen = history.complete(status(vec![with(4), gpu(1)], vec![pair(0)]), at(2));
        assert_eq!(seen.gpus[0].health.state, HealthState::Degraded);
        assert_eq!(seen.gpus[0].health.reasons, ["4 of 6 NVLinks are active"]);
        let nvlink = seen.links[0].nvlink.clone().unwrap();
        assert_eq!((nvlink.lanes, nvlink.lanes_expected), (0, 2));
    }

    #[test]
    fn what_was_published_before_this_boot_does_not_count() {
        let published = status(vec![gpu(0), gpu(1)], vec![]);
        let gpus_after = |boot: &str| {
            let mut history = History::default();
            history.recall(&published, Some(boot));
            history
                .complete(status(vec![gpu(0)], vec![]), at(0))
                .gpus
                .len()
        };
        assert_eq!(gpus_after("boot"), 2);
        assert_eq!(gpus_after("another"), 1);
    }

    #[test]
    fn a_reboot_starts_anew() {
        let mut history = History::default();
        let _ = history.complete(status(vec![gpu(0), gpu(1)], vec![]), at(1));
        let rebooted = Status {
            boot_id: Some("next".into()),
            ..status(vec![gpu(0)], vec![])
        };
        assert_eq!(history.complete(rebooted, at(2)).gpus.len(), 1);
    }
}
