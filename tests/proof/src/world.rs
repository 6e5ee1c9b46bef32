//! One world: everything that is there, what lies between its parts, and the time.

use std::sync::Arc;

use berth_extender_core::bind::Request;
use berth_extender_core::leader::Tenure;

use crate::api::{Api, No, NodeView};
use crate::extender::{Extender, instant, long_ago};
use crate::machine::Machine;
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::scheduler::Scheduler;
use crate::setting::{Control, PODS_MAX, Setting};
use crate::stock::Key;

mod confirm;
mod nodes;
mod programs;
mod scheduling;
mod terms;
mod time;

/// A watch that does not stall shows a change within this, in milliseconds.
pub const LAG_MAX_MS: u64 = 5_000;
/// The API server may commit a binding so long after its deadline.
pub const COMMIT_MAX_MS: u64 = 300;

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
    /// Binds that wait for a read of their pod.
    pub reads: Vec<Reading>,
    /// Nothing fails any more.
    pub is_well: bool,
    /// By pair: the API server does not answer its scheduler.
    pub is_cut: [bool; 2],
    last_renewal_ms: u64,
    last_read_ms: u64,
    last_election_ms: u64,
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

/// A bind that waits for a read of its pod.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The bind.
    pub asked: Asked,
    /// The extender process that it was asked of.
    pub life: usize,
    /// Its tenure when it was asked.
    pub tenure: Tenure,
    /// Since when.
    pub since_ms: u64,
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
    /// The extender process that sent it.
    life: usize,
    /// The extender process that waits for its answer; none once it has stopped waiting.
    waits: Option<usize>,
    request: Request,
    annotation: Option<Arc<str>>,
    sent_ms: u64,
    /// How long it may take.
    limit_ms: u64,
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
        let extender = |number| Extender::new(number, pairs > 1, sabotage, long_ago());
        let scheduler = |(number, share): (usize, &Option<usize>)| {
            Scheduler::new(number.min(pairs - 1), *share, pairs > 1)
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
            has_forgotten: pairs > 1,
            reads: Vec::new(),
            is_well: false,
            is_cut: [false; 2],
            last_renewal_ms: 1,
            last_read_ms: 1,
            last_election_ms: 1,
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
        for scheduler in 0..self.schedulers.len() {
            self.stand(scheduler);
        }
        for extender in &mut self.extenders {
            extender.begin_read(&self.api, instant(self.now_ms));
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
}
