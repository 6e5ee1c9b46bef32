//! Times of requests, and what of them is told.

use std::time::Duration;

use serde_json::{Value, json};

/// What one request took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    /// From the first byte sent to the last one read.
    pub(crate) wall: Duration,
    /// How long client and extender stood in line for a core meanwhile.
    pub(crate) waited: Duration,
}

/// Times of one verb.
#[derive(Debug, Default)]
pub(crate) struct Times {
    all_ms: Vec<f64>,
    undisturbed_ms: Vec<f64>,
    /// Those of the slice that is under way.
    slice_ms: Vec<f64>,
}

/// A request that stood in line for longer was disturbed.
const WAITED_MAX: Duration = Duration::from_micros(100);

// === impl Took ===

impl Took {
    /// One after the other.
    pub(crate) fn then(self, next: Self) -> Self {
        Self {
            wall: self.wall + next.wall,
            waited: self.waited + next.waited,
        }
    }
}

// === impl Times ===

impl Times {
    pub(crate) fn add(&mut self, took: Took) {
        let ms = took.wall.as_secs_f64() * 1_000.0;
        self.all_ms.push(ms);
        if took.waited <= WAITED_MAX {
            self.slice_ms.push(ms);
        }
    }

    /// A slice ended; what was seen in it is kept apart if the hypervisor took time from it.
    pub(crate) fn end_slice(&mut self, was_stolen_from: bool) {
        let slice = std::mem::take(&mut self.slice_ms);
        if !was_stolen_from {
            self.undisturbed_ms.extend(slice);
        }
    }

    /// The last slice must have ended.
    pub(crate) fn report(mut self) -> Value {
        json!({"all": spread(&mut self.all_ms), "undisturbed": spread(&mut self.undisturbed_ms)})
    }
}

fn spread(times_ms: &mut [f64]) -> Value {
    let Some(last) = times_ms.len().checked_sub(1) else {
        return json!({"count": 0});
    };
    times_ms.sort_by(f64::total_cmp);
    let at =
        |per_thousand: usize| (times_ms[last * per_thousand / 1_000] * 1_000.0).round() / 1_000.0;
    json!({"count": times_ms.len(), "p50_ms": at(500), "p90_ms": at(900), "p99_ms": at(990), "max_ms": at(1_000)})
}
