//! NVML, opened once for this process: by who asks it, for who listens to it too.
//!
//! NVML counts its users. After the driver was loaded again it answers anew only when the last of them
//! has let go, so that the listener must notice, too.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::driver_root::{self, NotBelow};
use super::error;

/// Longer than a listener waits before it looks whether it should let go.
const LET_GO_MAX: Duration = Duration::from_secs(3);

/// Where the library is.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Where the dynamic linker finds it.
    Linker,
    /// That file.
    File(&'a Path),
    /// Somewhere below the driver's root, which may appear later.
    Below(&'a Path),
}

/// Why it is not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{}", error::name(.0))]
    Nvml(#[from] NvmlError),
    #[error(transparent)]
    NotBelow(#[from] NotBelow),
}

/// Shared by the prober, who opens and closes, and the listener.
#[derive(Debug, Default)]
pub(crate) struct Library {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    nvml: Option<Arc<Nvml>>,
    /// Grows when it is opened or closed, and when the GPUs are no longer the same.
    generation: u64,
    closed: Weak<Nvml>,
}

// === impl Place ===

impl<'a> Place<'a> {
    /// As the command line names it; a file before a root.
    #[must_use]
    pub fn of(library: Option<&'a Path>, driver_root: Option<&'a Path>) -> Self {
        match (library, driver_root) {
            (Some(path), _) => Self::File(path),
            (None, Some(root)) => Self::Below(root),
            (None, None) => Self::Linker,
        }
    }

    /// Opens what is there.
    pub(crate) fn open(self) -> Result<Nvml, OpenError> {
        let of = |path: &Path| Nvml::builder().lib_path(path.as_os_str()).init();
        Ok(match self {
            Self::Linker => Nvml::init()?,
            Self::File(path) => of(path)?,
            Self::Below(root) => of(&driver_root::find(root)?)?,
        })
    }
}

// === impl Library ===

impl Library {
    /// NVML, opened if it is not.
    pub(super) fn open(&self, place: Place<'_>) -> Result<Arc<Nvml>, OpenError> {
        if let Some(nvml) = &self.slot().nvml {
            return Ok(nvml.clone());
        }
        self.wait_until_let_go();
        let nvml = Arc::new(place.open()?);
        let mut slot = self.slot();
        slot.nvml = Some(nvml.clone());
        slot.generation += 1;
        self.changed.notify_all();
        Ok(nvml)
    }

    /// It answers nothing any more.
    pub(super) fn close(&self) {
        let mut slot = self.slot();
        if let Some(nvml) = slot.nvml.take() {
            slot.closed = Arc::downgrade(&nvml);
            slot.generation += 1;
        }
        self.changed.notify_all();
    }

    /// GPUs came or went: who listens must register with them.
    pub(super) fn has_other_gpus(&self) {
        self.slot().generation += 1;
        self.changed.notify_all();
    }

    pub(super) fn generation(&self) -> u64 {
        self.slot().generation
    }

    /// Waits for another generation than the one given, for a while; it, and NVML if that is open.
    pub(super) fn next(&self, than: u64, wait_max: Duration) -> (u64, Option<Arc<Nvml>>) {
        let is_same = |slot: &mut Slot| slot.generation == than;
        let waited = self
            .changed
            .wait_timeout_while(self.slot(), wait_max, is_same);
        let slot = waited.unwrap_or_else(PoisonError::into_inner).0;
        (slot.generation, slot.nvml.clone())
    }

    fn wait_until_let_go(&self) {
        let until = Instant::now() + LET_GO_MAX;
        let is_held = || self.slot().closed.strong_count() > 0;
        while is_held() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
