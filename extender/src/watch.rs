//! Feeds the index from the API server: lists, watches, and starts again when a watch breaks.
//!
//! A watch that broke is always followed by a fresh list, never resumed: what was missed is then
//! known to be nothing, and freshness counts from there. Between the two the index stays as it was.
//! Pods are also listed anew when leadership has changed (`leadership`).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_topology::names;
use berth_topology::node::NodeTopology;
use futures::{Stream, TryStreamExt, pin_mut};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use tokio::task::JoinSet;

use crate::leadership::Leadership;
use crate::lock;
use crate::metrics::Metrics;
use berth_extender_core::index::{Index, Kind};
use berth_extender_core::node::Topology;
use berth_extender_core::pod::PodRecord;

/// First pause after a broken watch.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause: an API server that comes back is found within it.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Objects of one page of a list. Each page is in memory several times over before its first object is
/// kept, and four kinds are listed at once.
const PAGE_OBJECTS: u32 = 250;

/// Who listens to one kind of object.
pub(crate) trait Listener {
    /// The object.
    type Object;
    /// What is kept of one until its list is complete.
    type Kept;

    fn name(&self) -> &'static str;
    /// A list is about to be asked for.
    fn begin(&self) {}
    fn keep(&self, object: Self::Object) -> Option<Self::Kept>;
    fn reset(&self, kept: Vec<Self::Kept>);
    fn apply(&self, object: &Self::Object);
    fn delete(&self, object: &Self::Object);
    /// The watch broke.
    fn lost(&self);
    /// Resolves when everything is to be listed again.
    fn again(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

struct Nodes(Arc<Mutex<Index>>);
struct Topologies(Arc<Mutex<Index>>);
struct Pods(Arc<Mutex<Index>>, String, Arc<Leadership>);
struct Leases(Arc<Mutex<Index>>);
struct Budgets(Arc<Mutex<Index>>);

/// Starts every watch. They end when the set is dropped.
pub fn spawn(
    client: &kube::Client,
    index: &Arc<Mutex<Index>>,
    leadership: &Arc<Leadership>,
    metrics: &Arc<Metrics>,
) -> JoinSet<()> {
    let config = || watcher::Config::default().page_size(PAGE_OBJECTS);
    let mut tasks = JoinSet::new();
    let nodes: Api<Node> = Api::all(client.clone());
    tasks.spawn(follow(
        move || watcher::watcher(nodes.clone(), config()),
        Nodes(index.clone()),
        metrics.clone(),
    ));
    let topologies: Api<NodeTopology> = Api::all(client.clone());
    let listener = Topologies(index.clone());
    tasks.spawn(follow(
        move || watcher::watcher(topologies.clone(), config()),
        listener,
        metrics.clone(),
    ));
    let pods: Api<Pod> = Api::all(client.clone());
    let resource = lock(index).resource.clone();
    let listener = Pods(index.clone(), resource, leadership.clone());
    tasks.spawn(follow(
        move || watcher::watcher(pods.clone(), config()),
        listener,
        metrics.clone(),
    ));
    let leases: Api<Lease> = Api::namespaced(client.clone(), names::NAMESPACE);
    let listener = Leases(index.clone());
    tasks.spawn(follow(
        move || watcher::watcher(leases.clone(), config()),
        listener,
        metrics.clone(),
    ));
    let budgets: Api<PodDisruptionBudget> = Api::all(client.clone());
    let listener = Budgets(index.clone());
    tasks.spawn(follow(
        move || watcher::watcher(budgets.clone(), config()),
        listener,
        metrics.clone(),
    ));
    tasks
}

/// Watches for ever.
pub(crate) async fn follow<L, S>(watch: impl Fn() -> S, listener: L, metrics: Arc<Metrics>)
where
    L: Listener,
    S: Stream<Item = watcher::Result<Event<L::Object>>>,
{
    let mut pause = PAUSE_MIN;
    loop {
        let started = Instant::now();
        let followed = tokio::select! {
            followed = follow_once(watch(), &listener) => followed,
            // Nothing was missed: the index stays until the new list is complete.
            () = listener.again() => continue,
        };
        if let Err(error) = followed {
            tracing::warn!(kind = listener.name(), error = %error, "watching; starting again");
        }
        listener.lost();
        metrics.watch_failed(listener.name());
        if started.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Until the first failure.
async fn follow_once<L: Listener>(
    events: impl Stream<Item = watcher::Result<Event<L::Object>>>,
    listener: &L,
) -> watcher::Result<()> {
    pin_mut!(events);
    let mut kept = Vec::new();
    while let Some(event) = events.try_next().await? {
        match event {
            Event::Init => {
                kept.clear();
                listener.begin();
            }
            Event::InitApply(object) => kept.extend(listener.keep(object)),
            Event::InitDone => listener.reset(std::mem::take(&mut kept)),
            Event::Apply(object) => listener.apply(&object),
            Event::Delete(object) => listener.delete(&object),
        }
    }
    Ok(())
}

/// Between half and the whole, so that replicas do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let random = nanos.map_or(0, |since| since.subsec_nanos() % 1_000);
    pause / 2 + pause / 2 * random / 1_000
}

fn name(object: &impl kube::ResourceExt) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

// === the listeners ===

impl Listener for Nodes {
    type Object = Node;
    type Kept = Node;

    fn name(&self) -> &'static str {
        "nodes"
    }
    /// Most of a Node is images that were pulled and who wrote which field.
    fn keep(&self, mut node: Node) -> Option<Node> {
        node.metadata.managed_fields = None;
        node.metadata.annotations = None;
        if let Some(status) = &mut node.status {
            status.images = None;
        }
        Some(node)
    }
    fn reset(&self, nodes: Vec<Node>) {
        lock(&self.0).reset_nodes(&nodes);
    }
    fn apply(&self, node: &Node) {
        lock(&self.0).apply_node(node);
    }
    fn delete(&self, node: &Node) {
        lock(&self.0).delete_node(name(node));
    }
    fn lost(&self) {
        lock(&self.0).lost(Kind::Nodes, Instant::now());
    }
}

impl Listener for Topologies {
    type Object = NodeTopology;
    type Kept = (String, Option<Arc<Topology>>);

    fn name(&self) -> &'static str {
        "topologies"
    }
    /// Equal machines share what is read of them, so all that waits for the list's end is small.
    fn keep(&self, object: NodeTopology) -> Option<Self::Kept> {
        let topology = lock(&self.0).read_topology(&object);
        Some((object.name().to_owned(), topology))
    }
    fn reset(&self, read: Vec<Self::Kept>) {
        lock(&self.0).reset_read_topologies(read);
    }
    fn apply(&self, object: &NodeTopology) {
        lock(&self.0).apply_topology(object);
    }
    fn delete(&self, object: &NodeTopology) {
        lock(&self.0).delete_topology(name(object));
    }
    fn lost(&self) {
        lock(&self.0).lost(Kind::Topologies, Instant::now());
    }
}

impl Listener for Pods {
    type Object = Pod;
    type Kept = PodRecord;

