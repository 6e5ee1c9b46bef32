//! What containers hold, from the three places that know a part of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_topology::allocation::Allocation;
use tracing::warn;

use super::bound::BoundPods;
use super::checkpoint::{Checkpoint, Stamp};
use super::ledger::{self, Grant};
use super::pod_resources::PodResources;

/// More than a kubelet asks for between two writes of its checkpoint.
const GRANTS_MAX: usize = 64;

/// The kubelet's checkpoint, its PodResources as last read, and our own answers.
#[derive(Debug)]
pub(crate) struct Books {
    folder: PathBuf,
    pods: Arc<BoundPods>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    checkpoint: Checkpoint,
    listed: Vec<Allocation>,
    grants: Vec<Grant>,
    /// The last failure to read the checkpoint, told once.
    trouble: Option<String>,
}

// === impl Books ===

impl Books {
    pub(crate) fn new(folder: PathBuf, pods: Arc<BoundPods>) -> Arc<Self> {
        Arc::new(Self {
            folder,
            pods,
            kept: Mutex::default(),
        })
    }

    /// What containers of living pods hold, and the version of the kubelet's part of it.
    pub(crate) fn rows(&self) -> (Vec<Allocation>, Option<Stamp>) {
        let mut kept = self.lock();
        kept.read_checkpoint(&self.folder);
        let rows = ledger::rows(
            &kept.checkpoint,
            &kept.listed,
            &kept.grants,
            &self.pods.lock(),
        );
        let stamp = kept.checkpoint.stamp;
        kept.grants.retain(|grant| grant.written_before == stamp);
        (rows, stamp)
    }

    /// What PodResources said just now.
    pub(crate) fn list(&self, listed: &[PodResources]) {
        let joined = ledger::joined(listed, &self.pods.lock());
        self.lock().listed = joined;
    }

    /// Counts until the kubelet has written it down.
    pub(crate) fn grant(&self, grant: Grant) {
        let mut kept = self.lock();
        if kept.grants.len() >= GRANTS_MAX {
            kept.grants.remove(0);
        }
        kept.grants.push(grant);
    }

    /// The kubelet was started anew: what it has not written down it did not give.
    pub(crate) fn forget_grants(&self) {
        self.lock().grants.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Kept ===

impl Kept {
    /// One that cannot be read leaves what is known.
    fn read_checkpoint(&mut self, folder: &Path) {
        let Err(error) = self.checkpoint.read_again(folder) else {
            self.trouble = None;
            return;
        };
        let trouble = format!("{:#}", anyhow::Error::from(error));
        if self.trouble.as_ref() != Some(&trouble) {
            warn!(trouble, "going by what was known, and by PodResources");
            self.trouble = Some(trouble);
        }
    }
}
