//! One resource at the kubelet's door, for ever: serve, register, notice when that is over, again.
//!
//! ```text
//!          ┌── no kubelet, a rival, a failure: say so once, wait ──┐
//!          ▼                                                       │
//!     kubelet.sock there? ─► rival? ─► bind our socket ─► Register ┤
//!                                                                  │
//!          ┌── kubelet.sock or ours replaced, no stream, a rival ◄─┘ the kubelet watches
//!          ▼
//!     end the streams, close the socket, begin again
//! ```
//!
//! A kubelet that starts removes every socket in its folder and then makes its own.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::api::{Empty, REGISTRATION, RegisterRequest, VERSION};
use super::channel;
use super::desk::Desk;
use super::pod_resources::PodResourcesSocket;
use super::rivals::{self, Rival};
use super::service::{self, OPTIONS};
use super::streams::Streams;

/// The kubelet's own socket.
pub const KUBELET_SOCKET: &str = "kubelet.sock";
/// Between two looks at the folder. A pod that is admitted before the plugin is back fails.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The kubelet connects to us before it answers.
const REGISTER_WITHIN: Duration = Duration::from_secs(5);
/// After registration the kubelet opens its stream at once.
const STREAM_WITHIN: Duration = Duration::from_secs(5);
/// Whether NVIDIA's plugin has come is looked at so often.
const RIVALS_EVERY: Duration = Duration::from_secs(2);

/// What the kubelet takes from us now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: there is no kubelet, or it did not register us.
    #[default]
    Away,
    /// It watches our devices.
    Registered,
    /// Nothing, for somebody else serves the resource.
    Refused(Rival),
}

/// One resource.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) desk: Arc<Desk>,
    pub(crate) folder: PathBuf,
    pub(crate) pod_resources: Option<PodResourcesSocket>,
    pub(crate) standing: watch::Sender<Standing>,
}

/// Why a registration did not come about or is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("no kubelet listens in {0}")]
    NoKubelet(PathBuf),
    #[error("{0}")]
    Rival(#[from] Rival),
    #[error("cannot make the socket {path}")]
    Bind {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the kubelet does not register us")]
    Register(#[source] channel::Error),
    #[error("the kubelet was started again")]
    KubeletReplaced,
    #[error("our socket was removed")]
    SocketGone,
    #[error("the kubelet no longer watches our devices")]
    NoStream,
    #[error("the server of our socket ended")]
    Ended,
}

/// Which file that is: a socket that was made anew differs, even under the same inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    inode: u64,
    changed_s: i64,
    changed_ns: i64,
}

// === impl Session ===

impl Session {
    /// For ever.
    pub(crate) async fn run(self) {
        let (mut told, mut kubelet) = (String::new(), None);
        loop {
            let over = self.once(&mut kubelet).await;
            let begins_again = matches!(over, Over::KubeletReplaced | Over::SocketGone);
            let standing = match &over {
                Over::Rival(rival) => Standing::Refused(rival.clone()),
                _ => Standing::Away,
            };
            self.standing.send_replace(standing);
            let text = format!("{:#}", anyhow::Error::from(over));
            if text != told {
                warn!(resource = self.desk.resource, "{text}");
                told = text;
            }
            if !begins_again {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// From looking for a kubelet to the end of one registration.
    async fn once(&self, last: &mut Option<Identity>) -> Over {
        let Some(kubelet) = identity(&self.kubelet_socket()) else {
            return Over::NoKubelet(self.folder.clone());
        };
        let desk = &self.desk;
        if *last != Some(kubelet) {
            // whatever the one before was giving away is lost with it
            desk.books.forget_grants();
            desk.pods.lock().kubelet_started();
            desk.gate.forget().await;
            *last = Some(kubelet);
        }
        let pod_resources = self.pod_resources.as_ref();
        let rival = rivals::check(&desk.resource, &self.folder, pod_resources, &desk.gate);
        if let Err(rival) = rival.await {
            return Over::Rival(rival);
        }
        // dropped at the end of this function: streams end, and the server with them
        let (_closing, closed) = watch::channel(false);
        let streams = Streams::new(closed.clone());
        let path = self.folder.join(self.socket_name());
        let server = match service::bind(&path, desk.clone(), streams.clone(), closed) {
            Ok(server) => server,
            Err(source) => return Over::Bind { path, source },
        };
        let mut serving = JoinSet::new();
        serving.spawn(server);
        let over = tokio::select! {
            over = self.registered(kubelet, &path, streams.count()) => over,
            _ = serving.join_next() => Over::Ended,
        };
        serving.detach_all();
        over
    }

    async fn registered(
        &self,
        kubelet: Identity,
        path: &Path,
        mut streams: watch::Receiver<usize>,
    ) -> Over {
        let ours = identity(path);
        if let Err(error) = self.register().await {
            return Over::Register(error);
        }
        let watched = streams.wait_for(|count| *count > 0);
        if tokio::time::timeout(STREAM_WITHIN, watched).await.is_err() {
            return Over::NoStream;
        }
        info!(resource = self.desk.resource, socket = %path.display(), "registered with the kubelet");
        self.standing.send_replace(Standing::Registered);
        let mut looked_for_rivals = Instant::now();
        loop {
            tokio::select! {
                _ = streams.wait_for(|count| *count == 0) => return self.why_unwatched(kubelet),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            self.desk.tell_swaps();
            if identity(&self.kubelet_socket()) != Some(kubelet) {
                return Over::KubeletReplaced;
            }
            if identity(path) != ours {
                return Over::SocketGone;
            }
            if looked_for_rivals.elapsed() >= RIVALS_EVERY {
                looked_for_rivals = Instant::now();
                let rival = rivals::check_socket(&self.desk.resource, &self.folder);
                if let Err(rival) = rival.await {
                    return Over::Rival(rival);
                }
            }
        }
    }

    async fn register(&self) -> Result<(), channel::Error> {
        let request = RegisterRequest {
            version: VERSION.to_owned(),
            endpoint: self.socket_name(),
            resource_name: self.desk.resource.clone(),
            options: Some(OPTIONS),
        };
        let kubelet = self.kubelet_socket();
        let answer: Empty =
            channel::call(&kubelet, REGISTRATION, "Register", request, REGISTER_WITHIN).await?;
        let Empty {} = answer;
        Ok(())
    }

    fn why_unwatched(&self, kubelet: Identity) -> Over {
        if identity(&self.kubelet_socket()) == Some(kubelet) {
            Over::NoStream
        } else {
            Over::KubeletReplaced
        }
    }

    fn kubelet_socket(&self) -> PathBuf {
        self.folder.join(KUBELET_SOCKET)
    }

    fn socket_name(&self) -> String {
        format!("berth-{}.sock", self.desk.resource.replace('/', "_"))
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some(Identity {
        inode: metadata.ino(),
        changed_s: metadata.ctime(),
        changed_ns: metadata.ctime_nsec(),
    })
}