    fn name(&self) -> &'static str {
        "pods"
    }
    fn begin(&self) {
        lock(&self.2.fence).begin(Instant::now());
    }
    /// A cluster's pods are many and large; only what the index needs waits for the list's end.
    fn keep(&self, pod: Pod) -> Option<PodRecord> {
        PodRecord::read(&pod, &self.1)
    }
    fn reset(&self, records: Vec<PodRecord>) {
        lock(&self.0).reset_pods(records);
        lock(&self.2.fence).end();
    }
    fn apply(&self, pod: &Pod) {
        lock(&self.0).apply_pod(pod);
    }
    fn delete(&self, pod: &Pod) {
        lock(&self.0).delete_pod(pod.metadata.uid.as_deref().unwrap_or_default());
    }
    fn lost(&self) {
        lock(&self.2.fence).fail();
        lock(&self.0).lost(Kind::Pods, Instant::now());
    }
    async fn again(&self) {
        self.2.list_again.notified().await;
    }
}

impl Listener for Leases {
    type Object = Lease;
    type Kept = Lease;

    fn name(&self) -> &'static str {
        "leases"
    }
    fn keep(&self, lease: Lease) -> Option<Lease> {
        Some(lease)
    }
    fn reset(&self, leases: Vec<Lease>) {
        lock(&self.0).reset_leases(&leases, Instant::now());
    }
    fn apply(&self, lease: &Lease) {
        lock(&self.0).apply_lease(lease, Instant::now());
    }
    fn delete(&self, lease: &Lease) {
        lock(&self.0).delete_lease(name(lease));
    }
    fn lost(&self) {
        lock(&self.0).lost(Kind::Leases, Instant::now());
    }
}

impl Listener for Budgets {
    type Object = PodDisruptionBudget;
    type Kept = PodDisruptionBudget;

    fn name(&self) -> &'static str {
        "budgets"
    }
    fn keep(&self, budget: PodDisruptionBudget) -> Option<PodDisruptionBudget> {
        Some(budget)
    }
    fn reset(&self, budgets: Vec<PodDisruptionBudget>) {
        lock(&self.0).reset_budgets(&budgets);
    }
    fn apply(&self, budget: &PodDisruptionBudget) {
        lock(&self.0).apply_budget(budget);
    }
    fn delete(&self, budget: &PodDisruptionBudget) {
        lock(&self.0).delete_budget(budget);
    }
    /// What was allowed when it was last seen is the best guess.
    fn lost(&self) {}
}
