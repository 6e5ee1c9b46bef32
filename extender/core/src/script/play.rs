//! Plays a script, one statement at a time, on an index of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use berth_topology::lease;
use berth_topology::names;
use berth_topology::node::NodeTopology;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

use super::event::{Event, Given, NodeRow, Refusals};
use super::world::{self, NAMESPACE};
use super::{Command, Expected, Pods, Statement};
use crate::bind::{self, Prepared};
use crate::decide::{self, Ask, Preference};
use crate::explain::explain;
use crate::index::Index;
use crate::record::{Asked, Bound, Inputs, Reason, Records};
use crate::simulate::fresh;

/// A silent agent is refused after this.
const STALE_AFTER: Duration = Duration::from_secs(60);
/// Nodes and pods of one script.
const OBJECTS_MAX: usize = 10_000;

/// Finds a recorded machine by name, or says which there are.
pub type Machines<'a> = &'a dyn Fn(&str) -> Result<NodeTopology, String>;

/// Plays statements; what it knows is one cluster.
pub struct Player<'a> {
    machines: Machines<'a>,
    resource: String,
    index: Index,
    now: Instant,
    /// Renewals so far: each is a time of its own.
    second: i64,
    preference: Preference,
    nodes: BTreeMap<String, Machine>,
    /// Pods that exist, in the order in which they were made.
    pods: Vec<Entry>,
    made: usize,
    records: Records,
}

/// A node's agent.
struct Machine {
    recorded: NodeTopology,
    published: NodeTopology,
    is_silent: bool,
}

struct Entry {
    /// What it was called where several were made at once.
    family: String,
    pod: Pod,
    last: Last,
}

/// What a pod's last try came to.
#[derive(Clone, Debug)]
enum Last {
    Untried,
    Bound(Given),
    Refused(BTreeMap<String, Reason>),
}

/// A statement that cannot be played.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Error {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

// === impl Player ===

impl<'a> Player<'a> {
    /// An empty cluster. `now` is where its time begins; it goes on by itself.
    #[must_use]
    pub fn new(resource: &str, machines: Machines<'a>, now: Instant) -> Self {
        Self {
            machines,
            resource: resource.to_owned(),
            index: empty(resource, now),
            now,
            second: 0,
            preference: Preference::Pack,
            nodes: BTreeMap::new(),
            pods: Vec::new(),
            made: 0,
            records: Records::default(),
        }
    }

    /// Plays one statement and says what happened.
    ///
    /// # Errors
    /// When it names what is not there, or makes too much.
    pub fn play(&mut self, statement: &Statement) -> Result<Vec<Event>, Error> {
        let line = statement.line;
        self.command(&statement.command, line)
            .map_err(|what| Error { line, what })
    }

    fn command(&mut self, command: &Command, line: usize) -> Result<Vec<Event>, String> {
        match command {
            Command::Node {
                name,
                machine,
                count,
                policy,
            } => {
                let mut recorded = (self.machines)(machine)?;
                if let (Some(policy), Some(status)) = (policy, &mut recorded.status) {
                    status.kubelet.topology_manager_policy.clone_from(policy);
                }
                for name in names_of(name, *count) {
                    self.add_node(&name, &recorded)?;
                }
            }
            Command::Pod { name, asks, count } => {
                for one in names_of(name, *count) {
                    self.made += 1;
                    let pod = world::pending_pod(&one, self.made, asks, &self.resource);
                    self.add_pod(name, pod)?;
                }
            }
            Command::Resource(resource) => self.begin_with(resource)?,
            Command::Mig {
                node,
                gpus,
                profile,
                count,
            } => self.change(node, |status| {
                let part = |gpu: &u32| world::partition(status, *gpu, profile, *count);
                gpus.iter().try_for_each(part)
            })?,
            Command::Bind(pods) => return self.bind(pods, line),
            Command::Delete(pods) => self.delete(pods)?,
            Command::Other {
                name,
                node,
                gpu_count,
            } => self.add_other(name, node, *gpu_count)?,
            Command::Fail { node, gpus } => self.change(node, |status| {
                gpus.iter().try_for_each(|gpu| world::fail(status, *gpu))
            })?,
            Command::Degrade { node, a, b, lanes } => {
                self.change(node, |status| world::degrade(status, *a, *b, *lanes))?;
            }
            Command::Recover(node) => {
                let machine = self.machine(node)?;
                machine.published = machine.recorded.clone();
                let published = machine.published.clone();
                self.index.apply_topology(&published);
            }
            Command::Stale(node) => {
                self.machine(node)?.is_silent = true;
                self.now += STALE_AFTER + Duration::from_secs(1);
                self.renew();
            }
            Command::Fresh(node) => {
                self.machine(node)?.is_silent = false;
                self.renew();
            }
            Command::Prefer(preference) => self.preference = *preference,
            Command::Expect { pods, state } => return self.expect(pods, state, line),
            Command::Explain { pod, why_not } => return self.explain(pod, why_not.as_deref()),
            Command::Show => return Ok(vec![self.show()]),
        }
        Ok(Vec::new())
    }

