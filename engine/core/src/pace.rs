//! How long a step will take, learnt from those that were: what a step's prompt part may be.
//!
//! ```text
//! seconds ≈ (a + b · decodes + c · positions they read)          from steps that only decode
//!         + (d · prompt tokens + e · positions they read)        from what other steps take more
//! ```
//!
//! No figure of any machine is in here. Each step counts by its relative error and is half
//! forgotten after some twenty of its kind; one that took far longer than expected, because the
//! machine was busy with something else, counts as a few times longer at most, until there are several in a row.

use std::time::Duration;

use crate::batch::StepSequence;
use fit::Fit;

mod fit;

/// A step with prompts may take this many times what its decodes alone would.
const STRETCH: f64 = 2.5;
/// Beyond this many times the expected duration, or below its inverse, a step says less about
/// the work than about the machine at that moment.
const SURPRISE_MAX: f64 = 3.0;
/// That many in a row, and the machine has become another one: all is learnt anew.
const SURPRISES_MAX: u32 = 5;
/// Prompts are not free, whatever a noisy measurement says: their least share of a step.
const PROMPT_SHARE_MIN: f64 = 0.02;

/// What one step computes, or a part of one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Work {
    /// Sequences that compute one token.
    decode_count: f64,
    /// Positions that those read.
    decode_context: f64,
    /// Tokens of all others.
    prompt_count: f64,
    /// Positions that those read, each token its own.
    prompt_context: f64,
}

/// What is known about durations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    /// Of 1, decodes, positions.
    decode: Fit<3>,
    /// Of tokens, positions.
    prompt: Fit<2>,
    /// Steps in a row that took far from what was expected.
    surprise_count: u32,
}

/// What a step's prompt part may take; copied from the pace, and used up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// None where nothing bounds it.
    left_s: Option<f64>,
    token_s: f64,
    position_s: f64,
    /// Whether a prompt has been let in; the first always is, with a token at least.
    is_used: bool,
}

// === impl Pace ===

impl Pace {
    /// Learns what a step took.
    pub(crate) fn observe(&mut self, work: &Work, took: Duration) {
        let took_s = took.as_secs_f64();
        if took_s <= 0.0 {
            return;
        }
        let took_s = self.believe(work, took_s);
        if work.prompt_count == 0.0 {
            self.decode.observe(work.of_decodes(), took_s, took_s);
            return;
        }
        let more_s = took_s - self.decode.expect(work.of_decodes());
        let more_s = more_s.max(took_s * PROMPT_SHARE_MIN);
        self.prompt.observe(work.of_prompts(), more_s, took_s);
    }

    /// What a step that took this long says about its work.
    fn believe(&mut self, work: &Work, took_s: f64) -> f64 {
        let expected_s = self.expect(work);
        let is_known =
            self.decode.is_known() && (work.prompt_count == 0.0 || self.prompt.is_known());
        let near = expected_s / SURPRISE_MAX..=expected_s * SURPRISE_MAX;
        if !is_known || near.contains(&took_s) {
            self.surprise_count = 0;
            return took_s;
        }
        self.surprise_count += 1;
        if self.surprise_count >= SURPRISES_MAX {
            *self = Self::default();
            return took_s;
        }
        took_s.clamp(*near.start(), *near.end())
    }

    /// Expected duration in seconds; 0 where nothing is known.
    pub(crate) fn expect(&self, work: &Work) -> f64 {
        let mut seconds = self.decode.expect(work.of_decodes());
        if work.prompt_count > 0.0 {
            seconds += self.prompt.expect(work.of_prompts());
        }
        seconds
    }

    /// What prompts may add to a step with these decodes. With none, or as long as nothing is
    /// known, all that there is. `max_step` is the longest step asked for.
    pub(crate) fn room(&self, decodes: &Work, max_step: Option<Duration>) -> Room {
        let [token_s, position_s] = self.prompt.costs();
        let is_bounded =
            decodes.decode_count > 0.0 && self.decode.is_known() && self.prompt.is_known();
        let left_s = is_bounded.then(|| {
            let decode_s = self.decode.expect(decodes.of_decodes());
            let longest_s = max_step.map_or(STRETCH * decode_s, |step| step.as_secs_f64());
            (longest_s - decode_s).max(0.0)
        });
        Room {
            left_s,
            token_s,
            position_s,
            is_used: false,
        }
    }
}

// === impl Room ===

impl Room {
    /// How many of a prompt's next `wanted` tokens fit, the first at `position`; they are let in.
    pub(crate) fn take(&mut self, position: usize, wanted: usize) -> usize {
        let Some(left_s) = self.left_s else {
            return wanted;
        };
        let mut fits = (0, wanted + 1);
        while fits.0 + 1 < fits.1 {
            let middle = fits.0 + (fits.1 - fits.0) / 2;
            if self.cost_s(position, middle) <= left_s {
                fits.0 = middle;
            } else {
                fits.1 = middle;
            }
        }
        let least = usize::from(!self.is_used).min(wanted);
        let count = fits.0.max(least);
        if count > 0 {
            self.is_used = true;
            self.left_s = Some((left_s - self.cost_s(position, count)).max(0.0));
        }
        count
    }

    fn cost_s(&self, position: usize, count: usize) -> f64 {
        self.token_s * real(count) + self.position_s * positions_read(position, count)
    }
}

// === impl Work ===

impl Work {
    /// Adds `count` tokens of one sequence, the first at `position`.
    pub(crate) fn add(&mut self, position: usize, count: usize) {
        let read = positions_read(position, count);
        if count == 1 {
            self.decode_count += 1.0;
            self.decode_context += read;
        } else {
            self.prompt_count += real(count);
            self.prompt_context += read;
        }
    }

    pub(crate) fn of_step(sequences: &[StepSequence]) -> Self {
        let mut work = Self::default();
        for sequence in sequences {
            work.add(sequence.first_position, sequence.tokens.len());
        }
        work
    }

    fn of_decodes(&self) -> [f64; 3] {
        [1.0, self.decode_count, self.decode_context]
    }

    fn of_prompts(&self) -> [f64; 2] {
        [self.prompt_count, self.prompt_context]
    }
}

/// By `count` tokens from `position` on, each of which reads itself and all before.
fn positions_read(position: usize, count: usize) -> f64 {
    let count = real(count);
    count * real(position) + count * (count + 1.0) / 2.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "token counts are far below 2^52"
)]
fn real(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
