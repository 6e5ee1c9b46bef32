//! Pods that only the wiring keeps out, and whom to evict for one of them.
//!
//! kube-scheduler 1.37 asks for victims only where its own filters refuse a node. A pod that fits every
//! node by count, but none by wiring, waits for ever, however high its priority. Here such pods are
//! remembered from what filter answered, and after a while in which nothing else has helped, victims are
//! chosen by the same function that answers preempt, on the nodes that filter refused.
//!
//! A set may be kept for a pod by a process that was killed before all of its victims were evicted. Who
//! leads next finds that the pod will not fit there though everybody leaves who is leaving, and chooses
//! again, on that node only.
//!
//! ```text
//! refused ─ 5 s ─► due ─ Plan ─► evicted ─► kept until bound ─┬─► (gone)
//!    ▲                  │ ▲                                   └─ too late ─► refused
//!    │                  │ └─ kept, by a process that is no more, and not all evicted
//!    └─ back off ◄──────┴── a budget, or the API server, says no
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_topology::ids::PodUid;

use crate::decide::{self, Ask, No, Verdicts};
use crate::held::Note;
use crate::index::Index;
use crate::pod::Holder;
use crate::preempt;
use crate::preempt::search::Cost;
use crate::record::Inputs;
use crate::snapshot::Snapshot;

/// How long a pod is refused before anybody is evicted for it. kube-scheduler tries again after 1 and 2
/// seconds: within this its own preemption, or pods that were leaving anyway, have had their chance twice.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two plans, over the whole cluster: what is wrong shows before it has cost much.
const PLAN_INTERVAL: Duration = Duration::from_secs(1);
/// How long a node is left alone for a pod after an eviction was refused. Budgets change when pods become
/// ready, which takes them longer.
const BACK_OFF: Duration = Duration::from_secs(30);
/// What a set is kept for beyond its victims' grace: the kubelet reports the end of containers, and
/// kube-scheduler's longest back-off (2 s here, 10 s by default) passes a few times.
const HOLD_MARGIN: Duration = Duration::from_secs(60);
/// A victim that may take longer to end does not keep a set idle any longer for it.
const HOLD_GRACE_SECONDS_MAX: u32 = 600;
/// Pods remembered, and nodes of each; a cluster with more has other troubles first.
const PODS_MAX: usize = 256;
/// Nodes that are looked at for one pod: each costs microseconds on machines of a known shape.
const NODES_MAX: usize = 128;
/// Pods that are looked at in one go.
const LOOKS_MAX: usize = 8;

/// Pods that filter found no node for, though kube-scheduler did.
#[derive(Debug, Default)]
pub struct Stranded {
    pods: HashMap<PodUid, Refused>,
    /// Not before then: a pod's node where an eviction was refused.
    backed_off: HashMap<(PodUid, Arc<str>), Instant>,
    planned: Option<Instant>,
    /// Pods for which all were evicted that had to be.
    served: HashSet<PodUid>,
}

#[derive(Debug)]
struct Refused {
    ask: Ask,
    /// The pod, unless it waits for victims that were all evicted.
    pod: Option<Arc<Holder>>,
    /// Where a set is kept for it already.
    kept_on: Option<Arc<str>>,
    /// Since when it was refused by every answer.
    since: Instant,
    /// Nodes that would do for kube-scheduler, and could do for us.
    nodes: Vec<Arc<str>>,
}

/// Whom to evict, from where, for whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The pod that waits.
    pub pod: Arc<Holder>,
    /// The node where it will fit.
    pub node: Arc<str>,
    /// The victims, the most important first.
    pub victims: Vec<Arc<Holder>>,
    /// How long its set is to be kept.
    pub hold_for: Duration,
    /// What it was chosen from.
    pub inputs: Inputs,
}

// === impl Stranded ===

impl Stranded {
    /// Filter has answered for a pod.
    pub fn filtered(&mut self, ask: &Ask, verdicts: &Verdicts<'_>, now: Instant) {
        if verdicts.is_nowhere() && !verdicts.is_complete() {
            return;
        }
        let nodes = refused_by_wiring(verdicts);
        if !verdicts.is_nowhere() || nodes.is_empty() || ask.terms.never_preempts {
            self.pods.remove(&ask.uid);
            return;
        }
        if self.pods.len() >= PODS_MAX && !self.pods.contains_key(&ask.uid) {
            return;
        }
        let since = self.pods.get(&ask.uid).map_or(now, |known| known.since);
        let refused = Refused {
            ask: ask.clone(),
            pod: None,
            kept_on: None,
            since,
            nodes,
        };
        self.pods.insert(ask.uid.clone(), refused);
    }

    /// Forgets pods that are bound or gone, and notes which wait for victims already.
    pub fn prune(&mut self, index: &Index, now: Instant) {
        self.pods.retain(|uid, refused| {
            let record = index.pod(uid);
            let pending = record.filter(|pod| {
                pod.node.is_none() && !pod.is_finished && !pod.holder.terms.is_terminating
            });
            let kept = index.hold_of(uid);
            let is_helped = kept.is_some() && self.served.contains(uid);
            let idle = pending.filter(|pod| pod.nominated.is_none() && !is_helped);
            refused.pod = idle.map(|pod| pod.holder.clone());
            refused.kept_on = kept.map(|hold| hold.node.clone());
            pending.is_some()
        });
        self.served.retain(|uid| index.hold_of(uid).is_some());
        self.backed_off.retain(|_, until| *until > now);
    }

