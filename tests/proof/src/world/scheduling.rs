//! From a pod that waits to a binding that took effect, and to who hears of it.

use berth_extender_core::bind::{Request, binding};
use berth_extender_core::leader::Tenure;

use crate::api::No;
use crate::check;
use crate::extender::{Answer, Heard, Send, instant};
use crate::scheduler::State;
use crate::stock::node_name;
use crate::world::{Asked, COMMIT_MAX_MS, Caller, Post, Reading, World};

impl World {
    /// A scheduler tries one pod: filter, prioritize, and it is on its way. Whether it tried one.
    pub fn schedule(&mut self, number: usize) -> bool {
        let scheduler = &self.schedulers[number];
        if !scheduler.leads() {
            return false;
        }
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
                Ok(Answer::On(node)) => State::Assumed(node),
                Ok(Answer::Nowhere) => State::Unschedulable,
                Ok(Answer::Unavailable) => State::Backoff(self.now_ms + 1_000),
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
        let tenure = self.extenders[extender].leader.tenure();
        if self.rng.percent(10) {
            return self.reads.push(Reading {
                asked,
                life: self.extenders[extender].life,
                tenure,
                since_ms: self.now_ms,
            });
        }
        self.bind(asked, tenure);
    }

    /// A read before a bind ends, and the bind goes on.
    pub fn end_read(&mut self, position: usize) {
        if position >= self.reads.len() {
            return;
        }
        let one = self.reads.swap_remove(position);
        let extender = self.schedulers[one.asked.by.number].extender;
        if self.extenders[extender].life == one.life {
            self.bind(one.asked, one.tenure);
        }
    }

    /// An extender binds, as far as its POST.
    pub(super) fn bind(&mut self, asked: Asked, tenure: Tenure) {
        let extender = self.schedulers[asked.by.number].extender;
        let now = instant(self.now_ms);
        let request = Request {
            namespace: "ns".to_owned(),
            name: format!("p{}", asked.key.number),
            uid: asked.key.uid(),
            node: node_name(asked.node),
        };
        match self.extenders[extender].begin_bind((&request, asked.key), tenure, &self.api, now) {
            Ok(Some(Send { annotation, limit })) => {
                self.say(|| format!("bind {} to n{}: sent {annotation:?}", asked.key, asked.node));
                self.extenders[extender].sent.begin();
                self.posts.push(Post {
                    asked,
                    extender,
                    life: self.extenders[extender].life,
                    waits: Some(self.extenders[extender].life),
                    request,
                    annotation,
                    sent_ms: self.now_ms,
                    limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
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
        let (extender, life) = (post.extender, post.life);
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
            check::nobody_else_serves(self, extender, life);
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
        let over_ms = post.sent_ms + post.limit_ms + COMMIT_MAX_MS;
        if self.extenders[extender].life != life {
            return;
        }
        let is_unsure = heard == Heard::Nothing;
        let unsure_until = is_unsure.then(|| instant(over_ms));
        self.extenders[extender].sent.end(unsure_until);
        let reads = !self.rng.percent(5);
        let now = instant(self.now_ms);
        let api = reads.then_some(&self.api);
        let outcome = self.extenders[extender].end_bind((&request, asked.key), heard, api, now);
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

    /// The API server cannot be reached: the binding was never sent.
    pub fn refuse_post(&mut self, position: usize) {
        let is_open = self
            .posts
            .get(position)
            .is_some_and(|post| post.answer.is_none() && !post.is_lost);
        if is_open {
            self.posts[position].is_lost = true;
            self.hear(position, Heard::NoConnection);
            self.drop_ended_posts();
        }
    }

    /// A bind that fails at its scheduler is tried again later.
    pub fn fail(&mut self, asked: Asked) {
        if self.schedulers[asked.by.number].life == asked.by.life {
            self.schedulers[asked.by.number].back_off(asked.key, self.now_ms);
        }
    }
}
