//! One kube-scheduler: its informers, its queue, and the binds that it has begun.

use crate::api::{Api, PodView};
use crate::election::Elector;
use crate::setting::{NODES_MAX, PODS_MAX};
use crate::stock::Key;

/// How long kube-scheduler's configuration of ours backs off.
const BACKOFF_MS: u64 = 1_000;

/// One kube-scheduler process, and the ones that were started in its place.
#[derive(Clone, Debug)]
pub struct Scheduler {
    /// Its extender.
    pub extender: usize,
    /// Processes before this one.
    pub life: usize,
    /// Its part in the election, where there is one.
    pub elector: Option<Elector>,
    /// Pods that name it: those whose number leaves this remainder; all where there is one name.
    share: Option<usize>,
    pod_cursor: usize,
    node_cursor: usize,
    queue: [Option<Queued>; PODS_MAX],
    /// Where it has seen pods bound.
    bound: [Option<(Key, usize)>; PODS_MAX],
    nodes: [bool; NODES_MAX],
}

/// A pod that it is to schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Which.
    pub key: Key,
    /// How it stands.
    pub state: State,
}

/// How a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// To be tried.
    Active,
    /// To be tried then.
    Backoff(u64),
    /// Until something changes that kube-scheduler watches.
    Unschedulable,
    /// On its way to that node.
    Assumed(usize),
}

// === impl Scheduler ===

impl Scheduler {
    /// A process that has seen nothing.
    #[must_use]
    pub fn new(extender: usize, share: Option<usize>, is_elected: bool) -> Self {
        Self {
            extender,
            life: 0,
            elector: is_elected.then(|| Elector::new(extender, 0)),
            share,
            pod_cursor: 0,
            node_cursor: 0,
            queue: [None; PODS_MAX],
            bound: [None; PODS_MAX],
            nodes: [false; NODES_MAX],
        }
    }

    /// It ended, and another process has listed everything.
    pub fn restart(&mut self, api: &Api) {
        let life = self.life + 1;
        *self = Self {
            life,
            elector: self.elector.map(|_| Elector::new(self.extender, life)),
            ..Self::new(self.extender, self.share, false)
        };
        self.pod_cursor = api.pod_log.len();
        self.node_cursor = api.node_log.len();
        for object in api.live() {
            self.see(&object.view());
        }
        for node in 0..NODES_MAX {
            self.nodes[node] = api.nodes[node].is_some();
        }
    }

    /// Whether it schedules.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.elector.is_none_or(|elector| elector.leads())
    }

    /// Its informers show one change of pods and one of nodes. Whether there was any.
    pub fn deliver(&mut self, api: &Api) -> bool {
        let pod = api.pod_log.get(self.pod_cursor);
        let node = api.node_log.get(self.node_cursor);
        if let Some(change) = pod {
            self.pod_cursor += 1;
            self.see(&change.value);
        }
        if let Some(change) = node {
            self.node_cursor += 1;
            let (node, view) = change.value;
            self.nodes[node] = view.is_some();
            self.wake();
        }
        pod.is_some() || node.is_some()
    }

    /// Pods that may be tried now.
    #[must_use]
    pub fn ready(&self, now_ms: u64) -> Vec<Key> {
        let is_ready = |queued: &&Queued| match queued.state {
            State::Active => true,
            State::Backoff(until_ms) => until_ms <= now_ms,
            State::Unschedulable | State::Assumed(_) => false,
        };
        self.queue
            .iter()
            .flatten()
            .filter(is_ready)
            .map(|queued| queued.key)
            .collect()
    }

    /// Pods on their way, and where to.
    #[must_use]
    pub fn assumed(&self) -> Vec<(Key, usize)> {
        let node = |queued: &Queued| match queued.state {
            State::Assumed(node) => Some((queued.key, node)),
            State::Active | State::Backoff(_) | State::Unschedulable => None,
        };
        self.queue.iter().flatten().filter_map(node).collect()
    }

    /// Nodes that pass the in-tree filters. `gpu_counts` where it counts GPUs itself.
    #[must_use]
    pub fn candidates(&self, key: Key, gpu_counts: Option<&[usize]>) -> Vec<usize> {
        let assumed = self.assumed();
        let placed = || self.bound.iter().flatten().chain(&assumed);
        let used = |node: usize| -> usize {
            placed()
                .filter(|(_, on)| *on == node)
                .map(|(key, _)| key.claim().gpu_count())
                .sum()
        };
        let fits = |node: &usize| {
            self.nodes[*node]
                && gpu_counts
                    .is_none_or(|counts| used(*node) + key.claim().gpu_count() <= counts[*node])
        };
        (0..NODES_MAX).filter(fits).collect()
    }

    /// What became of trying a pod.
    pub fn set(&mut self, key: Key, state: State) {
        let is_bound = self.bound[key.number].is_some_and(|(bound, _)| bound == key);
        if let Some(queued) = self.queue[key.number]
            .as_mut()
            .filter(|queued| queued.key == key)
            && !is_bound
        {
            queued.state = state;
        }
    }

    /// It was not bound, and is tried again a little later; so are those that its place would help.
    pub fn back_off(&mut self, key: Key, now_ms: u64) {
        self.set(key, State::Backoff(now_ms + BACKOFF_MS));
        self.wake();
    }

    /// Something changed that may help.
    pub fn wake(&mut self) {
        for queued in self.queue.iter_mut().flatten() {
            if queued.state == State::Unschedulable {
                queued.state = State::Active;
            }
        }
    }

    fn see(&mut self, view: &PodView) {
        match view {
            PodView::Gone(key) => {
                self.forget(*key);
                if self.bound[key.number].is_some_and(|(bound, _)| bound == *key) {
                    self.bound[key.number] = None;
                    self.wake();
                }
            }
            PodView::Is {
                key,
                record,
                node: Some(node),
                ..
            } => {
                self.forget(*key);
                self.bound[key.number] = (!record.is_finished).then_some((*key, *node));
                if record.is_finished {
                    self.wake();
                }
            }
            PodView::Is {
                key,
                record,
                is_terminating,
                ..
            } => {
                let is_mine = self.share.is_none_or(|share| key.number % 2 == share);
                let is_known = self.queue[key.number].is_some_and(|queued| queued.key == *key);
                if *is_terminating || record.is_finished {
                    self.forget(*key);
                } else if is_mine && !is_known {
                    self.queue[key.number] = Some(Queued {
                        key: *key,
                        state: State::Active,
                    });
                }
            }
        }
    }

    fn forget(&mut self, key: Key) {
        if self.queue[key.number].is_some_and(|queued| queued.key == key) {
            self.queue[key.number] = None;
        }
    }
}
