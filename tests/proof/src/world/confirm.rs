//! Reads of pods whose binds are unconfirmed: when they begin, when they end, and what they show.

use std::time::Instant;

use berth_extender_core::index::Confirmed;

use crate::check;
use crate::confirm::Shows;
use crate::extender::instant;
use crate::world::World;

/// A read ends within this, well or not.
const READ_MAX_MS: u64 = 1_000;

impl World {
    /// An extender looks whether there is something to confirm.
    pub fn begin_confirming(&mut self, extender: usize) {
        let now = instant(self.now_ms);
        let count = self.extenders[extender].begin_confirming(&self.api, now);
        if count > 0 {
            self.say(|| format!("extender {extender} reads {count} unconfirmed pods"));
        }
    }

    /// One read ends. What it shows was true at some time since it began.
    pub fn end_confirming(&mut self, extender: usize) {
        let count = self.extenders[extender].confirming.len();
        if count == 0 {
            return;
        }
        let position = self.rng.below(count);
        let shows = match self.rng.below(10) {
            0 if !self.is_well => Shows::Nothing,
            1..=4 => Shows::Then,
            _ => Shows::Now,
        };
        let now = instant(self.now_ms);
        let (name, says) = self.extenders[extender].end_confirming(position, shows, &self.api, now);
        self.say(|| format!("extender {extender} has read {name} as it was {shows:?}: {says:?}"));
        if says == Confirmed::Contradicted {
            self.violate(|| format!("{name} was said to be bound, and is not"));
        }
        check::counts(self, extender);
    }

    /// Reads that have taken as long as they may end, and others begin.
    pub(super) fn confirm(&mut self) {
        let now = instant(self.now_ms);
        for extender in 0..self.extenders.len() {
            let is_old = |began: Instant| (now - began).as_millis() >= u128::from(READ_MAX_MS);
            while let Some(one) = self.extenders[extender].confirming.first()
                && (is_old(one.began) || self.rng.percent(30))
            {
                self.end_confirming(extender);
            }
            if self.is_well || self.rng.percent(80) {
                self.begin_confirming(extender);
            }
        }
    }
}
