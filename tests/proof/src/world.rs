//! One world: everything that is there, what lies between its parts, and the time.

use std::sync::Arc;

use berth_extender_core::bind::{Request, binding};

use crate::api::{Api, Mask, No, NodeView};
use crate::check;
use crate::extender::{Extender, Heard, Stream, instant};
use crate::machine::{Admission, Machine};
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::scheduler::{Scheduler, State};
use crate::setting::{Control, LIVES_MAX, PODS_MAX, Setting};
use crate::stock::{Key, node_name};

/// A live watch shows a change within this, in milliseconds.
pub const LAG_MAX_MS: u64 = 5_000;
/// The extender waits so long for a binding's answer.
const POST_TIMEOUT_MS: u64 = 3_000;
/// What the API server had begun by then is done by now, or never.
pub const POST_EFFECT_MAX_MS: u64 = 5_000;
/// An agent renews its Lease so often.
const RENEW_EVERY_MS: u64 = 10_000;

/// One world.
#[derive(Debug)]
pub struct World {
    /// What may go wrong.
    pub setting: Setting,
    /// What is.
    pub api: Api,
    /// By node.
    pub machines: Vec<Machine>,
    /// By number.
    pub extenders: Vec<Extender>,
    /// By number.
    pub schedulers: Vec<Scheduler>,
    /// Bindings that were sent.
    pub posts: Vec<Post>,
    /// Binds that a scheduler is about to ask for.
    pub asks: Vec<Asked>,
    /// Milliseconds since the world began.
    pub now_ms: u64,
    /// The dice.
    pub rng: Rng,
    /// How often each pod was created.
    pub lives: [usize; PODS_MAX],
    /// What broke a promise, at the first time.
    pub violation: Option<String>,
    /// What happened, where somebody wants to read it.
    pub log: Option<Vec<String>>,
    /// Pods that were refused may have been forgotten: a process was started anew.
    pub has_forgotten: bool,
    last_renewal_ms: u64,
    sabotage: Sabotage,
}

/// A bind that a scheduler asks its extender for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Who asks.
    pub by: Caller,
    /// Which pod.
    pub key: Key,
    /// Where.
    pub node: usize,
}

/// One scheduler process; none for a request that nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its number.
    pub number: usize,
    /// Its incarnation.
    pub life: usize,
}

/// A binding on its way.
#[derive(Debug)]
pub struct Post {
    asked: Asked,
    extender: usize,
    /// The extender process that waits for its answer; none once it has stopped waiting.
    waits: Option<usize>,
    request: Request,
    annotation: Option<Arc<str>>,
    sent_ms: u64,
    /// What the API server made of it.
    answer: Option<Result<(), No>>,
    /// It will never take effect.
    is_lost: bool,
}

// === impl World ===