    /// Another resource, as an extender of its own serves it.
    fn begin_with(&mut self, resource: &str) -> Result<(), String> {
        if !self.nodes.is_empty() || !self.pods.is_empty() {
            return Err("the resource is said before the first node and the first pod".to_owned());
        }
        resource.clone_into(&mut self.resource);
        self.index = empty(resource, self.now);
        Ok(())
    }

    fn add_node(&mut self, name: &str, recorded: &NodeTopology) -> Result<(), String> {
        if self.nodes.contains_key(name) {
            return Err(format!("there is a node {name} already"));
        }
        if self.nodes.len() >= OBJECTS_MAX {
            return Err(format!("a script has at most {OBJECTS_MAX} nodes"));
        }
        let recorded = fresh(recorded, name);
        self.index.apply_node(&world::ready_node(name));
        self.index.apply_topology(&recorded);
        self.nodes.insert(
            name.to_owned(),
            Machine {
                published: recorded.clone(),
                recorded,
                is_silent: false,
            },
        );
        self.renew();
        Ok(())
    }

    fn add_pod(&mut self, family: &str, pod: Pod) -> Result<(), String> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if self.pods.iter().any(|entry| entry.name() == name) {
            return Err(format!("there is a pod {name} already"));
        }
        if self.pods.len() >= OBJECTS_MAX {
            return Err(format!("a script has at most {OBJECTS_MAX} pods at once"));
        }
        self.index.apply_pod(&pod);
        self.pods.push(Entry {
            family: family.to_owned(),
            pod,
            last: Last::Untried,
        });
        Ok(())
    }

    /// A pod that another scheduler has bound.
    fn add_other(&mut self, name: &str, node: &str, gpu_count: usize) -> Result<(), String> {
        self.machine(node)?;
        self.made += 1;
        let asks = super::Asks {
            gpu_count,
            ..super::Asks::default()
        };
        let mut pod = world::pending_pod(name, self.made, &asks, &self.resource);
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        self.add_pod(name, pod)
    }

    fn machine(&mut self, name: &str) -> Result<&mut Machine, String> {
        let machine = self.nodes.get_mut(name);
        machine.ok_or_else(|| format!("there is no node {name}"))
    }

    fn change(
        &mut self,
        node: &str,
        change: impl FnOnce(&mut berth_topology::node::Status) -> Result<(), String>,
    ) -> Result<(), String> {
        let machine = self.machine(node)?;
        world::change(&mut machine.published, change)?;
        let published = machine.published.clone();
        self.index.apply_topology(&published);
        Ok(())
    }

    /// Every agent that is not silent renews its Lease.
    fn renew(&mut self) {
        self.second += 1;
        let second = Timestamp::from_second(self.second).unwrap_or_default();
        for (name, machine) in &self.nodes {
            if !machine.is_silent {
                let lease = lease::encode(name, None, MicroTime(second));
                self.index.apply_lease(&lease, self.now);
            }
        }
    }

    /// Positions of the pods that a command is about.
    fn positions(&self, pods: &Pods, is_of: impl Fn(&Entry) -> bool) -> Result<Vec<usize>, String> {
        let is_named = |entry: &Entry| match pods {
            Pods::All => is_of(entry),
            Pods::Named(name) => entry.name() == name || entry.family == *name,
        };
        let entries = self.pods.iter().enumerate();
        let found: Vec<usize> = entries
            .filter(|(_, entry)| is_named(entry))
            .map(|(position, _)| position)
            .collect();
        match pods {
            Pods::Named(name) if found.is_empty() => Err(format!("there is no pod {name}")),
            _ => Ok(found),
        }
    }

    fn delete(&mut self, pods: &Pods) -> Result<(), String> {
        for position in self.positions(pods, |_| true)?.into_iter().rev() {
            let entry = self.pods.remove(position);
            let uid = entry.pod.metadata.uid.unwrap_or_default();
            self.index.delete_pod(&uid);
        }
        Ok(())
    }

    fn bind(&mut self, pods: &Pods, line: usize) -> Result<Vec<Event>, String> {
        let positions = self.positions(pods, |entry| !entry.is_bound())?;
        let mut events = Vec::with_capacity(positions.len());
        for position in positions {
            if self.pods[position].is_bound() {
                return Err(format!("{} is bound already", self.pods[position].name()));
            }
            let last = self.schedule(position, line)?;
            self.pods[position].last = last;
            events.extend(self.pods[position].event());
        }
        Ok(events)
    }

    /// As kube-scheduler does it: filter, prioritize where more than one node is left, the highest
    /// score, of equals the first by name, bind.
    fn schedule(&mut self, position: usize, line: usize) -> Result<Last, String> {
        let pod = self.pods[position].pod.clone();
        let ask = Ask::of_pod(&pod, &self.resource);
        let snapshot = self.index.snapshot(self.now);
        let names: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
        let verdicts = decide::filter(&snapshot, &ask, &names);
        let (asked, at) = (Asked::of(&pod), format!("line {line}"));
        let inputs = Inputs::of(&snapshot, &ask, &verdicts.offered, self.preference);
        self.records.filtered(&asked, at.clone(), inputs, &verdicts);
        let fitting: Vec<_> = verdicts.feasible().map(|(one, _)| one).collect();
        let (node, score) = match fitting[..] {
            [] => return Ok(Last::Refused(reasons(&verdicts))),
            [only] => (only.name, None),
            _ => {
                let scores = decide::prioritize(&snapshot, &ask, &fitting, self.preference);
                let inputs = Inputs::of(&snapshot, &ask, &fitting, self.preference);
                self.records.scored(&asked, at.clone(), inputs, &scores);
                let mut best = (fitting[0].name, None);
                for (one, score) in scores {
                    if best.1.is_none_or(|most| score > most) {
                        best = (one.name, Some(score));
                    }
                }
                best
            }
        };
        let node = node.to_owned();
        self.commit(pod, &node, score, (position, at))
    }

    fn commit(
        &mut self,
        pod: Pod,
        node: &str,
        score: Option<u32>,
        (position, at): (usize, String),
    ) -> Result<Last, String> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let request = bind::Request {
            namespace: NAMESPACE.to_owned(),
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid).as_str().into(),
            node: node.to_owned(),
        };
        let seen = self.index.snapshot(self.now);
        let prepared = bind::prepare(&mut self.index, &request, None, self.now);
        let inputs = Inputs::of_bind(&seen, &request, &prepared);
        let annotation = match prepared.map_err(|error| error.to_string())? {
            Prepared::Post { annotation } => annotation,
            Prepared::Done => None,
        };
        let placed = bind::placed(&self.index, &request.uid);
        bind::settle(&mut self.index, &request.uid, &Ok(()), self.now);
        let told = Bound::of(&request, annotation.as_deref().map(str::to_owned), &Ok(()));
        let told = told.doubted(placed.and_then(|placed| placed.inexact));
        self.records.bound(&request, at, inputs, told);
        let mut bound = pod;
        bound.spec.get_or_insert_default().node_name = Some(node.to_owned());
        let assignment = annotation.as_deref().unwrap_or_default();
        let annotations = bound.metadata.annotations.get_or_insert_default();
        annotations.insert(names::ASSIGNMENT.to_owned(), assignment.to_owned());
        self.index.apply_pod(&bound);
        self.pods[position].pod = bound;
        Given::of(&request, score, assignment).map(Last::Bound)
    }

    fn expect(&self, pods: &Pods, state: &Expected, line: usize) -> Result<Vec<Event>, String> {
        let positions = self.positions(pods, |_| true)?;
        let wrong = positions.into_iter().filter_map(|position| {
            let entry = &self.pods[position];
            let sentence = entry.differs(state)?;
            Some(Event::Unexpected { line, sentence })
        });
        Ok(wrong.collect())
    }

    fn explain(&self, pod: &str, why_not: Option<&str>) -> Result<Vec<Event>, String> {
        let records = self.records.of_pod(NAMESPACE, pod);
        let explanation = explain(&records, &self.resource, why_not);
        let explanation = explanation.ok_or_else(|| format!("nobody has tried to bind {pod}"))?;
        Ok(vec![Event::Explained(Box::new(explanation))])
    }

    fn show(&mut self) -> Event {
        let snapshot = self.index.snapshot(self.now);
        let names = self.nodes.keys();
        let rows = names.filter_map(|name| NodeRow::of(&snapshot, name));
        Event::Nodes {
            nodes: rows.collect(),
        }
    }
}

