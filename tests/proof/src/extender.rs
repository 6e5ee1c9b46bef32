//! One extender: the real decisions behind a model of its watches and of its client.
//!
//! Mirrors what `extender/src/{watch,bind,answer,poke}.rs` do around the decisions, with everything
//! that those wait for made an event of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_extender_core::bind::{self, Error, Prepared, Request};
use berth_extender_core::decide::{self, Preference};
use berth_extender_core::fence::Fence;
use berth_extender_core::index::{Index, Kind};
use berth_extender_core::leader::{HANDOVER, Leader, POST_MAX, Standing, Tenure, Term};
use berth_extender_core::pod::PodRecord;
use berth_extender_core::sent::Sent;
use berth_extender_core::waiting::{Poke, Waiting};
use berth_topology::names;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

use crate::api::{Api, LeaderView, PodView};
use crate::confirm::Question;
use crate::sabotage::Sabotage;
use crate::setting::NODES_MAX;
use crate::stock::{Key, Stock, node_name};
use berth_extender_core::snapshot::Named;

/// What is watched; the last is the schedulers' Lease.
pub const STREAMS: [Stream; 5] = [
    Stream::Nodes,
    Stream::Topologies,
    Stream::Pods,
    Stream::Leases,
    Stream::Leader,
];

/// One watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Nodes.
    Nodes,
    /// NodeTopologies.
    Topologies,
    /// Pods.
    Pods,
    /// The agents' Leases.
    Leases,
    /// The schedulers' Lease.
    Leader,
}

/// One extender process, and the ones that were started in its place.
#[derive(Debug)]
pub struct Extender {
    /// What it believes.
    pub index: Index,
    /// Pods that it refused everywhere.
    pub waiting: Waiting,
    /// Who leads, as it sees it.
    pub leader: Leader,
    /// Whether it has seen what others did.
    pub fence: Fence,
    /// The bindings that it sent.
    pub sent: Sent,
    /// A list of pods under way: what it will show.
    listing: Option<(Vec<PodRecord>, usize)>,
    /// When it last looked at the schedulers' Lease, and what a read under way will show.
    read: Option<(Instant, Option<LeaderView>)>,
    /// Processes before this one.
    pub life: usize,
    /// Its leader's view is of this pair.
    number: usize,
    is_paired: bool,
    /// By stream: changes seen, or none while the watch is down.
    cursors: [Option<usize>; 5],
    /// By stream: until then a watch shows nothing although it is up.
    stalled_until_ms: [u64; 5],
    /// Reads of pods whose binds are unconfirmed.
    pub(crate) confirming: Vec<Question>,
    pub(crate) sabotage: Sabotage,
}

/// What filter answers.
#[derive(Debug)]
pub enum Answer {
    /// 503.
    Unavailable,
    /// It fits none of them.
    Nowhere,
    /// One of the best.
    On(usize),
}

/// A binding that is to be sent.
#[derive(Clone, Debug)]
pub struct Send {
    /// The assignment.
    pub annotation: Option<Arc<str>>,
    /// How long it may take.
    pub limit: Duration,
}

/// What became of a POST, as the client hears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// 201.
    Created,
    /// 404.
    NotFound,
    /// 409.
    Conflict,
    /// 500, a timeout, or a connection that broke.
    Nothing,
    /// Nobody listens.
    NoConnection,
}

// === impl Extender ===

impl Extender {
    /// A process that was started then, and has seen nothing.
    #[must_use]
    pub fn new(number: usize, is_paired: bool, sabotage: Sabotage, started: Instant) -> Self {
        Self {
            index: Stock::get().index.clone(),
            waiting: Waiting::default(),
            leader: Leader::new(is_paired.then(|| host(number)), started),
            fence: Fence::default(),
            sent: Sent::default(),
            listing: None,
            read: None,
            life: 0,
            number,
            is_paired,
            cursors: [None; 5],
            stalled_until_ms: [0; 5],
            confirming: Vec::new(),
            sabotage,
        }
    }