impl World {
    /// The world of a seed, in which the programs have just been started.
    #[must_use]
    pub fn new(seed: u64, sabotage: Sabotage, is_logged: bool) -> Self {
        let mut rng = Rng::new(seed);
        let setting = Setting::draw(&mut rng);
        let machines = setting.gpu_counts.iter().enumerate();
        let machines = machines
            .map(|(node, gpu_count)| Machine::new(node, *gpu_count))
            .collect();
        let (pairs, shares) = match setting.control {
            Control::Single => (1, vec![None]),
            Control::TwoSchedulers => (1, vec![Some(0), Some(1)]),
            Control::TwoReplicas => (2, vec![None, None]),
        };
        let extender = |number| Extender::new(number, pairs > 1, sabotage);
        let scheduler = |(number, share): (usize, &Option<usize>)| {
            Scheduler::new(number.min(pairs - 1), *share)
        };
        let mut world = Self {
            api: Api {
                checks_uid: sabotage != Sabotage::UidIgnored,
                ..Api::default()
            },
            machines,
            extenders: (0..pairs).map(extender).collect(),
            schedulers: shares.iter().enumerate().map(scheduler).collect(),
            posts: Vec::new(),
            asks: Vec::new(),
            now_ms: 1,
            rng,
            lives: [0; PODS_MAX],
            violation: None,
            log: is_logged.then(Vec::new),
            has_forgotten: false,
            last_renewal_ms: 1,
            sabotage,
            setting,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        for node in 0..self.machines.len() {
            self.api.set_node(
                node,
                Some(NodeView {
                    is_ready: true,
                    pokes: 0,
                }),
                self.now_ms,
            );
            let object = self.machines[node].object(&self.machines[node].look());
            self.api.set_topology(node, Some(object), self.now_ms);
            self.api.renew(node, self.now_ms);
        }
        let first = self.setting.claims.len() / 2;
        for number in 0..first {
            self.create(number);
        }
        for extender in &mut self.extenders {
            for stream in extender.streams() {
                extender.relist(*stream, &self.api, instant(self.now_ms));
            }
        }
    }

    /// Notes what happens, where somebody reads it.
    pub fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>7} ms  {}", self.now_ms, what()));
        }
    }

    /// Notes the first promise that was broken.
    pub fn violate(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let what = what();
            self.say(|| format!("VIOLATION: {what}"));
            self.violation = Some(what);
        }
    }

    // === time ===

    /// Time passes. What has a deadline meets it, and a live watch lags no more than it may.
    pub fn pass(&mut self, time_ms: u64) {
        let end_ms = self.now_ms + time_ms;
        while self.now_ms < end_ms {
            self.now_ms = end_ms.min(self.now_ms + 1_000);
            self.settle_old_posts();
            if self.now_ms >= self.last_renewal_ms + RENEW_EVERY_MS {
                self.renew_leases();
            }
            self.deliver_old_changes();
        }
    }

    fn settle_old_posts(&mut self) {
        let mut position = 0;
        while let Some(post) = self.posts.get(position) {
            let age_ms = self.now_ms - post.sent_ms;
            if post.answer.is_none() && !post.is_lost && age_ms >= POST_EFFECT_MAX_MS {
                if self.rng.percent(50) {
                    self.land(position);
                } else {
                    self.posts[position].is_lost = true;
                }
            }
            if self.posts[position].waits.is_some() && age_ms >= POST_TIMEOUT_MS {
                self.hear(position, Heard::Nothing);
            }
            position += 1;
        }
        self.drop_ended_posts();
    }

    fn drop_ended_posts(&mut self) {
        self.posts
            .retain(|post| post.waits.is_some() || (post.answer.is_none() && !post.is_lost));
    }

    fn renew_leases(&mut self) {
        self.last_renewal_ms = self.now_ms;
        for node in 0..self.machines.len() {
            if self.machines[node].has_agent {
                self.api.renew(node, self.now_ms);
            }
        }
    }

    fn deliver_old_changes(&mut self) {
        let now = instant(self.now_ms);
        for extender in &mut self.extenders {
            for stream in extender.streams() {
                let is_due = |at_ms: u64| at_ms + LAG_MAX_MS <= self.now_ms;
                while extender
                    .oldest_unseen_ms(*stream, &self.api)
                    .is_some_and(is_due)
                {
                    extender.deliver(*stream, &self.api, now);
                }
            }
        }
    }

    // === pods ===

    /// A pod is created, if there is none of that number and lives are left.
    pub fn create(&mut self, number: usize) {
        let life = self.lives[number];
        if self.api.pods[number].is_some() || life >= LIVES_MAX {
            return;
        }
        self.lives[number] += 1;
        let key = Key {
            number,
            life,
            claim: self.setting.claims[number],
        };
        self.api.create(key, self.now_ms);
        self.say(|| format!("{key} is created, for {:?}", key.claim()));
    }

    /// Somebody deletes a pod.
    pub fn delete(&mut self, number: usize) {
        if let Some(pod) = &self.api.pods[number] {
            let key = pod.key;
            self.say(|| format!("{key} is deleted"));
            self.api.delete(number, self.now_ms);
        }
    }

    /// Somebody else binds a pod.
    pub fn bind_strangely(&mut self, number: usize, node: usize) {
        let is_pending = self.api.pods[number]
            .as_ref()
            .is_some_and(|pod| pod.is_pending());
        if is_pending && self.api.nodes[node].is_some() {
            self.say(|| format!("p{number} is bound to n{node} by a stranger"));
            self.api.bind_strangely(number, node, self.now_ms);
        }
    }

    // === kubelets and agents ===

    /// A node's kubelet starts one pod that was bound to it. Whether there was one.
    pub fn admit(&mut self, node: usize) -> bool {
        let waiting: Vec<usize> = (0..PODS_MAX)
            .filter(|number| {
                self.api.pods[*number].as_ref().is_some_and(|pod| {
                    pod.is_holding()
                        && pod.node == Some(node)
                        && !pod.is_terminating
                        && self.machines[node].held_by(pod.key).is_none()
                })
            })
            .collect();
        let Some(number) = self.rng.pick(&waiting).copied() else {
            return false;
        };
        let Some(pod) = self.api.pods[number].clone() else {
            return false;
        };
        let others: Vec<Mask> = waiting
            .iter()
            .filter(|other| **other != number)
            .filter_map(|other| self.api.pods[*other].as_ref().map(|pod| pod.intent))
            .collect();
        let kubelet = self.setting.kubelet;
        let admission = self.machines[node].admit(&pod, kubelet, &others, &mut self.rng);
        let key = pod.key;
        self.say(|| format!("n{node}'s kubelet takes {key}: {admission:?}"));
        if self.setting.is_exact() && admission != Admission::AsPromised {
            self.violate(|| {
                format!("{key} cannot have what it was promised on n{node}: {admission:?}")
            });
        }
        if admission == Admission::Rejected {
            self.api.finish(number, "Failed", self.now_ms);
        }
        true
    }

    /// A kubelet ends a pod that was deleted, and the object goes. Whether there was one.
    pub fn end_terminating(&mut self) -> bool {
        let ending: Vec<usize> = (0..PODS_MAX)
            .filter(|number| {
                self.api.pods[*number]
                    .as_ref()
                    .is_some_and(|pod| pod.is_terminating)
            })
            .collect();
        let Some(number) = self.rng.pick(&ending).copied() else {
            return false;
        };
        self.release(number);
        self.say(|| format!("p{number} has ended and is gone"));
        self.api.remove(number, self.now_ms);
        true
    }

    /// A running pod ends by itself.
    pub fn finish(&mut self, number: usize) {
        let runs = self.api.pods[number].as_ref().is_some_and(|pod| {
            pod.is_holding()
                && pod
                    .node
                    .is_some_and(|node| self.machines[node].held_by(pod.key).is_some())
        });
        if runs {
            self.release(number);
            self.say(|| format!("p{number} has succeeded"));
            self.api.finish(number, "Succeeded", self.now_ms);
        }
    }

    fn release(&mut self, number: usize) {
        if let Some(pod) = &self.api.pods[number]
            && let Some(node) = pod.node
        {
            self.machines[node].release(pod.key);
        }
    }

    /// An agent reads its machine.
    pub fn agent_reads(&mut self, node: usize) {
        if self.machines[node].has_agent {
            self.machines[node].read = Some(self.machines[node].look());
        }
    }

    /// An agent writes what it has read.
    pub fn agent_writes(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if machine.has_agent
            && self.api.nodes[node].is_some()
            && let Some(reading) = machine.read.take()
        {
            let object = machine.object(&reading);
            self.say(|| format!("n{node}'s agent publishes {:?}", reading));
            self.api.set_topology(node, Some(object), self.now_ms);
        }
    }

    // === scheduling ===

    /// A scheduler tries one pod: filter, prioritize, and it is on its way. Whether it tried one.
    pub fn schedule(&mut self, number: usize) -> bool {
        let scheduler = &self.schedulers[number];
        let ready = scheduler.ready(self.now_ms);
        let Some(key) = self.rng.pick(&ready).copied() else {
            return false;
        };
        let counts = self
            .setting
            .is_counted_in_tree
            .then_some(self.setting.gpu_counts.as_slice());
        let nodes = scheduler.candidates(key, counts);
        let state = if nodes.is_empty() {
            State::Unschedulable
        } else {
            let luck = self.rng.below(64);
            let extender = scheduler.extender;
            let now = instant(self.now_ms);
            match self.extenders[extender].filter(key, &nodes, luck, now) {
                Ok(crate::extender::Answer::On(node)) => State::Assumed(node),
                Ok(crate::extender::Answer::Nowhere) => State::Unschedulable,
                Ok(crate::extender::Answer::Unavailable) => State::Backoff(self.now_ms + 1_000),
                Err(what) => {
                    self.violate(|| what);
                    State::Unschedulable
                }
            }
        };
        self.say(|| format!("scheduler {number} tries {key} on {nodes:?}: {state:?}"));
        self.schedulers[number].set(key, state);
        if let State::Assumed(node) = state {
            let by = self.caller(number);
            self.asks.push(Asked { by, key, node });
        }
        true
    }

    /// The process that this scheduler is now.
    #[must_use]
    pub fn caller(&self, number: usize) -> Caller {
        Caller {
            number,
            life: self.schedulers[number].life,
        }
    }

    /// A scheduler asks its extender for a bind.
    pub fn ask(&mut self, asked: Asked) {
        let extender = self.schedulers[asked.by.number].extender;
        let now = instant(self.now_ms);
        if !self.extenders[extender].serves(now) {
            self.say(|| format!("bind {} to n{}: 503", asked.key, asked.node));
            return self.fail(asked);
        }
        let request = Request {
            namespace: "ns".to_owned(),
            name: format!("p{}", asked.key.number),
            uid: asked.key.uid(),
            node: node_name(asked.node),
        };
        match self.extenders[extender].begin_bind(&request, asked.key, &self.api, now) {
            Ok(Some(annotation)) => {
                self.say(|| format!("bind {} to n{}: sent {annotation:?}", asked.key, asked.node));
                self.posts.push(Post {
                    asked,
                    extender,
                    waits: Some(self.extenders[extender].life),
                    request,
                    annotation,
                    sent_ms: self.now_ms,
                    answer: None,
                    is_lost: false,
                });
            }
            Ok(None) => {
                self.say(|| format!("bind {} to n{}: done before", asked.key, asked.node));
                check::is_bound(self, asked);
            }
            Err(error) => {
                self.say(|| format!("bind {} to n{}: {error}", asked.key, asked.node));
                self.fail(asked);
            }
        }
    }

    /// The API server comes to a binding, and does it or not.
    pub fn land(&mut self, position: usize) {
        let Some(post) = self.posts.get(position) else {
            return;
        };
        if post.answer.is_some() || post.is_lost {
            return;
        }
        let asked = post.asked;
        let binding = binding(&post.request, post.annotation.as_deref());
        let before = self.api.pods[asked.key.number].as_ref().map(|pod| pod.key);
        let answer = self
            .api
            .bind(asked.key.number, asked.node, &binding, self.now_ms);
        self.posts[position].answer = Some(answer);
        self.say(|| {
            format!(
                "the API server binds {} to n{}: {answer:?}",
                asked.key, asked.node
            )
        });
        if answer.is_ok() {
            if before != Some(asked.key) {
                self.violate(|| format!("{before:?} was bound by a binding for {}", asked.key));
            }
            check::after_bind(self, asked.key.number);
        }
    }

    /// The extender hears what became of a binding, or that it will not hear it.
    pub fn hear(&mut self, position: usize, heard: Heard) {
        let Some(post) = self.posts.get_mut(position) else {
            return;
        };
        let asked = post.asked;
        let Some(life) = post.waits.take() else {
            return;
        };
        let extender = post.extender;
        let request = post.request.clone();
        if self.extenders[extender].life != life {
            return;
        }
        let reads = !self.rng.percent(5);
        let now = instant(self.now_ms);
        let outcome =
            self.extenders[extender].end_bind(&request, asked.key, heard, (&self.api, reads), now);
        self.say(|| {
            format!(
                "bind {} to n{}: {heard:?}, {outcome:?}",
                asked.key, asked.node
            )
        });
        match outcome {
            Ok(()) => check::is_bound(self, asked),
            Err(_) => self.fail(asked),
        }
    }

    /// As the API server answers, or nothing where `is_lost`.
    pub fn answer(&mut self, position: usize, is_lost: bool) {
        let Some(post) = self.posts.get(position) else {
            return;
        };
        let heard = match post.answer {
            _ if is_lost => Heard::Nothing,
            None if post.is_lost => Heard::Nothing,
            None => return,
            Some(Ok(())) => Heard::Created,
            Some(Err(No::NotFound)) => Heard::NotFound,
            Some(Err(No::Conflict)) => Heard::Conflict,
        };
        self.hear(position, heard);
        self.drop_ended_posts();
    }

    /// A binding never reaches the API server, or fails there.
    pub fn lose_post(&mut self, position: usize) {
        if let Some(post) = self.posts.get_mut(position) {
            post.is_lost |= post.answer.is_none();
        }
    }

    /// A bind that fails at its scheduler is tried again later.
    pub fn fail(&mut self, asked: Asked) {
        if self.schedulers[asked.by.number].life == asked.by.life {
            self.schedulers[asked.by.number].back_off(asked.key, self.now_ms);
        }
    }

    // === programs that die ===

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
        self.extenders[number].restart();
        if self.sabotage != Sabotage::StartsUnfenced {
            self.end_posts_of(number);
        }
        for asked in waiting {
            self.fail(asked);
        }
    }

    /// What an extender's former process had sent takes effect now, or never.
    fn end_posts_of(&mut self, number: usize) {
        for position in 0..self.posts.len() {
            if self.posts[position].extender == number {
                if self.rng.percent(50) {
                    self.land(position);
                }
                self.lose_post(position);
            }
        }
        self.drop_ended_posts();
    }

    /// A scheduler is killed and started again; its extender finishes what it was asked.
    pub fn restart_scheduler(&mut self, number: usize) {
        self.say(|| format!("scheduler {number} is killed and starts again"));
        let caller = self.caller(number);
        self.asks.retain(|asked| asked.by != caller);
        self.schedulers[number].restart(&self.api);
    }

    // === watches ===

    /// A watch of an extender shows its next change.
    pub fn deliver(&mut self, extender: usize, stream: Stream) -> bool {
        self.extenders[extender].deliver(stream, &self.api, instant(self.now_ms))
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
        } else {
            self.extenders[extender].relist(stream, &self.api, now);
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
