//! Programs that die, watches that break, and pokes.

use crate::api::NodeView;
use crate::extender::{Stream, instant};
use crate::stock::node_name;
use crate::world::{Asked, Reading, World};

impl World {
    /// An extender is killed and started again; what it had sent may still take effect.
    pub fn restart_extender(&mut self, number: usize) {
        self.say(|| format!("extender {number} is killed and starts again"));
        self.has_forgotten = true;
        let life = self.extenders[number].life;
        let waiting: Vec<Asked> = self
            .posts
            .iter_mut()
            .filter(|post| post.extender == number && post.waits == Some(life))
            .map(|post| {
                post.waits = None;
                post.asked
            })
            .collect();
        let (ended, others) = std::mem::take(&mut self.reads)
            .into_iter()
            .partition(|one| self.schedulers[one.asked.by.number].extender == number);
        self.reads = others;
        let ended: Vec<Reading> = ended;
        self.extenders[number].restart(instant(self.now_ms));
        let reading = ended.into_iter().map(|one| one.asked);
        for asked in waiting.into_iter().chain(reading) {
            self.fail(asked);
        }
    }

    /// Every watch of an extender that is not up starts with a list.
    pub fn list_everything(&mut self, number: usize) {
        let now = instant(self.now_ms);
        self.say(|| format!("extender {number} lists everything"));
        for stream in self.extenders[number].streams() {
            if !self.extenders[number].is_live(*stream) {
                self.extenders[number].relist(*stream, &self.api, now);
            }
        }
    }

    /// A scheduler is killed and started again; its extender finishes what it was asked.
    pub fn restart_scheduler(&mut self, number: usize) {
        self.say(|| format!("scheduler {number} is killed and starts again"));
        let caller = self.caller(number);
        self.asks.retain(|asked| asked.by != caller);
        self.schedulers[number].restart(&self.api);
    }

    /// A watch of an extender shows its next change.
    pub fn deliver(&mut self, extender: usize, stream: Stream) -> bool {
        let now = instant(self.now_ms);
        let extender = &mut self.extenders[extender];
        !extender.is_stalled(stream, self.now_ms) && extender.deliver(stream, &self.api, now)
    }

    /// A watch shows nothing for so long, and nobody notices.
    pub fn stall(&mut self, extender: usize, stream: Stream, time_ms: u64) {
        if self.extenders[extender].is_live(stream) {
            self.say(|| format!("extender {extender}: {stream:?} stalls for {time_ms} ms"));
            self.extenders[extender].stall(stream, self.now_ms + time_ms);
        }
    }

    /// A watch breaks, or one that is broken lists again.
    pub fn toggle(&mut self, extender: usize, stream: Stream) {
        let now = instant(self.now_ms);
        let is_live = self.extenders[extender].is_live(stream);
        self.say(|| {
            format!(
                "extender {extender}: {stream:?} {}",
                if is_live { "breaks" } else { "lists" }
            )
        });
        if is_live {
            self.extenders[extender].lose(stream, now);
        } else if stream == Stream::Pods && self.rng.percent(40) {
            self.extenders[extender].begin_list(&self.api, now);
        } else {
            self.extenders[extender].relist(stream, &self.api, now);
        }
    }

    /// A list of pods that is under way ends, well or not.
    pub fn end_list(&mut self, extender: usize, is_well: bool) {
        if self.extenders[extender].end_list(is_well) {
            self.say(|| format!("extender {extender} has listed its pods: {is_well}"));
        }
    }

    /// An extender looks for somebody to poke; the write may fail.
    pub fn look(&mut self, extender: usize, succeeds: bool) {
        let Some(poke) = self.extenders[extender].look(instant(self.now_ms)) else {
            return;
        };
        let node = (0..self.machines.len()).find(|node| *node_name(*node) == *poke.node);
        let Some(node) = node else { return };
        let Some(view) = self.api.nodes[node].filter(|_| succeeds) else {
            return;
        };
        self.say(|| format!("extender {extender} pokes n{node} for {}", poke.uid));
        let view = NodeView {
            pokes: view.pokes + 1,
            ..view
        };
        self.api.set_node(node, Some(view), self.now_ms);
        self.extenders[extender].waiting.done(&poke);
    }
}
