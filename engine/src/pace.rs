//! How long a step may take before it is taken as one that hangs.
//!
//! What a step takes depends on model and machine, so it is learnt: a step that runs eight times as
//! long as steps of its size did hangs. Steps of one size differ by less, as long as contexts grow
//! from step to step.

use std::time::Duration;

/// Between a slow step and one that hangs.
const MARGIN: u32 = 8;
/// On a busy machine a thread may wait for its CPU about as long.
const LEAST: Duration = Duration::from_millis(1500);
/// One for each power of two of tokens.
const SIZES: usize = usize::BITS as usize;

/// The slowest steps of late, by size.
#[derive(Debug)]
pub(crate) struct Pace {
    slowest: [Option<Duration>; SIZES],
}

// === impl Pace ===

impl Default for Pace {
    fn default() -> Self {
        Self {
            slowest: [None; SIZES],
        }
    }
}

impl Pace {
    /// A step of so many tokens took that long.
    pub(crate) fn note(&mut self, token_count: usize, took: Duration) {
        let slowest = &mut self.slowest[size(token_count)];
        // One step that was held up is forgotten after some dozens.
        let before = slowest.unwrap_or_default();
        *slowest = Some(took.max(before - before / 16));
    }

    /// How long a step of so many tokens may take; `most` where none like it was seen.
    pub(crate) fn patience(&self, token_count: usize, most: Duration) -> Duration {
        let expected = self.expected(size(token_count));
        expected.map_or(most, |expected| {
            expected.saturating_mul(MARGIN).max(LEAST).min(most)
        })
    }

    /// Of steps of this size, else of smaller ones, token for token, else of larger ones.
    fn expected(&self, size: usize) -> Option<Duration> {
        let smaller = |other: usize| {
            let times = 1_u32.checked_shl(u32::try_from(size - other).ok()?)?;
            Some(self.slowest[other]?.saturating_mul(times))
        };
        (0..=size)
            .rev()
            .find_map(smaller)
            .or_else(|| self.slowest[size..].iter().find_map(|slowest| *slowest))
    }
}

fn size(token_count: usize) -> usize {
    token_count.max(1).ilog2() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(300);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_step_may_take_as_long_as_any() {
        assert_eq!(Pace::default().patience(1, MOST), MOST);
    }

    #[test]
    fn a_step_may_take_some_times_as_long_as_others_of_its_size() {
        let mut pace = Pace::default();
        pace.note(1, Duration::from_millis(20));
        pace.note(512, seconds(2));
        assert_eq!(pace.patience(1, MOST), LEAST);
        assert_eq!(pace.patience(700, MOST), seconds(16));
        // Four times the tokens, four times the time.
        assert_eq!(pace.patience(2048, MOST), seconds(64));
        assert_eq!(pace.patience(1 << 20, MOST), MOST);
    }

    #[test]
    fn a_small_step_may_take_as_long_as_a_larger_one_until_one_is_seen() {
        let mut pace = Pace::default();
        pace.note(512, seconds(2));
        assert_eq!(pace.patience(1, MOST), seconds(16));
        pace.note(1, seconds(1));
        assert_eq!(pace.patience(1, MOST), seconds(8));
    }

    #[test]
    fn a_step_that_was_held_up_is_forgotten() {
        let mut pace = Pace::default();
        pace.note(1, seconds(20));
        for _ in 0..100 {
            pace.note(1, seconds(1));
        }
        assert!(pace.patience(1, MOST) < seconds(9));
    }
}
