//! Waits for NVML's events, on a thread of its own: a wait may hang in a driver that is being replaced.

use std::sync::Arc;
use std::time::Duration;

use berth_topology::ids::GpuUuid;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use tracing::{info, warn};

use super::GPUS_MAX;
use super::error;
use super::event_set::EventSet;
use super::library::Library;
use crate::publish::backoff::Backoff;

/// Between two looks whether NVML was closed. Shorter than [`Library`] waits for it.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Until NVML is opened, or opened again, there is nothing to do.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// What a listener tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The driver told an XID of a GPU.
    Xid {
        /// The GPU.
        gpu: GpuUuid,
        /// Its number.
        code: u32,
    },
    /// Something else happened: a probe shows what.
    Other,
}

/// Tells what happens to the GPUs that a probe asks.
#[derive(Debug)]
pub struct Listener {
    library: Arc<Library>,
}

/// Why nobody listens just now.
enum Ended {
    /// NVML was closed, or has other GPUs.
    Replaced,
    /// A call failed: a GPU was lost, the driver goes.
    Failed(NvmlError),
}

// === impl Listener ===

impl Listener {
    pub(crate) fn new(library: Arc<Library>) -> Self {
        Self { library }
    }

    /// Never returns. A set that fails is made anew, later each time; that events are not supported is
    /// said once for each opening of NVML, and the polls alone serve.
    pub fn run(self, tell: impl Fn(Notice)) -> ! {
        let mut backoff = Backoff::default();
        let mut generation = 0;
        loop {
            let (now, nvml) = self.library.next(generation, IDLE_MAX);
            generation = now;
            let Some(nvml) = nvml else { continue };
            match self.listen(&nvml, generation, &tell, &mut backoff) {
                Ended::Replaced => backoff.reset(),
                Ended::Failed(error) if is_unsupported(&error) => {
                    let error = error::name(&error);
                    info!(%error, "NVML tells no events: changes are found by polling");
                    continue;
                }
                Ended::Failed(error) => {
                    let (error, wait) = (error::name(&error), backoff.next_wait());
                    warn!(%error, wait_ms = wait.as_millis(), "waiting for NVML's events failed");
                    tell(Notice::Other);
                    drop(nvml);
                    std::thread::sleep(wait);
                }
            }
            // the same NVML may be listened to again
            generation = generation.wrapping_sub(1);
        }
    }

    fn listen(
        &self,
        nvml: &Nvml,
        generation: u64,
        tell: &impl Fn(Notice),
        backoff: &mut Backoff,
    ) -> Ended {
        let set = match EventSet::of_all(nvml, GPUS_MAX) {
            Ok(set) => set,
            Err(error) => return Ended::Failed(error),
        };
        info!(gpus = set.gpu_count(), "listening to NVML's events");
        while self.library.generation() == generation {
            match set.wait(WAIT_MAX) {
                Ok(None) => backoff.reset(),
                Ok(Some(event)) => tell(match (event.gpu, event.xid) {
                    (Some(gpu), Some(code)) => Notice::Xid { gpu, code },
                    _ => Notice::Other,
                }),
                Err(error) => return Ended::Failed(error),
            }
        }
        Ended::Replaced
    }
}

fn is_unsupported(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)
    )
}
