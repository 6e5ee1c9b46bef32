//! Who leads, and what a change of leader sets off.

use crate::api::LeaderView;
use crate::election::Try;
use crate::extender::{Stream, instant};
use crate::setting::Control;
use crate::world::World;

/// An extender reads the schedulers' Lease so often.
const READ_LEASE_EVERY_MS: u64 = 1_000;
/// A scheduler tries to take or renew the Lease so often.
const ELECT_EVERY_MS: u64 = 2_000;

impl World {
    /// Schedulers try to take or renew their Lease, and extenders read it.
    pub(super) fn elect(&mut self) {
        let is_election = self.now_ms >= self.last_election_ms + ELECT_EVERY_MS;
        let is_read = self.now_ms >= self.last_read_ms + READ_LEASE_EVERY_MS;
        if self.setting.control != Control::TwoReplicas {
            return;
        }
        if is_election {
            self.last_election_ms = self.now_ms;
            let first = self.rng.below(2);
            for scheduler in [first, 1 - first] {
                self.stand(scheduler);
            }
        }
        if is_read {
            self.last_read_ms = self.now_ms;
            for extender in 0..self.extenders.len() {
                self.end_lease_read(extender);
                self.extenders[extender].begin_read(&self.api, instant(self.now_ms));
            }
        }
    }

    /// A read of the schedulers' Lease begins.
    pub fn begin_lease_read(&mut self, extender: usize) {
        let now = instant(self.now_ms);
        self.extenders[extender].begin_read(&self.api, now);
    }

    /// A read of the schedulers' Lease ends; what it shows was true at some time since it began.
    pub fn end_lease_read(&mut self, extender: usize) {
        let shows_now = self.rng.percent(50);
        let now = instant(self.now_ms);
        self.extenders[extender].end_read(shows_now.then_some(&self.api), now);
    }

    /// A scheduler tries to take or renew the Lease.
    pub fn stand(&mut self, scheduler: usize) {
        let reaches = !self.is_cut[scheduler] && !self.rng.percent(5);
        let Some(elector) = &mut self.schedulers[scheduler].elector else {
            return;
        };
        match elector.step(&mut self.api, reaches, self.now_ms) {
            Try::Same => {}
            Try::Taken => {
                self.has_forgotten = true;
                self.say(|| format!("scheduler {scheduler} leads"));
            }
            Try::Lost => {
                self.say(|| format!("scheduler {scheduler} has lost the lease"));
                self.restart_scheduler(scheduler);
            }
        }
    }

    /// A scheduler ends in order, and is started again.
    pub fn end_scheduler(&mut self, scheduler: usize) {
        self.say(|| format!("scheduler {scheduler} ends in order"));
        if let Some(elector) = &mut self.schedulers[scheduler].elector {
            elector.release(&mut self.api, self.now_ms);
        }
        self.restart_scheduler(scheduler);
    }

    /// Extenders say of their terms that ended that all is over, sooner or later or never.
    pub fn say_ended(&mut self) {
        for extender in 0..self.extenders.len() {
            let Some(term) = self.extenders[extender].ended_term(instant(self.now_ms)) else {
                continue;
            };
            if self.rng.percent(50) {
                continue;
            }
            self.extenders[extender].leader.told(&term);
            let Some(lease) = self.api.leader.filter(|_| !self.rng.percent(20)) else {
                continue;
            };
            self.say(|| format!("extender {extender}: term {} is over", term.number));
            let said = LeaderView {
                version: lease.version + 1,
                ended: Some(term.number),
                ..lease
            };
            self.api.set_leader(said, self.now_ms);
        }
    }

    /// Extenders that have to see what others did list their pods again.
    pub(super) fn list_again(&mut self) {
        let now = instant(self.now_ms);
        for extender in 0..self.extenders.len() {
            let wants = self.extenders[extender].wants_list(now);
            if wants && self.extenders[extender].is_live(Stream::Pods) {
                self.say(|| format!("extender {extender} lists its pods again"));
                self.extenders[extender].lose(Stream::Pods, now);
                if self.rng.percent(50) {
                    self.extenders[extender].begin_list(&self.api, now);
                } else {
                    self.extenders[extender].relist(Stream::Pods, &self.api, now);
                }
            }
        }
    }
}
