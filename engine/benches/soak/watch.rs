//! Resident memory and health, once a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::answer;

const EVERY: Duration = Duration::from_secs(1);
/// Above this share of what it was in the second quarter, memory grew.
const GROWTH_PERCENT: u64 = 10;

pub(crate) struct Watch {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Memory>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    resident_kb: Vec<u64>,
    unhealthy_count: usize,
}

// === impl Watch ===

impl Watch {
    pub(crate) fn start(process_id: u32, address: SocketAddr) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            let mut seen = Memory::default();
            while !end.load(Ordering::Relaxed) {
                seen.resident_kb.extend(resident_kb(process_id));
                let healthy =
                    answer(address, "/health", None).is_ok_and(|(status, _)| status == 200);
                seen.unhealthy_count += usize::from(!healthy);
                thread::sleep(EVERY);
            }
            seen
        });
        Self { ends, thread }
    }

    pub(crate) fn end(self) -> Memory {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn resident_kb(process_id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

// === impl Memory ===

impl Memory {
    /// The median of one of the four quarters, in KiB.
    fn quarter(&self, quarter: usize) -> Option<u64> {
        let length = self.resident_kb.len() / 4;
        let part = self
            .resident_kb
            .get(quarter * length..(quarter + 1) * length)?;
        let mut part = part.to_vec();
        part.sort_unstable();
        part.get(part.len() / 2).copied()
    }

    /// A sentence where it is not flat.
    pub(crate) fn growth(&self) -> Option<String> {
        let (second, last) = (self.quarter(1)?, self.quarter(3)?);
        let grew = last > second + second * GROWTH_PERCENT / 100;
        grew.then(|| format!("resident memory grew from {second} to {last} KiB"))
    }

    pub(crate) fn json(&self) -> Value {
        let quarters: Vec<_> = (0..4).map(|quarter| self.quarter(quarter)).collect();
        json!({
            "residentKibFirst": self.resident_kb.first(),
            "residentKibMedianOfQuarters": quarters,
            "residentKibMax": self.resident_kb.iter().max(),
            "unhealthySeconds": self.unhealthy_count,
        })
    }
}
