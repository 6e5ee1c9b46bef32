//! The running kubelet's own configuration, from its `/configz`: what file, drop-ins and flags came to.
//!
//! ```text
//! ask ──▶ watch ──▶ probe (a look at everything when it differs) ──▶ NodeTopology
//!  ▲ │
//!  └─┘ every ten minutes; sooner after a failure, and less and less
//! ```
//!
//! The kubelet has the API server review the token and the right of who asks, so it is asked seldom. The
//! token goes to nobody whose certificate was not checked: there is no switch for that.

mod ask;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use berth_topology::ids::NodeName;
use berth_topology::raw::{Answer, RawKubelet};
use tokio::sync::watch;
use tracing::{info, warn};

pub use ask::Error;

/// A kubelet's configuration changes when somebody restarts it.
const ASK_EVERY: Duration = Duration::from_secs(600);
/// After the first failure; doubles with each that follows, up to [`ASK_EVERY`].
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The kubelet, and who says that it is.
#[derive(Clone, Debug)]
pub struct Kubelet {
    /// Where it serves.
    pub address: SocketAddr,
    /// Its certificate may be for this name instead of the address: a kubelet that signs its own names no
    /// address in it.
    pub node: NodeName,
    /// Who vouches for its certificate, in PEM; the cluster's CA if absent.
    pub ca: Option<PathBuf>,
    /// The cluster whose token is shown; that of the pod that this runs in if absent.
    pub kubeconfig: Option<PathBuf>,
}

/// What it told last.
pub type Told = watch::Receiver<Answer<RawKubelet>>;

// === impl Kubelet ===

impl Kubelet {
    /// Asks once.
    pub async fn told(&self) -> Answer<RawKubelet> {
        match ask::ask(self).await {
            Ok(config) => Answer::Value(config),
            Err(error) => Answer::failed(format!("{:#}", anyhow::Error::from(error))),
        }
    }

    /// Asks again and again, until nobody wants to know.
    pub async fn keep(self, told: watch::Sender<Answer<RawKubelet>>) {
        let mut failures = u32::from(told.borrow().error().is_some());
        while !told.is_closed() {
            tokio::time::sleep(wait_after(failures)).await;
            let answer = self.told().await;
            failures = match answer.error() {
                Some(_) => failures.saturating_add(1),
                None => 0,
            };
            tell(&told, answer);
        }
    }
}

/// Before it is asked again.
fn wait_after(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => ASK_EVERY,
        Some(doublings) => AGAIN_AFTER
            .saturating_mul(1 << doublings.min(16))
            .min(ASK_EVERY),
    }
}

/// Says it in the log, too, where it is news.
fn tell(told: &watch::Sender<Answer<RawKubelet>>, answer: Answer<RawKubelet>) {
    told.send_if_modified(|before| {
        let is_news = *before != answer;
        if is_news {
            log(&answer);
            *before = answer;
        }
        is_news
    });
}

/// What the kubelet told, or why it did not.
pub fn log(answer: &Answer<RawKubelet>) {
    match answer.error() {
        Some(why) => warn!("the kubelet's policies are not known: {why}; asking again"),
        None => info!("the kubelet told its configuration"),
    }
}
