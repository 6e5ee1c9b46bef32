//! The device plugin: the GPUs that were promised are the GPUs that a container gets.
//!
//! Off unless asked for (`--device-plugin`), and instead of NVIDIA's. Without it, and with
//! `--pod-resources-socket`, the agent only reads what the kubelet gave.
//!
//! ```text
//!   kubelet ── ListAndWatch ───────────► devices   (pure)  UUIDs, health, NUMA nodes
//!           ── GetPreferredAllocation ─► prefer    (pure)  who asks, and what was it promised?
//!           ── Allocate ───────────────► answer    (pure)  environment, ranks in ring order
//!                                         ▲ promises (pure) ◄── bound: pods of this node, watched
//!                                         ▲ ledger   (pure) ◄── books: checkpoint, PodResources
//! ```
//!
//! `session` keeps a resource registered, `service` speaks gRPC, `desk` answers. What a pod
//! gets was decided by the extender when it bound the pod; where the kubelet asks for one that nobody
//! promised anything, [`berth_placement`] chooses.

pub mod answer;
pub mod api;
mod books;
pub mod bound;
pub mod channel;
pub mod checkpoint;
#[cfg(test)]
mod churn;
mod desk;
pub mod devices;
#[cfg(test)]
mod fixtures;
mod gate;
pub mod ledger;
mod observe;
pub mod pod_resources;
pub mod pods;
pub mod prefer;
pub mod promises;
pub mod rivals;
mod service;
pub mod session;
mod streams;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_topology::ids::NodeName;
use berth_topology::node::Status;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::history::SharedHistory;
use crate::publish::{Given, Observation};
use crate::tally::Tally;
use answer::Wording;
use books::Books;
use bound::BoundPods;
use desk::Desk;
use devices::View;
use gate::Gate;
use pod_resources::PodResourcesSocket;
use session::{Session, Standing};

/// What the command line says of it, and who counts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether devices are served; else what others serve is only read.
    pub serves: bool,
    /// The resource of whole GPUs.
    pub resource: String,
    /// Whether the kubelet is told NUMA nodes.
    pub numa_hints: bool,
    /// Folder of the kubelet's device plugin sockets and its checkpoint.
    pub folder: PathBuf,
    /// The kubelet's PodResources socket.
    pub pod_resources: Option<PodResourcesSocket>,
    /// How a container is told its devices.
    pub wording: Wording,
    /// Where it is counted what was given.
    pub tally: Arc<Tally>,
    /// How long the first list waits for what an earlier run knew of the GPUs, which the API server has.
    pub recall_wait_max: Duration,
}

/// How each resource stands.
pub(crate) type Standings = BTreeMap<String, watch::Receiver<Standing>>;

/// Everything that the tasks share.
#[derive(Debug)]
pub(crate) struct Plugin {
    settings: Settings,
    node: NodeName,
    pods: Arc<BoundPods>,
    books: Arc<Books>,
    gate: Arc<Gate>,
    /// Each resource's devices.
    views: BTreeMap<String, watch::Sender<View>>,
    standings: watch::Sender<Standings>,
    sessions: JoinSet<()>,
}

/// Serves, and tells what was given, until the observations end.
pub async fn run(
    settings: Settings,
    client: kube::Client,
    node: NodeName,
    mut observations: watch::Receiver<Option<Observation>>,
    (given, history): (watch::Sender<Option<Given>>, SharedHistory),
) {
    let pods = BoundPods::new(client, node.clone());
    let books = Books::new(settings.folder.clone(), pods.clone());
    let gate = Arc::new(Gate::new(gate::QUIET));
    let standings = watch::Sender::new(Standings::new());
    let observer = observe::Observer {
        settings: settings.clone(),
        pods: pods.clone(),
        books: books.clone(),
        gate: gate.clone(),
        standings: standings.subscribe(),
        resources: watch::Sender::default(),
    };
    let resources = observer.resources.clone();
    let mut tasks = JoinSet::new();
    let following = pods.clone();
    tasks.spawn(async move { following.follow().await });
    tasks.spawn(observer.run(given));
    let mut plugin = Plugin {
        settings,
        node,
        pods,
        books,
        gate,
        views: BTreeMap::new(),
        standings,
        sessions: JoinSet::new(),
    };
    let mut recalled = history.recalled();
    // else a GPU that an XID failed would be healthy again with each start of the agent, for a poll
    let wait_max = plugin.settings.recall_wait_max;
    let _ = timeout(wait_max, recalled.wait_for(|is_recalled| *is_recalled)).await;
    loop {
        tokio::select! {
            changed = observations.changed() => if changed.is_err() { return },
            // the API server answered late: the same observation says more
            _ = recalled.changed() => {}
        }
        let observation = observations.borrow_and_update().clone();
        if let Some(observation) = observation {
            let status = Arc::new(history.complete(observation.status));
            let names = devices::resources(&status, &plugin.settings.resource);
            resources.send_if_modified(|known| {
                let is_new = *known != names;
                known.clone_from(&names);
                is_new
            });
            if plugin.settings.serves {
                plugin.observe(&status, names);
            }
        }
    }
}

// === impl Plugin ===

impl Plugin {
    /// Lists what has changed. A resource that has no devices any more stays, with none.
    fn observe(&mut self, status: &Arc<Status>, names: impl IntoIterator<Item = String>) {
        let known: Vec<String> = self.views.keys().cloned().collect();
        for resource in names {
            if !self.views.contains_key(&resource) {
                self.start(resource, status);
            }
        }
        for resource in known {
            let view = View::of(status, &resource, self.settings.numa_hints);
            if let Some(sender) = self.views.get(&resource) {
                sender.send_if_modified(|now| {
                    let has_changed = now.devices != view.devices || now.status.hash != status.hash;
                    if has_changed {
                        *now = view;
                    }
                    has_changed
                });
            }
        }
    }

    fn start(&mut self, resource: String, status: &Arc<Status>) {
        let view = View::of(status, &resource, self.settings.numa_hints);
        let view = watch::Sender::new(view);
        let standing = watch::Sender::new(Standing::Away);
        self.standings.send_modify(|standings| {
            standings.insert(resource.clone(), standing.subscribe());
        });
        let desk = Arc::new(Desk {
            node: self.node.clone(),
            resource: resource.clone(),
            wording: self.settings.wording.clone(),
            view: view.subscribe(),
            pods: self.pods.clone(),
            books: self.books.clone(),
            gate: self.gate.clone(),
            told: Mutex::default(),
            tally: self.settings.tally.clone(),
        });
        let session = Session {
            desk,
            folder: self.settings.folder.clone(),
            pod_resources: self.settings.pod_resources.clone(),
            standing,
        };
        self.views.insert(resource, view);
        self.sessions.spawn(session.run());
    }
}