/// An index that has listed everything, and found nothing.
fn empty(resource: &str, now: Instant) -> Index {
    let mut index = Index::new(resource, STALE_AFTER, now);
    index.reset_nodes(&[]);
    index.reset_topologies(&[]);
    index.reset_pods(Vec::new());
    index.reset_leases(&[], now);
    index
}

impl std::fmt::Debug for Player<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Player").finish_non_exhaustive()
    }
}

/// Nodes by reason.
fn reasons(verdicts: &decide::Verdicts<'_>) -> BTreeMap<String, Reason> {
    let refused = verdicts.refused();
    refused
        .map(|(one, no)| (one.name.to_owned(), Reason::of(no)))
        .collect()
}

fn names_of(name: &str, count: Option<usize>) -> Vec<String> {
    match count {
        None => vec![name.to_owned()],
        Some(count) => (0..count)
            .map(|number| format!("{name}-{number}"))
            .collect(),
    }
}

// === impl Entry ===

impl Entry {
    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn is_bound(&self) -> bool {
        let spec = self.pod.spec.as_ref();
        spec.is_some_and(|spec| spec.node_name.is_some())
    }

    fn event(&self) -> Option<Event> {
        match &self.last {
            Last::Untried => None,
            Last::Bound(given) => Some(Event::Bound(given.clone())),
            Last::Refused(by_node) => {
                let mut reasons: BTreeMap<String, Refusals> = BTreeMap::new();
                for (node, reason) in by_node {
                    let refusals = reasons.entry(reason.kind.clone()).or_default();
                    refusals.message.clone_from(&reason.message);
                    refusals.nodes.push(node.clone());
                }
                Some(Event::Refused {
                    pod: self.name().to_owned(),
                    reasons,
                })
            }
        }
    }

