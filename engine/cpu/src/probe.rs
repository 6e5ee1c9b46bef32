//! What this machine can do at this moment: the most that kernels could reach.
//!
//! Shared hosts drift, so a figure says something only beside one that was taken with it.
#![allow(
    unsafe_code,
    reason = "vector instructions for what the CPU was found to have"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::matrix::Form;
use crate::team::Team;
use crate::tier::Tier;

#[cfg(target_arch = "x86_64")]
mod peak;

/// Streams that a worker reads side by side: some CPUs read one stream at two thirds of the speed.
const STREAMS: usize = 4;
/// Words read between two looks at the clock, from each stream: 64 KiB.
const STRETCH: usize = 8 << 10;
/// Rounds between two looks at the clock.
#[cfg(target_arch = "x86_64")]
const ROUNDS: u64 = 1_000;

/// Operations per second of the instruction that multiplies `form` on `tier`, from registers or
/// the nearest cache, over all workers; a multiplication and an addition are two. `None` for the
/// portable tier, which has no such instruction.
///
/// # Panics
/// When this machine does not have the tier.
#[must_use]
pub fn peak_ops_per_second(
    team: &mut Team,
    tier: Tier,
    form: Form,
    duration: Duration,
) -> Option<f64> {
    assert!(tier.is_here(), "tier {tier} was checked before it is used");
    if tier == Tier::Portable {
        return None;
    }
    let done = AtomicU64::new(0);
    let started = Instant::now();
    team.run_on_each(|_| {
        let mut mine = 0;
        while started.elapsed() < duration {
            mine += rounds(tier, form);
        }
        done.fetch_add(mine, Ordering::Relaxed);
    });
    Some(per_second(done.into_inner(), started.elapsed()))
}

#[cfg(target_arch = "x86_64")]
fn rounds(tier: Tier, form: Form) -> u64 {
    // SAFETY: the caller found the tier here.
    unsafe { peak::rounds(tier, form, ROUNDS) }
}

#[cfg(not(target_arch = "x86_64"))]
fn rounds(_: Tier, _: Form) -> u64 {
    0
}

/// Bytes per second that all workers together read from `buffer`, each its share from start to end
/// again and again. It should be several times as large as the caches.
///
/// # Panics
/// When `buffer` is smaller than 256 KiB for each worker.
#[must_use]
pub fn read_bytes_per_second(
    team: &mut Team,
    tier: Tier,
    buffer: &[u64],
    duration: Duration,
) -> f64 {
    let done = AtomicU64::new(0);
    let started = Instant::now();
    team.run_on_each(|worker| {
        let mine = &buffer[worker.share(buffer.len())];
        let stream_len = mine.len() / STREAMS / STRETCH * STRETCH;
        assert!(stream_len > 0, "a buffer of 256 KiB for each worker");
        let (mut words, mut at) = (0, 0);
        while started.elapsed() < duration {
            black_box(tier.run(|| sum_stretch(mine, stream_len, at)));
            words += STREAMS * STRETCH;
            at = (at + STRETCH) % stream_len;
        }
        done.fetch_add(words as u64 * 8, Ordering::Relaxed);
    });
    per_second(done.into_inner(), started.elapsed())
}

/// The same stretch of each stream.
#[inline(always)]
fn sum_stretch(words: &[u64], stream_len: usize, at: usize) -> u64 {
    let stretch = |stream: usize| &words[stream * stream_len + at..][..STRETCH];
    let (a, b) = (stretch(0), stretch(1));
    let (c, d) = (stretch(2), stretch(3));
    let mut sum = 0_u64;
    for index in 0..STRETCH {
        let two = a[index].wrapping_add(b[index]);
        sum = sum.wrapping_add(two ^ c[index].wrapping_add(d[index]));
    }
    sum
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a figure for people: 52 bits are plenty"
)]
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(2);
    const FORMS: [Form; 4] = [Form::Bf16, Form::Int8, Form::Int4, Form::Int4Min];

    #[test]
    fn every_tier_but_the_portable_one_has_a_peak_for_every_form() {
        let mut team = Team::new(Some(2)).expect("threads");
        for tier in Tier::here() {
            for form in FORMS {
                let peak = peak_ops_per_second(&mut team, tier, form, MOMENT);
                assert_eq!(peak.is_some(), tier != Tier::Portable);
                assert!(peak.is_none_or(|peak| peak > 0.0));
            }
        }
    }

    #[test]
    fn memory_is_read() {
        let mut team = Team::new(Some(2)).expect("threads");
        let buffer = vec![1; STREAMS * STRETCH * 5];
        for tier in Tier::here() {
            assert!(read_bytes_per_second(&mut team, tier, &buffer, MOMENT) > 0.0);
        }
    }
}