    /// It was killed, and another process is started in its place.
    pub fn restart(&mut self, now: Instant) {
        let life = self.life + 1;
        let started = match self.sabotage {
            Sabotage::ForgetsFormer => long_ago(),
            _ => now,
        };
        *self = Self {
            life,
            ..Self::new(self.number, self.is_paired, self.sabotage, started)
        };
    }

    /// A watch shows nothing until then, and nobody notices.
    pub fn stall(&mut self, stream: Stream, until_ms: u64) {
        self.stalled_until_ms[stream as usize] = until_ms;
    }

    /// Whether a watch shows nothing although it is up.
    #[must_use]
    pub fn is_stalled(&self, stream: Stream, now_ms: u64) -> bool {
        now_ms < self.stalled_until_ms[stream as usize]
    }

    /// The streams that it watches.
    #[must_use]
    pub fn streams(&self) -> &'static [Stream] {
        &STREAMS[..if self.is_paired { 5 } else { 4 }]
    }

    /// Whether a watch is up.
    #[must_use]
    pub fn is_live(&self, stream: Stream) -> bool {
        self.cursors[stream as usize].is_some()
    }

    /// Whether it answers kube-scheduler now.
    #[must_use]
    pub fn serves(&self, now: Instant) -> bool {
        self.index.is_synced() && self.leads(now)
    }

    fn leads(&self, now: Instant) -> bool {
        match self.sabotage {
            Sabotage::EverybodyLeads => true,
            Sabotage::ServesUnfenced => self.leader.leads(now),
            _ => self.leader.standing(&self.fence, now) == Standing::Serves,
        }
    }

    /// How long a binding that is sent now may take; none: it must not be sent.
    fn may_take(&self, tenure: Tenure, now: Instant) -> Option<Duration> {
        if self.sabotage == Sabotage::EverybodyLeads {
            return Some(POST_MAX);
        }
        self.leader.bind_within(tenure, now)
    }

    /// A read of the schedulers' Lease begins; it will show what is now.
    pub fn begin_read(&mut self, api: &Api, now: Instant) {
        self.read = Some((now, api.leader));
    }

    /// The read under way ends; `shows` is what is now, where it shows that.
    pub fn end_read(&mut self, shows: Option<&Api>, now: Instant) {
        if let Some((began, then)) = self.read.take() {
            let found = shows.map_or(then, |api| api.leader);
            let lease = found.map(leader_lease);
            self.leader.read(lease.as_ref(), began, now);
        }
    }

    /// The term of which it may say now that every binding is over.
    #[must_use]
    pub fn ended_term(&self, now: Instant) -> Option<Term> {
        let is_over = self.sent.is_over(now) || self.sabotage == Sabotage::SaysEndedEarly;
        self.leader.ended_term(now).filter(|_| is_over).cloned()
    }

    /// Whether it wants to list its pods again, because others may have bound some.
    #[must_use]
    pub fn wants_list(&self, now: Instant) -> bool {
        self.leader.wants_list(&self.fence, now)
    }

    /// A list of pods begins; it will show what is now.
    pub fn begin_list(&mut self, api: &Api, now: Instant) {
        self.fence.begin(now);
        self.listing = Some((self.listed(api), api.pod_log.len()));
    }

    /// The list under way ends, well or not. Whether there was one.
    pub fn end_list(&mut self, is_well: bool) -> bool {
        let Some((records, cursor)) = self.listing.take() else {
            return false;
        };
        if is_well {
            self.index.reset_pods(records);
            self.fence.end();
            self.cursors[Stream::Pods as usize] = Some(cursor);
        } else {
            self.fence.fail();
        }
        true
    }

    fn listed(&self, api: &Api) -> Vec<PodRecord> {
        let terminates = self.sabotage == Sabotage::TerminatingIsGone;
        let kept = api.live().filter(|pod| !(terminates && pod.is_terminating));
        kept.map(|pod| pod.record.clone()).collect()
    }

    /// A watch breaks.
    pub fn lose(&mut self, stream: Stream, now: Instant) {
        self.cursors[stream as usize] = None;
        self.stalled_until_ms[stream as usize] = 0;
        match stream {
            Stream::Nodes => self.index.lost(Kind::Nodes, now),
            Stream::Topologies => self.index.lost(Kind::Topologies, now),
            Stream::Pods => {
                self.fence.fail();
                self.listing = None;
                self.index.lost(Kind::Pods, now);
            }
            Stream::Leases => self.index.lost(Kind::Leases, now),
            Stream::Leader => {}
        }
    }

    /// A watch starts with a list of what is.
    pub fn relist(&mut self, stream: Stream, api: &Api, now: Instant) {
        let stock = Stock::get();
        self.cursors[stream as usize] = Some(log_len(api, stream));
        match stream {
            Stream::Nodes => {
                let there = (0..NODES_MAX).filter_map(|node| Some((node, api.nodes[node]?)));
                let nodes: Vec<_> = there
                    .map(|(node, view)| stock.node(node, view.is_ready).clone())
                    .collect();
                self.index.reset_nodes(&nodes);
            }
            Stream::Topologies => {
                let there = api.topologies.iter().flatten();
                self.index.reset_topologies(
                    &there
                        .map(|object| object.as_ref().clone())
                        .collect::<Vec<_>>(),
                );
            }
            Stream::Pods => {
                self.begin_list(api, now);
                self.end_list(true);
            }
            Stream::Leases => {
                let there = (0..NODES_MAX).filter_map(|node| Some((node, api.leases[node]?)));
                let leases: Vec<_> = there
                    .map(|(node, renewal)| stock.lease(node, renewal).clone())
                    .collect();
                self.index.reset_leases(&leases, now);
            }
            Stream::Leader => {
                let lease = api.leader.map(leader_lease);
                self.leader.read(lease.as_ref(), now, now);
            }
        }
    }

    /// When the next change that a watch has not shown yet was made.
    #[must_use]
    pub fn oldest_unseen_ms(&self, stream: Stream, api: &Api) -> Option<u64> {
        let cursor = self.cursors[stream as usize]?;
        match stream {
            Stream::Nodes => api.node_log.get(cursor).map(|change| change.at_ms),
            Stream::Topologies => api.topology_log.get(cursor).map(|change| change.at_ms),
            Stream::Pods => api.pod_log.get(cursor).map(|change| change.at_ms),
            Stream::Leases => api.lease_log.get(cursor).map(|change| change.at_ms),
            Stream::Leader => api.leader_log.get(cursor).map(|change| change.at_ms),
        }
    }

    /// A watch shows its next change. Whether there was one.
    pub fn deliver(&mut self, stream: Stream, api: &Api, now: Instant) -> bool {
        let Some(cursor) = self.cursors[stream as usize] else {
            return false;
        };
        if cursor >= log_len(api, stream) {
            return false;
        }
        self.cursors[stream as usize] = Some(cursor + 1);
        let stock = Stock::get();
        match stream {
            Stream::Nodes => match api.node_log[cursor].value {
                (node, Some(view)) => self.index.apply_node(stock.node(node, view.is_ready)),
                (node, None) => self.index.delete_node(&node_name(node)),
            },
            Stream::Topologies => match &api.topology_log[cursor].value {
                (_, Some(object)) => self.index.apply_topology(object),
                (node, None) => self.index.delete_topology(&node_name(*node)),
            },
            Stream::Pods => self.see_pod(&api.pod_log[cursor].value),
            Stream::Leases => match api.lease_log[cursor].value {
                (node, Some(renewal)) => self.index.apply_lease(stock.lease(node, renewal), now),
                (node, None) => self.index.delete_lease(&node_name(node)),
            },
            Stream::Leader => {
                self.leader
                    .apply(&leader_lease(api.leader_log[cursor].value), now);
            }
        }
        true
    }

    fn see_pod(&mut self, view: &PodView) {
        match view {
            PodView::Is {
                key,
                is_terminating: true,
                ..
            } if self.sabotage == Sabotage::TerminatingIsGone => {
                self.index.delete_pod(key.uid().as_str());
            }
            PodView::Is { record, .. } => self.index.apply_record(record.clone()),
            PodView::Gone(key) => self.index.delete_pod(key.uid().as_str()),
        }
    }

    /// Filter, and prioritize where more than one node is left. `luck` decides among equals.
    ///
    /// # Errors
    /// When an answer breaks the protocol.
    pub fn filter(
        &mut self,
        key: Key,
        nodes: &[usize],
        luck: usize,
        now: Instant,
    ) -> Result<Answer, String> {
        if !self.serves(now) {
            return Ok(Answer::Unavailable);
        }
        let ask = Stock::get().ask(key);
        let names: Vec<String> = nodes.iter().map(|node| node_name(*node)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let snapshot = self.index.snapshot(now);
        let verdicts = decide::filter(&snapshot, ask, &names);
        if verdicts.outcomes.len() != names.len() {
            return Err(format!(
                "filter answers for other nodes than {names:?}: {verdicts:?}"
            ));
        }
        let scored: Vec<_> = verdicts.feasible().collect();
        let feasible: Vec<_> = scored.iter().map(|(one, _)| *one).collect();
        if let Some(strange) = feasible.iter().find(|one| !names.contains(&one.name)) {
            return Err(format!(
                "filter answers {}, which was not asked",
                strange.name
            ));
        }
        if feasible.is_empty() {
            self.index.hint(&ask.uid, None, now);
            self.waiting.refused(ask, &snapshot, now);
            return Ok(Answer::Nowhere);
        }
        self.waiting.accepted(&ask.uid);
        let hint = (scored.len() == 1)
            .then(|| decide::hint(&snapshot, ask, &scored))
            .flatten();
        self.index.hint(&ask.uid, hint, now);
        // One node that fits is taken without prioritize.
        let best = match feasible.as_slice() {
            [only] => only.name,
            several => {
                // Prioritize is a request of its own, and sees what filter has hinted at.
                let snapshot = self.index.snapshot(now);
                let scores = decide::prioritize(&snapshot, ask, several, Preference::Pack);
                let hint = decide::hint(&snapshot, ask, &scores);
                self.index.hint(&ask.uid, hint, now);
                pick_best(&scores, several, luck)?
            }
        };
        let position = names.iter().position(|name| *name == best).unwrap_or(0);
        Ok(Answer::On(nodes[position]))
    }

    /// Bind as it was begun in `tenure`, until there is something to be written, and for how long.
    /// `Ok(None)`: it has come true.
    ///
    /// # Errors
    /// When it is not bound.
    pub fn begin_bind(
        &mut self,
        (request, key): (&Request, Key),
        tenure: Tenure,
        api: &Api,
        now: Instant,
    ) -> Result<Option<Send>, Error> {
        let record = match self.index.pod(&request.uid).cloned() {
            Some(record) => Some(record),
            None if self.index.is_gone(&request.uid) => return Err(Error::Gone),
            None => Some(read(api, key)?),
        };
        let prepared = bind::prepare(&mut self.index, request, record.as_ref(), now)?;
        match prepared {
            Prepared::Done => Ok(None),
            Prepared::Post { annotation } => {
                if self.sabotage == Sabotage::NothingHeld {
                    let refused = Err(Error::Rejected(String::new()));
                    bind::settle(&mut self.index, &request.uid, &refused, now);
                }
                let Some(limit) = self.may_take(tenure, now) else {
                    let refused = Err(Error::NotLeading);
                    bind::settle(&mut self.index, &request.uid, &refused, now);
                    return Err(Error::NotLeading);
                };
                Ok(Some(Send { annotation, limit }))
            }
        }
    }

    /// What a POST's answer means. After a conflict the pod is read; `api` is none where that fails.
    ///
    /// # Errors
    /// When it is not bound, or not known to be.
    pub fn end_bind(
        &mut self,
        (request, key): (&Request, Key),
        heard: Heard,
        api: Option<&Api>,
        now: Instant,
    ) -> Result<(), Error> {
        let outcome = match heard {
            Heard::Created => Ok(()),
            Heard::NotFound => Err(Error::Gone),
            Heard::NoConnection => Err(Error::Rejected(String::new())),
            Heard::Conflict => after_conflict(request, key, api),
            Heard::Nothing if self.sabotage == Sabotage::LostIsRefused => {
                Err(Error::Rejected(String::new()))
            }
            Heard::Nothing => Err(Error::Unsure(String::new())),
        };
        bind::settle(&mut self.index, &request.uid, &outcome, now);
        outcome
    }

    /// Whom to poke now.
    pub fn look(&mut self, now: Instant) -> Option<Poke> {
        if !self.leads(now) {
            self.waiting.clear();
        }
        if self.waiting.is_empty() || self.sabotage == Sabotage::NobodyPokes {
            return None;
        }
        self.waiting.prune(&self.index, now);
        let snapshot = self.index.snapshot(now);
        self.waiting.due(&snapshot, now)
    }
}

