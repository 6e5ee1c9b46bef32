//! Reads the pods whose binds the watch does not confirm. Which, and what a read says, is decided in
//! `berth_extender_core::index`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_extender_core::index::{Confirmed, Index, Unconfirmed};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::lock;

/// How often it is looked whether there is one.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// One read; it is asked again later.
const READ_MAX: Duration = Duration::from_secs(1);

/// Starts to read, among `tasks`. Whether this replica leads does not matter: what it holds, it holds.
pub fn spawn(tasks: &mut JoinSet<()>, client: kube::Client, index: Arc<Mutex<Index>>) {
    tasks.spawn(async move {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            look(&client, &index, Instant::now()).await;
        }
    });
}

/// Reads what is to be read at `now`, all at once; the index bounds how many.
pub(crate) async fn look(client: &kube::Client, index: &Mutex<Index>, now: Instant) {
    let asked = lock(index).unconfirmed(now);
    join_all(asked.iter().map(|one| ask(client, index, one, now))).await;
}

/// A read without a resourceVersion is a quorum read.
async fn ask(client: &kube::Client, index: &Mutex<Index>, one: &Unconfirmed, began: Instant) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &one.namespace);
    let uid = &one.uid;
    let found = match timeout(READ_MAX, pods.get_opt(&one.name)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return tracing::debug!(%uid, %error, "reading a pod that was bound"),
        Err(_) => return tracing::debug!(%uid, "reading a pod that was bound takes too long"),
    };
    match lock(index).confirmed(uid, found.as_ref(), began, Instant::now()) {
        Confirmed::Nothing | Confirmed::Contradicted => {}
        Confirmed::Bound => tracing::debug!(%uid, "bound; the watch has not shown it yet"),
        Confirmed::Gone => tracing::info!(%uid, "gone before the watch showed it bound"),
        Confirmed::NeverBound => {
            tracing::warn!(%uid, "a bind was never done; its GPUs are free again");
        }
    }
}
