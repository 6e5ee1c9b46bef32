//! Follows the pods that are bound to this node, and asks the API server itself when what it was
//! told does not do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_topology::ids::NodeName;
use futures::{TryStreamExt, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tracing::warn;

use super::pods::Pods;
use crate::publish::backoff::Backoff;
use crate::publish::causes;

/// The kubelet waits for the answer while it admits a pod, and has one second for it in all.
const LIST_WITHIN: Duration = Duration::from_millis(500);
/// A kubelet runs 110 pods unless told otherwise.
const PAGE_OBJECTS: u32 = 250;

/// The pods of this node.
pub struct BoundPods {
    api: Api<Pod>,
    node: NodeName,
    pods: Mutex<Pods>,
    /// Counts changes.
    changes: watch::Sender<u64>,
}

// === impl BoundPods ===

impl BoundPods {
    /// Knows no pod yet.
    #[must_use]
    pub fn new(client: kube::Client, node: NodeName) -> Arc<Self> {
        Arc::new(Self {
            api: Api::all(client),
            node,
            pods: Mutex::default(),
            changes: watch::Sender::new(0),
        })
    }

    /// Locked for a moment: never held across a wait.
    pub fn lock(&self) -> MutexGuard<'_, Pods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever a pod does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Lists once. A server that does not answer in time leaves what is known.
    pub async fn refresh(&self) {
        let params = ListParams::default().fields(&self.selector());
        match tokio::time::timeout(LIST_WITHIN, self.api.list(&params)).await {
            Ok(Ok(list)) => {
                self.lock().reset(list.items);
                self.changed();
            }
            Ok(Err(error)) => warn!(%error, "cannot list the pods of this node"),
            Err(_) => warn!(
                within_ms = LIST_WITHIN.as_millis(),
                "no list of pods in time"
            ),
        }
    }

    /// For ever. A watch that broke is followed by a fresh list.
    pub async fn follow(&self) {
        let mut backoff = Backoff::default();
        loop {
            if let Err(error) = self.follow_once(&mut backoff).await {
                let cause = causes(&error);
                warn!(%error, cause, "watching the pods of this node; starting again");
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    async fn follow_once(&self, backoff: &mut Backoff) -> Result<(), watcher::Error> {
        let config = watcher::Config::default()
            .fields(&self.selector())
            .page_size(PAGE_OBJECTS);
        let events = watcher::watcher(self.api.clone(), config);
        pin_mut!(events);
        let mut listed = Vec::new();
        while let Some(event) = events.try_next().await? {
            match event {
                Event::Init => listed.clear(),
                Event::InitApply(pod) => listed.push(slim(pod)),
                Event::InitDone => {
                    self.lock().reset(std::mem::take(&mut listed));
                    backoff.reset();
                }
                Event::Apply(pod) => self.lock().apply(slim(pod)),
                Event::Delete(pod) => self.lock().delete(&pod),
            }
            self.changed();
        }
        Ok(())
    }

    /// Pods that have ended stay in the API server by the thousand.
    fn selector(&self) -> String {
        let node = &self.node;
        format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed")
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

impl std::fmt::Debug for BoundPods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoundPods")
    }
}

/// Without what nobody reads and may be large.
fn slim(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    pod
}