    /// The next pod for which somebody should leave. The highest priority comes first, then who has
    /// waited longest.
    pub fn due(&mut self, snapshot: &Snapshot, now: Instant) -> Option<Plan> {
        let is_early = |at: Instant| now.saturating_duration_since(at) < PLAN_INTERVAL;
        if self.planned.is_some_and(is_early) || !snapshot.budgets.is_synced() {
            return None;
        }
        let is_ripe = |refused: &&Refused| now.saturating_duration_since(refused.since) >= PATIENCE;
        let mut ripe: Vec<&Refused> = self.pods.values().filter(is_ripe).collect();
        ripe.sort_by_key(|refused| {
            let priority = std::cmp::Reverse(refused.ask.terms.priority);
            (priority, refused.since, refused.ask.uid.clone())
        });
        let looked = ripe.into_iter().take(LOOKS_MAX);
        let plan = looked
            .filter_map(|refused| self.plan(refused, snapshot))
            .next()?;
        self.planned = Some(now);
        Some(plan)
    }

    /// All of the plan are evicted. They leave when their time is over; nobody is to follow them.
    pub fn served(&mut self, plan: &Plan) {
        self.served.insert(plan.pod.uid.clone());
    }

    /// An eviction of the plan was refused.
    pub fn back_off(&mut self, plan: &Plan, now: Instant) {
        let key = (plan.pod.uid.clone(), plan.node.clone());
        self.backed_off.insert(key, now + BACK_OFF);
    }

    /// Forgets everybody: a replica that does not lead has refused nobody.
    pub fn clear(&mut self) {
        self.pods.clear();
        self.backed_off.clear();
        self.served.clear();
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    fn plan(&self, refused: &Refused, snapshot: &Snapshot) -> Option<Plan> {
        let (ask, pod) = (&refused.ask, refused.pod.as_ref()?);
        let nodes: Vec<&str> = refused.nodes.iter().map(|name| &**name).collect();
        let is_open = |name: &&Arc<str>| {
            let key = (ask.uid.clone(), (*name).clone());
            let is_kept_elsewhere = refused.kept_on.as_ref().is_some_and(|kept| kept != *name);
            !is_kept_elsewhere && !self.backed_off.contains_key(&key)
        };
        let open = refused.nodes.iter().filter(is_open);
        let open: Vec<&str> = open.map(|name| &**name).collect();
        let (node, victims) = choose(snapshot, ask, &nodes, &open)?;
        let inputs = Inputs::of_eviction(snapshot, ask, &nodes, &open);
        Some(Plan::new(pod.clone(), node.into(), victims, inputs))
    }
}

/// The node of `open` where it costs least to make room for the pod, and who has to leave it, the most
/// important first. Nobody has to while the pod fits one of `nodes`, or will when those are gone that are
/// leaving.
#[must_use]
pub fn choose<'a>(
    snapshot: &Snapshot,
    ask: &Ask,
    nodes: &[&str],
    open: &[&'a str],
) -> Option<(&'a str, Vec<Arc<Holder>>)> {
    let will_fit =
        |name: &&str| decide::judge_without(snapshot, ask, name, &leaving(snapshot, name)).is_ok();
    if nodes.iter().any(will_fit) {
        return None;
    }
    let free = open.iter().filter(|name| !is_held(snapshot, ask, name));
    let best = free.filter_map(|name| {
        let (cost, victims) = preempt::propose(snapshot, ask, name)?;
        (cost.violation_count == 0).then_some((cost, *name, victims))
    });
    let (_, node, victims) = best.min_by_key(|(cost, name, _): &(Cost, &str, _)| (*cost, *name))?;
    let staying = victims
        .into_iter()
        .filter(|victim| !victim.terms.is_terminating);
    Some((node, staying.cloned().collect()))
}

/// Nodes where pods that leave would change the answer. kube-scheduler's own filters have passed them.
fn refused_by_wiring(verdicts: &Verdicts<'_>) -> Vec<Arc<str>> {
    let resolvable = verdicts.refused().filter(|(_, no)| match no {
        No::Refused(refusal) => refusal.is_resolvable(),
        No::Promised => true,
        No::Unconfirmed | No::OutOfTime => false,
    });
    let known = resolvable.filter_map(|(one, _)| one.node);
    known
        .map(|node| node.name.clone())
        .take(NODES_MAX)
        .collect()
}

/// Whether pods are being evicted from that node for another already.
fn is_held(snapshot: &Snapshot, ask: &Ask, name: &str) -> bool {
    let promises = snapshot
        .node(name)
        .into_iter()
        .flat_map(|node| &node.promises);
    let mut nominees = promises.map(|promise| &promise.nominee);
    nominees.any(|nominee| nominee.uid != ask.uid && !nominee.victims.is_empty())
}

/// Pods of a node that are leaving anyway.
fn leaving(snapshot: &Snapshot, name: &str) -> HashSet<PodUid> {
    let holders = snapshot
        .node(name)
        .into_iter()
        .flat_map(|node| &node.holders);
    let leaving = holders.filter(|holder| holder.terms.is_terminating);
    leaving.map(|holder| holder.uid.clone()).collect()
}

// === impl Plan ===

impl Plan {
    fn new(pod: Arc<Holder>, node: Arc<str>, victims: Vec<Arc<Holder>>, inputs: Inputs) -> Self {
        let graces = victims.iter().map(|victim| victim.terms.grace_seconds);
        let grace_seconds = graces.max().unwrap_or(0).min(HOLD_GRACE_SECONDS_MAX);
        Self {
            pod,
            node,
            victims,
            hold_for: Duration::from_secs(u64::from(grace_seconds)) + HOLD_MARGIN,
            inputs,
        }
    }

    /// What the pod is to say of it.
    #[must_use]
    pub fn note(&self) -> Note {
        let victims = self.victims.iter().map(|victim| victim.uid.clone());
        Note {
            node: self.node.to_string(),
            victims: victims.collect(),
            seconds: self.hold_for.as_secs(),
        }
    }
}

#[cfg(test)]
mod tests;
