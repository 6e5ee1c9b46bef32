//! One history for everybody who looks at this machine: who publishes, who serves devices, who listens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_topology::ids::GpuUuid;
use berth_topology::node::Status;
use jiff::Timestamp;
use tokio::sync::watch;

use super::History;

/// A [`History`] with a clock.
#[derive(Clone, Debug, Default)]
pub struct SharedHistory {
    history: Arc<Mutex<History>>,
    /// Whether it knows what an earlier run of the agent knew.
    recalled: watch::Sender<bool>,
}

// === impl SharedHistory ===

impl SharedHistory {
    /// As [`History::recall`] of what was published, if anything was: from here on it knows all there is to.
    pub fn recall(&self, published: Option<&Status>, boot_id: Option<&str>) {
        if let Some(published) = published {
            self.lock().recall(published, boot_id);
        }
        self.recalled.send_replace(true);
    }

    /// Becomes true with [`SharedHistory::recall`].
    #[must_use]
    pub fn recalled(&self) -> watch::Receiver<bool> {
        self.recalled.subscribe()
    }

    /// As [`History::begin`], now.
    pub fn begin(&self, gpu: &GpuUuid, code: u32) {
        self.lock().begin(gpu, code, Timestamp::now());
    }

    /// As [`History::complete`], now.
    #[must_use]
    pub fn complete(&self, assembled: Status) -> Status {
        self.lock().complete(assembled, Timestamp::now())
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
