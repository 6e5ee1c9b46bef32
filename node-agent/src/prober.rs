//! When the machine is asked, on a thread of its own: a probe may hang in a driver for minutes.
//!
//! ```text
//!   poll (--poll) ──────────► what may change     ─┐
//!   NVML's event ───────────► what may change      ├─► observation
//!   sysfs differs, a minute ► everything          ─┘
//! ```
//!
//! Events are coalesced: however many come, at most four looks a second follow.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use berth_topology::node::Status;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::assemble::assemble;
use crate::history::SharedHistory;
use crate::probe::{Error, Found, Notice, Probe, Stamp};
use crate::publish::Observation;
use crate::tally::Tally;
use crate::xid::{self, Meaning};

/// Between two looks at what is cheap. With a probe and a write it must stay below a second.
const STAMP_EVERY: Duration = Duration::from_millis(500);
/// Between two looks, whatever happens.
const GAP_MIN: Duration = Duration::from_millis(250);
/// What no event and no vital sign tells (P2P status, NUMA memory, huge pages) is found by then.
const FULL_EVERY: Duration = Duration::from_secs(60);

/// Looks at one machine until nobody wants to know.
#[derive(Debug)]
pub struct Prober {
    probe: Probe,
    every: Duration,
    /// What was seen last.
    status: Option<Status>,
    stamp: Stamp,
    full_at: Option<Instant>,
    wakes: Receiver<()>,
    waker: SyncSender<()>,
    observations: watch::Sender<Option<Observation>>,
    tally: Arc<Tally>,
}

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// What may change while a machine runs.
    Vitals,
    /// Everything.
    Full,
}

// === impl Prober ===

impl Prober {
    /// A prober that has not looked yet. `every` is the poll.
    #[must_use]
    pub fn new(
        probe: Probe,
        every: Duration,
        observations: watch::Sender<Option<Observation>>,
    ) -> Self {
        let (waker, wakes) = sync_channel(1);
        Self {
            stamp: probe.stamp(),
            probe,
            every,
            status: None,
            full_at: None,
            wakes,
            waker,
            observations,
            tally: Arc::default(),
        }
    }

    /// The same, which tells `tally` how long its looks take.
    #[must_use]
    pub fn counted(self, tally: Arc<Tally>) -> Self {
        Self { tally, ..self }
    }

    /// Starts its thread, and one that waits for NVML's events. Neither is joined: what hangs in a
    /// driver must not keep the process from ending.
    ///
    /// # Errors
    ///
    /// When a thread cannot be started.
    pub fn start(self, history: SharedHistory) -> std::io::Result<()> {
        if let Some(listener) = self.probe.listener() {
            let waker = self.waker.clone();
            thread::Builder::new()
                .name("nvml-events".to_owned())
                .spawn(move || listener.run(|notice| take(&notice, &history, &waker)))?;
        }
        thread::Builder::new()
            .name("probe".to_owned())
            .spawn(move || self.run())
            .map(drop)
    }

    fn run(mut self) {
        let (mut depth, tally) = (Depth::Full, self.tally.clone());
        while !self.observations.is_closed() {
            let began = Instant::now();
            let probing = tally.probing();
            let looked = self.look(depth);
            drop(probing);
            if let Err(error) = looked {
                tally.probe_failed();
                error!(error = %anyhow::Error::from(error), "no probe");
            }
            depth = self.rest(began);
        }
    }

    fn look(&mut self, depth: Depth) -> Result<(), Error> {
        let found = match depth {
            Depth::Vitals => self.probe.refresh()?,
            Depth::Full => {
                self.full_at = Some(Instant::now());
                Found::Changed(Box::new(self.probe.read()?))
            }
        };
        if let Found::Changed(raw) = found {
            self.status = Some(assemble(&raw));
        }
        if let Some(status) = self.status.clone() {
            let at = tokio::time::Instant::now();
            self.observations
                .send_replace(Some(Observation { status, at }));
        }
        Ok(())
    }

    /// Until the next look, and how deep that goes.
    fn rest(&mut self, began: Instant) -> Depth {
        let until = began + self.every;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.observations.is_closed() {
                break;
            }
            match self.wakes.recv_timeout(left.min(STAMP_EVERY)) {
                Ok(()) => {
                    thread::sleep(GAP_MIN.saturating_sub(began.elapsed()));
                    // what came meanwhile is seen by the same look
                    let _ = self.wakes.try_recv();
                    break;
                }
                Err(RecvTimeoutError::Timeout) if self.has_other_stamp() => {
                    thread::sleep(GAP_MIN.saturating_sub(began.elapsed()));
                    return Depth::Full;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        match self.full_at {
            Some(at) if at.elapsed() < FULL_EVERY => Depth::Vitals,
            _ => Depth::Full,
        }
    }

    fn has_other_stamp(&mut self) -> bool {
        let before = std::mem::replace(&mut self.stamp, self.probe.stamp());
        before != self.stamp
    }
}

/// Remembers an XID, says what it means, and has the machine looked at.
fn take(notice: &Notice, history: &SharedHistory, waker: &SyncSender<()>) {
    if let Notice::Xid { gpu, code } = notice {
        history.begin(gpu, *code);
        let (gpu, what) = (gpu.as_str(), xid::sentence(*code));
        match xid::meaning(*code) {
            Meaning::Told => info!(gpu, "{what}: its health is as before"),
            Meaning::Link => warn!(gpu, "{what}: its NVLinks are in doubt"),
            Meaning::Suspect => warn!(gpu, "{what}: it is degraded"),
            Meaning::Fatal => warn!(gpu, "{what}: it is not usable until it was reset"),
        }
    }
    // one wake that waits already is enough
    let _ = waker.try_send(());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Source;

    /// Long enough for a loaded machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn prober(every: Duration) -> (Prober, watch::Receiver<Option<Observation>>) {
        let record = concat!(env!("CARGO_MANIFEST_DIR"), "/../machines/l40s-4.raw.json");
        let probe = Probe::new(Source::Recorded(record.into()));
        let (sender, observations) = watch::channel(None);
        (Prober::new(probe, every, sender), observations)
    }

    fn wait_for_another(observations: &mut watch::Receiver<Option<Observation>>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let changed = tokio::time::timeout(PATIENCE, observations.changed()).await;
            changed.expect("nobody looked").expect("the prober ended");
        });
    }

    #[test]
    fn an_event_has_the_machine_looked_at_long_before_the_poll() {
        let (prober, mut observations) = prober(Duration::from_secs(3600));
        let waker = prober.waker.clone();
        prober.start(SharedHistory::default()).unwrap();
        wait_for_another(&mut observations);
        let notice = Notice::Xid {
            gpu: "GPU-0".into(),
            code: 31,
        };
        take(&notice, &SharedHistory::default(), &waker);
        wait_for_another(&mut observations);
    }

    #[test]
    fn a_storm_of_events_is_one_wake() {
        let (prober, _observations) = prober(Duration::from_secs(3600));
        for _ in 0..1000 {
            take(&Notice::Other, &SharedHistory::default(), &prober.waker);
        }
        assert_eq!(prober.wakes.try_iter().count(), 1);
    }

    #[test]
    fn looks_are_apart_whatever_happens() {
        let (mut prober, _observations) = prober(Duration::from_secs(3600));
        let began = Instant::now();
        for _ in 0..3 {
            take(&Notice::Other, &SharedHistory::default(), &prober.waker);
            let _ = prober.rest(Instant::now());
        }
        assert!(began.elapsed() >= GAP_MIN * 3);
    }
}