/// The node that prioritize likes best; among equals luck decides.
fn pick_best<'a>(
    scores: &[(Named<'a>, u32)],
    asked: &[Named<'a>],
    luck: usize,
) -> Result<&'a str, String> {
    let names = scores.iter().map(|(one, _)| one.name);
    let is_as_asked = names.eq(asked.iter().map(|one| one.name));
    if !is_as_asked || scores.iter().any(|(_, score)| *score > 10) {
        return Err(format!("prioritize answers {scores:?} for {asked:?}"));
    }
    let most = scores.iter().map(|(_, score)| *score).max().unwrap_or(0);
    let best = scores.iter().filter(|(_, score)| *score == most);
    let best: Vec<&str> = best.map(|(one, _)| one.name).collect();
    let position = luck % best.len().max(1);
    best.get(position)
        .copied()
        .ok_or_else(|| "prioritize answers nothing".to_owned())
}

/// A conflict may be our own earlier binding, whose answer was lost.
fn after_conflict(request: &Request, key: Key, api: Option<&Api>) -> Result<(), Error> {
    let Some(api) = api else {
        return Err(Error::Read(String::new()));
    };
    match read(api, key)? {
        record if record.node.is_some() => bind::already_bound(&record, &request.node),
        _ => Err(Error::Rejected(String::new())),
    }
}

/// Reads the pod, as before a bind of one that the index does not know.
fn read(api: &Api, key: Key) -> Result<PodRecord, Error> {
    let object = api.pods[key.number].as_ref().ok_or(Error::Gone)?;
    if object.key.life == key.life {
        Ok(object.record.clone())
    } else {
        Err(Error::Recreated)
    }
}

fn log_len(api: &Api, stream: Stream) -> usize {
    match stream {
        Stream::Nodes => api.node_log.len(),
        Stream::Topologies => api.topology_log.len(),
        Stream::Pods => api.pod_log.len(),
        Stream::Leases => api.lease_log.len(),
        Stream::Leader => api.leader_log.len(),
    }
}

/// The host name of a pair.
fn host(pair: usize) -> String {
    format!("host-{pair}")
}

fn leader_lease(view: LeaderView) -> Lease {
    let time = |time_ms: u64| {
        let time_ms = i64::try_from(time_ms).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(time_ms).ok().map(MicroTime)
    };
    let identity = |(pair, life): (usize, usize)| format!("{}_{life}", host(pair));
    let spec = LeaseSpec {
        holder_identity: Some(view.holder.map_or_else(String::new, identity)),
        acquire_time: time(view.acquired_ms),
        renew_time: time(view.renewed_ms),
        lease_duration_seconds: Some(if view.holder.is_some() { 15 } else { 1 }),
        lease_transitions: Some(view.transitions),
        ..LeaseSpec::default()
    };
    let mut lease = Lease {
        spec: Some(spec),
        ..Lease::default()
    };
    lease.metadata.resource_version = Some(view.version.to_string());
    lease.metadata.uid = Some("schedulers".to_owned());
    let ended = view.ended.map(|term| term.to_string());
    lease.metadata.annotations = ended.map(|term| [(names::ENDED_TERM.to_owned(), term)].into());
    lease
}

/// When processes were started that were there before the world: nothing that was sent before them
/// is still on its way.
#[must_use]
pub fn long_ago() -> Instant {
    instant(0) - HANDOVER
}

/// The world's time as the decisions take it.
#[must_use]
pub fn instant(now_ms: u64) -> Instant {
    Stock::get().epoch + Duration::from_millis(now_ms)
}
