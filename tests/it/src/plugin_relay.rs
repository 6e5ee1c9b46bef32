//! Stands between a kubelet and a device plugin, and passes everything on, but for one moment: when the
//! plugin has said which devices it prefers, and before it is asked to give them.
//!
//! ```text
//! plugin ── FOLDER/kubelet.sock ─► relay ── device-plugins/kubelet.sock ─► kubelet     registers
//! plugin ◄─ FOLDER/NAME.sock ───── relay ◄─ device-plugins/NAME.sock ───── kubelet     is asked
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::real_node::RealNode;

/// The kubelet's folder, as it sees it.
const KUBELET_FOLDER: &str = "/var/lib/kubelet/device-plugins";
const KUBELET_SOCKET: &str = "kubelet.sock";
const CHECKPOINT: &str = "kubelet_internal_checkpoint";
/// Each device's name begins so; of the plugin's answers only lists of devices hold it.
const DEVICE: &[u8] = b"GPU-";
const CHUNK_BYTES: usize = 64 * 1024;

/// Over when its sender is gone.
type Hold = watch::Receiver<()>;

/// A relay for one plugin.
#[derive(Debug)]
pub struct PluginRelay {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    kubelet_folder: PathBuf,
    plugin_folder: PathBuf,
    /// Names of plugins that are listened for.
    served: Mutex<BTreeSet<String>>,
    /// Whom to tell of the next preference.
    armed: Mutex<Option<oneshot::Sender<Caught>>>,
}

/// The kubelet has its answer and its next question is held back, until this is dropped.
#[derive(Debug)]
pub struct Caught {
    _hold: watch::Sender<()>,
}

// === impl PluginRelay ===

impl PluginRelay {
    /// Listens in `folder` as the kubelet does in its own.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub fn start(node: &RealNode, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).context("making the folder of a plugin")?;
        let checkpoint = Path::new(KUBELET_FOLDER).join(CHECKPOINT);
        std::os::unix::fs::symlink(checkpoint, folder.join(CHECKPOINT))
            .context("linking the kubelet's checkpoint")?;
        let shared = Arc::new(Shared {
            kubelet_folder: node.outside(KUBELET_FOLDER)?,
            plugin_folder: folder.to_owned(),
            served: Mutex::default(),
            armed: Mutex::default(),
        });
        let listener = listen(&folder.join(KUBELET_SOCKET))?;
        Ok(Self {
            accepting: tokio::spawn(register(Arc::clone(&shared), listener)),
            shared,
        })
    }

    /// The folder that the plugin takes for the kubelet's.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.shared.plugin_folder
    }

    /// Catches the next moment between a preference and what follows it. To be called when the plugin has
    /// listed its devices and none of them changes.
    ///
    /// # Errors
    /// When the relay ends first.
    pub fn after_next_preference(&self) -> impl Future<Output = Result<Caught>> + use<> {
        let (caught, wait) = oneshot::channel();
        *self.shared.armed() = Some(caught);
        async { wait.await.context("waiting for a preference") }
    }
}

impl Drop for PluginRelay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

// === impl Shared ===

impl Shared {
    fn armed(&self) -> MutexGuard<'_, Option<oneshot::Sender<Caught>>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens where the kubelet will look for the plugins that are there now.
    fn serve_plugins(self: &Arc<Self>) -> Result<()> {
        for entry in std::fs::read_dir(&self.plugin_folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let is_plugin = name.ends_with(".sock") && name != KUBELET_SOCKET;
            let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
            if is_plugin && served.insert(name.clone()) {
                let listener = listen(&self.kubelet_folder.join(&name))?;
                // Ends with the story's runtime.
                drop(tokio::spawn(serve(Arc::clone(self), name, listener)));
            }
        }
        Ok(())
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    UnixListener::bind(path).with_context(|| format!("listening at {}", path.display()))
}

/// Passes registrations on. The plugin's socket is there by then, for the kubelet connects at once.
async fn register(shared: Arc<Shared>, listener: UnixListener) {
    while let Ok((mut plugin, _)) = listener.accept().await {
        if let Err(error) = shared.serve_plugins() {
            println!("plugin relay: {error:#}");
        }
        let kubelet = shared.kubelet_folder.join(KUBELET_SOCKET);
        drop(tokio::spawn(async move {
            if let Ok(mut kubelet) = UnixStream::connect(kubelet).await {
                let copied = tokio::io::copy_bidirectional(&mut plugin, &mut kubelet).await;
                // Either side may go when it likes.
                drop(copied);
            }
        }));
    }
}

async fn serve(shared: Arc<Shared>, name: String, listener: UnixListener) {
    while let Ok((kubelet, _)) = listener.accept().await {
        let plugin = UnixStream::connect(shared.plugin_folder.join(&name)).await;
        if let Ok(plugin) = plugin {
            drop(tokio::spawn(relay(Arc::clone(&shared), kubelet, plugin)));
        }
    }
}

/// One connection; ends when one of the two does.
async fn relay(shared: Arc<Shared>, kubelet: UnixStream, plugin: UnixStream) {
    let (from_kubelet, to_kubelet) = kubelet.into_split();
    let (from_plugin, to_plugin) = plugin.into_split();
    let (holder, held) = watch::channel(None);
    tokio::select! {
        () = pass_questions(from_kubelet, to_plugin, held) => {}
        () = pass_answers(&shared, from_plugin, to_kubelet, holder) => {}
    }
}

async fn pass_questions(
    mut from_kubelet: OwnedReadHalf,
    mut to_plugin: OwnedWriteHalf,
    held: watch::Receiver<Option<Hold>>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = from_kubelet.read(&mut chunk).await.unwrap_or(0);
        let hold = held.borrow().clone();
        if let Some(mut hold) = hold {
            while hold.changed().await.is_ok() {}
        }
        if count == 0 || to_plugin.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}

/// Holds the questions back before it passes the answer that was waited for.
async fn pass_answers(
    shared: &Shared,
    mut from_plugin: OwnedReadHalf,
    mut to_kubelet: OwnedWriteHalf,
    holder: watch::Sender<Option<Hold>>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = from_plugin.read(&mut chunk).await.unwrap_or(0);
        let names_devices = chunk[..count].windows(DEVICE.len()).any(|it| it == DEVICE);
        let waiting = names_devices.then(|| shared.armed().take()).flatten();
        let (hold, holding) = watch::channel(());
        if waiting.is_some() {
            holder.send_replace(Some(holding));
        }
        if count == 0 || to_kubelet.write_all(&chunk[..count]).await.is_err() {
            return;
        }
        if let Some(waiting) = waiting {
            // A story that no longer waits lets go at once.
            drop(waiting.send(Caught { _hold: hold }));
        }
    }
}
