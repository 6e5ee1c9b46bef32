//! What time does by itself: deadlines are met, watches catch up, leases are renewed.

use crate::extender::{Heard, instant};
use crate::world::{COMMIT_MAX_MS, LAG_MAX_MS, World};

/// A read of a pod, or of the schedulers' Lease, ends within this.
const READ_MAX_MS: u64 = 700;
/// An agent renews its Lease so often.
const RENEW_EVERY_MS: u64 = 10_000;

impl World {
    /// Time passes. What has a deadline meets it, and a watch lags no more than it may.
    pub fn pass(&mut self, time_ms: u64) {
        let end_ms = self.now_ms + time_ms;
        while self.now_ms < end_ms {
            self.now_ms = end_ms.min(self.now_ms + 500);
            self.end_old_reads();
            self.settle_old_posts();
            self.elect();
            if self.now_ms >= self.last_renewal_ms + RENEW_EVERY_MS {
                self.renew_leases();
            }
            self.deliver_old_changes();
            self.say_ended();
            self.list_again();
            self.confirm();
        }
    }

    pub(super) fn settle_old_posts(&mut self) {
        let mut position = 0;
        while let Some(post) = self.posts.get(position) {
            let age_ms = self.now_ms - post.sent_ms;
            if post.answer.is_none() && !post.is_lost && age_ms >= post.limit_ms + COMMIT_MAX_MS {
                if self.rng.percent(50) {
                    self.land(position);
                } else {
                    self.posts[position].is_lost = true;
                }
            }
            if self.posts[position].waits.is_some() && age_ms >= self.posts[position].limit_ms {
                self.hear(position, Heard::Nothing);
            }
            position += 1;
        }
        self.drop_ended_posts();
    }

    /// Reads of pods that have taken as long as they may.
    pub(super) fn end_old_reads(&mut self) {
        while let Some(position) = self
            .reads
            .iter()
            .position(|one| self.now_ms >= one.since_ms + READ_MAX_MS)
        {
            self.end_read(position);
        }
    }

    pub(super) fn drop_ended_posts(&mut self) {
        self.posts
            .retain(|post| post.waits.is_some() || (post.answer.is_none() && !post.is_lost));
    }

    pub(super) fn renew_leases(&mut self) {
        self.last_renewal_ms = self.now_ms;
        for node in 0..self.machines.len() {
            if self.machines[node].has_agent {
                self.api.renew(node, self.now_ms);
            }
        }
    }

    pub(super) fn deliver_old_changes(&mut self) {
        let now = instant(self.now_ms);
        for extender in &mut self.extenders {
            for stream in extender.streams() {
                let is_stalled = extender.is_stalled(*stream, self.now_ms);
                let is_due = |at_ms: u64| !is_stalled && at_ms + LAG_MAX_MS <= self.now_ms;
                while extender
                    .oldest_unseen_ms(*stream, &self.api)
                    .is_some_and(is_due)
                {
                    extender.deliver(*stream, &self.api, now);
                }
            }
        }
    }
}
