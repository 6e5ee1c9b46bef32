//! The poke: kube-scheduler tries a refused pod again only when an object that it watches changes.
//!
//! Where our own snapshot shows that a pod which we refused would now fit, one annotation on one node
//! is that change. Only the leader pokes, and a node at most once a second. A poked pod is forgotten:
//! if it is refused again, filter remembers it anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_topology::ids::PodUid;
use berth_topology::names;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use tokio::time::timeout;

use crate::decide::{self, Ask};
use crate::index::Index;
use crate::lock;
use crate::snapshot::Snapshot;

/// Pods remembered; a few hundred bytes each.
const WAITING_MAX: usize = 4_096;
/// A node is not poked more often.
const NODE_INTERVAL: Duration = Duration::from_secs(1);
/// A refused pod that the watch has not shown for so long does not exist.
const UNSEEN_MAX: Duration = Duration::from_secs(30);
/// How often changes are looked for: a refused pod waits so long on top of kube-scheduler's backoff.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// One patch.
const PATCH_TIMEOUT: Duration = Duration::from_secs(2);

/// Pods that filter found no node for.
#[derive(Debug, Default)]
pub struct Waiting {
    pods: HashMap<PodUid, Refused>,
    poked: HashMap<Arc<str>, Instant>,
}

#[derive(Debug)]
struct Refused {
    ask: Ask,
    /// The index's generation at which it fitted nowhere.
    generation: u64,
    since: Instant,
}

/// One node to annotate, for one pod's sake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Poke {
    pub node: Arc<str>,
    pub uid: PodUid,
}

// === impl Waiting ===

impl Waiting {
    /// Filter found no node for the pod on that snapshot.
    pub(crate) fn refused(&mut self, ask: &Ask, snapshot: &Snapshot, now: Instant) {
        if self.pods.len() >= WAITING_MAX && !self.pods.contains_key(&ask.uid) {
            self.drop_oldest();
        }
        let refused = Refused {
            ask: ask.clone(),
            generation: snapshot.generation,
            since: now,
        };
        self.pods.insert(ask.uid.clone(), refused);
    }

    /// Filter found nodes for the pod.
    pub(crate) fn accepted(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
    }

    /// The next node to poke. Nodes that have not changed since the refusal are not looked at.
    pub(crate) fn due(&mut self, snapshot: &Snapshot, now: Instant) -> Option<Poke> {
        self.poked
            .retain(|_, at| now.saturating_duration_since(*at) < NODE_INTERVAL);
        let mut due = None;
        for (uid, refused) in &mut self.pods {
            let changed = snapshot
                .nodes()
                .filter(|node| node.version > refused.generation);
            let fitting: Vec<_> = changed
                .filter(|node| decide::judge(snapshot, &refused.ask, &node.name).is_ok())
                .collect();
            if fitting.is_empty() {
                refused.generation = snapshot.generation;
                continue;
            }
            let free = fitting
                .iter()
                .find(|node| !self.poked.contains_key(&node.name));
            due = due.or_else(|| {
                free.map(|node| Poke {
                    node: node.name.clone(),
                    uid: uid.clone(),
                })
            });
        }
        if let Some(poke) = &due {
            self.poked.insert(poke.node.clone(), now);
        }
        due
    }

    /// The node was annotated.
    pub(crate) fn done(&mut self, poke: &Poke) {
        self.pods.remove(&poke.uid);
    }

    /// Forgets pods that are bound or gone.
    pub(crate) fn prune(&mut self, index: &Index, now: Instant) {
        self.pods.retain(|uid, refused| match index.pod(uid) {
            Some(record) => record.node.is_none() && !record.is_finished,
            None => {
                !index.is_gone(uid) && now.saturating_duration_since(refused.since) < UNSEEN_MAX
            }
        });
    }

    pub(crate) fn clear(&mut self) {
        self.pods.clear();
    }

    fn drop_oldest(&mut self) {
        let oldest = self
            .pods
            .iter()
            .min_by_key(|(_, refused)| refused.since)
            .map(|(uid, _)| uid.clone());
        if let Some(uid) = oldest {
            self.pods.remove(&uid);
        }
    }
}

/// Looks for the next poke, and makes it. `leads` is asked first: a replica that does not lead has
/// refused nobody.
///
/// # Errors
/// When the node could not be annotated; the pod stays remembered.
pub(crate) async fn look(
    client: &kube::Client,
    index: &Mutex<Index>,
    waiting: &Mutex<Waiting>,
    leads: bool,
) -> Result<bool, kube::Error> {
    let Some(poke) = next(index, waiting, leads) else {
        return Ok(false);
    };
    annotate(client, &poke).await?;
    tracing::info!(node = %poke.node, pod = %poke.uid, "a refused pod would fit now; poked the scheduler");
    lock(waiting).done(&poke);
    Ok(true)
}

fn next(index: &Mutex<Index>, waiting: &Mutex<Waiting>, leads: bool) -> Option<Poke> {
    let now = Instant::now();
    let mut waiting = lock(waiting);
    if !leads {
        waiting.clear();
    }
    if waiting.pods.is_empty() {
        return None;
    }
    let snapshot = {
        let mut index = lock(index);
        waiting.prune(&index, now);
        index.snapshot(now)
    };
    waiting.due(&snapshot, now)
}

async fn annotate(client: &kube::Client, poke: &Poke) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let at = jiff::Timestamp::now().to_string();
    let patch = Patch::Merge(serde_json::json!({"metadata": {"annotations": {names::FREED: at}}}));
    let parameters = PatchParams::default();
    let patched = nodes.patch_metadata(&poke.node, &parameters, &patch);
    match timeout(PATCH_TIMEOUT, patched).await {
        Ok(answer) => answer.map(|_| ()),
        Err(elapsed) => Err(kube::Error::Service(Box::new(elapsed))),
    }
}

#[cfg(test)]
mod tests;
