//! The poke: one annotation on a node makes kube-scheduler try a refused pod again. Only the leader
//! pokes. Which node, and when, is decided in `berth_extender_core::waiting`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use berth_extender_core::index::Index;
use berth_extender_core::waiting::{Poke, Waiting};
use berth_topology::names;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use tokio::time::timeout;

use crate::lock;

/// How often changes are looked for: a refused pod waits so long on top of kube-scheduler's backoff.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// One patch.
const PATCH_TIMEOUT: Duration = Duration::from_secs(2);

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
    if waiting.is_empty() {
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
