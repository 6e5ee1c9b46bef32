//! A draw from what temperature, min-p, top-k and top-p leave.

use super::{Sampling, likely::best, random};

/// Draws by inversion: the kept tokens in order of id share the unit interval by probability.
pub(super) fn draw(logits: &[f32], sampling: &Sampling, counter: u64) -> usize {
    let greatest = f64::from(logits[best(logits)]);
    if !greatest.is_finite() {
        return best(logits);
    }
    let temperature = f64::from(sampling.temperature);
    let weight = |logit: f32| ((f64::from(logit) - greatest) / temperature).exp();
    let floor = floor_of(logits, sampling, &weight);
    let kept = || {
        logits
            .iter()
            .enumerate()
            .filter(|(_, logit)| **logit >= floor)
    };
    let total: f64 = kept().map(|(_, logit)| weight(*logit)).sum();
    let target = random::uniform(sampling.seed, counter) * total;
    let mut reached = 0.0;
    for (index, logit) in kept() {
        reached += weight(*logit);
        if reached > target {
            return index;
        }
    }
    // Only rounding leads here.
    best(logits)
}

/// The least logit that min-p, top-k and top-p keep; tokens as good as the last one kept stay too.
fn floor_of(logits: &[f32], sampling: &Sampling, weight: &impl Fn(f32) -> f64) -> f32 {
    let top_k = sampling.top_k as usize;
    let all = top_k == 0 || top_k >= logits.len();
    // The best token weighs 1. Masked tokens weigh nothing and must not be drawn by rounding.
    let min_p = f64::from(sampling.min_p);
    let likely = |logit: f32| logit >= f32::MIN && weight(logit) >= min_p;
    if all && sampling.top_p >= 1.0 && min_p <= 0.0 {
        return f32::MIN;
    }
    let mut sorted: Vec<f32> = logits.iter().copied().filter(|it| likely(*it)).collect();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    if !all && top_k < sorted.len() {
        let last = sorted[top_k - 1];
        sorted.truncate(sorted.partition_point(|logit| *logit >= last));
    }
    nucleus_floor(&sorted, f64::from(sampling.top_p), weight).max(f32::MIN)
}

/// `sorted` is descending and not empty.
fn nucleus_floor(sorted: &[f32], top_p: f64, weight: &impl Fn(f32) -> f64) -> f32 {
    let last = sorted[sorted.len() - 1];
    if top_p >= 1.0 {
        return last;
    }
    let total: f64 = sorted.iter().map(|logit| weight(*logit)).sum();
    let mut reached = 0.0;
    for logit in sorted {
        reached += weight(*logit);
        if reached >= top_p * total {
            return *logit;
        }
    }
    last
}