    /// What is true of the pod, where it is not what was expected.
    fn differs(&self, expected: &Expected) -> Option<String> {
        let name = self.name();
        match (expected, &self.last) {
            (Expected::Bound { node, gpus }, Last::Bound(given)) => {
                let is_node = node.as_ref().is_none_or(|node| *node == given.node);
                let is_set = gpus.as_ref().is_none_or(|gpus| *gpus == given.gpus);
                (!is_node || !is_set)
                    .then(|| format!("{name} is bound to {}, GPUs {:?}", given.node, given.gpus))
            }
            (Expected::Refused { kind, node }, Last::Refused(by_node)) => {
                let of_node = |one: &String| node.as_ref().is_none_or(|node| node == one);
                let mut asked = by_node.iter().filter(|(one, _)| of_node(one)).peekable();
                if asked.peek().is_none() {
                    return Some(format!("{name} was not refused there"));
                }
                let other = asked.find(|(_, reason)| reason.kind != *kind);
                other.map(|(node, reason)| format!("{name} was refused on {node}: {}", reason.kind))
            }
            (_, Last::Bound(given)) => Some(format!("{name} is bound to {}", given.node)),
            (_, Last::Refused(by_node)) => {
                let kinds: BTreeSet<&str> = by_node.values().map(|one| one.kind.as_str()).collect();
                Some(format!("{name} was refused: {kinds:?}"))
            }
            (_, Last::Untried) => Some(format!("nobody has tried to bind {name}")),
        }
    }
}
