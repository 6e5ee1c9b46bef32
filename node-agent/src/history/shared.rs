//! One history for everybody who looks at this machine: who publishes, who serves devices, who listens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_topology::ids::GpuUuid;
use berth_topology::node::Status;
use jiff::Timestamp;

use super::History;

/// A [`History`] with a clock.
#[derive(Clone, Debug, Default)]
pub struct SharedHistory(Arc<Mutex<History>>);

// === impl SharedHistory ===

impl SharedHistory {
    /// As [`History::recall`].
    pub fn recall(&self, published: &Status, boot_id: Option<&str>) {
        self.lock().recall(published, boot_id);
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
