//! What the machine can do just then.

use std::time::Duration;

use anyhow::{Context, Result};
use berth_engine_cpu::matrix::Form;
use berth_engine_cpu::probe::{peak_ops_per_second, read_bytes_per_second};
use berth_engine_cpu::team::Team;
use berth_engine_cpu::tier::Tier;

/// How long each part of it takes.
const PART: Duration = Duration::from_millis(50);
/// Several times what caches hold.
const READ_BYTES: usize = 256 << 20;

pub(crate) struct Probe {
    tier: Tier,
    alone: Team,
    together: Team,
    words: Vec<u64>,
}

/// What a probe found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// What all cores multiply against what one does.
    pub(crate) cores: f64,
    pub(crate) read_bytes_per_second: f64,
}

// === impl Probe ===

impl Probe {
    pub(crate) fn new() -> Result<Self> {
        let team = |count| Team::new(count).context("starting threads");
        Ok(Self {
            tier: Tier::best(),
            alone: team(Some(1))?,
            together: team(None)?,
            words: vec![1; READ_BYTES / size_of::<u64>()],
        })
    }

    pub(crate) fn tier(&self) -> &'static str {
        self.tier.name()
    }

    pub(crate) fn cpu_count(&self) -> usize {
        self.together.worker_count()
    }

    pub(crate) fn moment(&mut self) -> Moment {
        let _pinned = self.together.pin_caller();
        let peak = |team: &mut Team| peak_ops_per_second(team, self.tier, Form::Bf16, PART);
        let one = peak(&mut self.alone).unwrap_or(f64::NAN);
        let all = peak(&mut self.together).unwrap_or(f64::NAN);
        Moment {
            cores: all / one,
            read_bytes_per_second: read_bytes_per_second(
                &mut self.together,
                self.tier,
                &self.words,
                PART,
            ),
        }
    }
}

// === impl Moment ===

impl Moment {
    /// Whether all of `count` cores were there. A tier without a peak tells nothing.
    pub(crate) fn is_fair(self, count: usize) -> bool {
        let least = if count < 2 {
            0.0
        } else {
            0.9 * f64::from(u32::try_from(count).unwrap_or(u32::MAX))
        };
        let is_away = self.cores < least;
        !is_away
    }
}
