//! Slices of one cell, ours and the peer's, side by side.

use serde_json::{Value, json};

use crate::cell::{Cell, Phase};
use crate::probe::Moment;

#[derive(Debug, Default)]
pub(crate) struct Pairs {
    kept: Vec<Pair>,
    dropped: usize,
}

/// Tokens per second.
#[derive(Clone, Copy, Debug)]
struct Pair {
    ours: f64,
    peer: Option<f64>,
    /// Before ours.
    read_bytes_per_second: f64,
}

// === impl Pairs ===

impl Pairs {
    /// Keeps a pair, unless a core was away at the beginning of one of its slices.
    pub(crate) fn add(&mut self, before_ours: Moment, ours: f64, peer: Option<(Moment, f64)>) {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let before_peer = peer.map_or(before_ours, |(moment, _)| moment);
        if !(before_ours.is_fair(count) && before_peer.is_fair(count)) {
            self.dropped += 1;
            return;
        }
        self.kept.push(Pair {
            ours,
            peer: peer.map(|(_, figure)| figure),
            read_bytes_per_second: before_ours.read_bytes_per_second,
        });
    }

    pub(crate) fn render(&self, cell: &Cell, model_bytes: u64) -> Value {
        let each = |figure: &dyn Fn(&Pair) -> Option<f64>| {
            median(self.kept.iter().filter_map(figure).collect())
        };
        #[expect(clippy::cast_precision_loss, reason = "files are far below 2^52 bytes")]
        let bytes = model_bytes as f64;
        let of_bandwidth = |pair: &Pair| {
            if cell.phase == Phase::Prefill {
                return None;
            }
            // A step reads all weights once for all of its sequences.
            let steps = pair.ours / f64::from(u32::try_from(cell.concurrency).ok()?);
            Some(steps * bytes / pair.read_bytes_per_second)
        };
        json!({
            "cell": cell.name,
            "concurrency": cell.concurrency,
            "inputLen": cell.input_len,
            "outputLen": cell.output_len,
            "kept": self.kept.len(),
            "dropped": self.dropped,
            "oursTokensPerSecond": each(&|pair| Some(pair.ours)),
            "llamaCppTokensPerSecond": each(&|pair| pair.peer),
            "ratio": each(&|pair| Some(pair.ours / pair.peer?)),
            "readGigabytesPerSecond": each(&|pair| Some(pair.read_bytes_per_second / 1e9)),
            "oursOfBandwidth": each(&of_bandwidth),
        })
    }
}

/// Rounded to a thousandth; none of none.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let middle = values.get(values.len() / 2)?;
    Some((middle * 1e3).round() / 1e3)
}
