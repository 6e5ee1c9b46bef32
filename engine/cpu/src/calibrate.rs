//! Which of the kernels that give the same bits are fastest here, tried on the model's own weights.
//!
//! Some CPUs have VDPBF16PS at half the speed of f32 arithmetic, caches differ, and one machine
//! wants weights fetched ahead where the next has hardware that does it better.

use std::time::{Duration, Instant};

use crate::matrix::{Form, Matrix};
use crate::product::{Kernels, Products, Tuning};
use crate::team::Team;
use crate::tier::Tier;

/// Weights that are read in one trial: more than most caches hold, and 2 ms of reading.
const TRIAL_BYTES: usize = 64 << 20;
/// Of each candidate, in turns; the best counts, since whatever disturbs makes it slower.
const TRIALS: usize = 3;
/// After that nothing further is tried: on a busy machine a trial says little anyway.
const TIME_MAX: Duration = Duration::from_millis(150);
/// What is better by less than this is taken for noise.
const GAIN_MIN: f64 = 0.03;
/// Where weights are read once, and where arithmetic begins to count.
const ROWS: [usize; 2] = [1, 16];
const CHUNK_BYTES: [usize; 2] = [512 << 10, 1 << 20];
const AHEAD_BYTES: [usize; 2] = [2 << 10, 8 << 10];

/// Tries what [`Kernels`] leaves open with products of 1 and 16 rows on `matrices`, as far as there
/// are up to 64 MiB of them. Takes some 50 ms, on a busy machine 150 ms and one trial; what it
/// says depends on the moment, and no bit of a result on what it says. The portable tier leaves
/// nothing open.
///
/// # Panics
/// When this machine does not have the tier.
#[must_use]
pub fn calibrate(team: &mut Team, tier: Tier, matrices: &[&Matrix]) -> Kernels {
    let mut kernels = Kernels::of(tier);
    if tier == Tier::Portable {
        return kernels;
    }
    let deadline = Instant::now() + TIME_MAX;
    let mut best = |matrices: &[&Matrix], rows, candidates: &[Kernels]| {
        best(team, matrices, rows, candidates, deadline)
    };
    let matrices = first_bytes(matrices, TRIAL_BYTES);
    let bf16: Vec<&Matrix> = matrices
        .iter()
        .copied()
        .filter(|matrix| matrix.form() == Form::Bf16)
        .collect();
    if tier == Tier::Avx512Bf16 && !bf16.is_empty() {
        let fused = Kernels {
            bf16: Tier::Avx512Vnni,
            ..kernels
        };
        kernels = best(&bf16, ROWS[1], &[kernels, fused]);
    }
    let tuned = |tuning| Kernels { tuning, ..kernels };
    let ahead = AHEAD_BYTES.map(|ahead_bytes| Tuning {
        ahead_bytes,
        ..kernels.tuning
    });
    let candidates = [kernels, tuned(ahead[0]), tuned(ahead[1])];
    kernels = best(&matrices, ROWS[0], &candidates);
    let tuned = |chunk_bytes| Kernels {
        tuning: Tuning {
            chunk_bytes,
            ..kernels.tuning
        },
        ..kernels
    };
    let candidates = [kernels, tuned(CHUNK_BYTES[0]), tuned(CHUNK_BYTES[1])];
    best(&matrices, ROWS[1], &candidates)
}

/// The first that together have at least so many bytes, or all.
fn first_bytes<'a>(matrices: &[&'a Matrix], bytes: usize) -> Vec<&'a Matrix> {
    let mut left = bytes;
    let mut taken = vec![];
    for matrix in matrices {
        if left == 0 {
            break;
        }
        left = left.saturating_sub(matrix.bytes());
        taken.push(*matrix);
    }
    taken
}

/// The fastest; the first, unless another is clearly faster.
fn best(
    team: &mut Team,
    matrices: &[&Matrix],
    rows: usize,
    candidates: &[Kernels],
    deadline: Instant,
) -> Kernels {
    let mut times = vec![Duration::MAX; candidates.len()];
    for _ in 0..TRIALS {
        if Instant::now() > deadline {
            break;
        }
        for (candidate, time) in candidates.iter().zip(&mut times) {
            *time = (*time).min(trial(team, matrices, rows, *candidate));
        }
    }
    let mut best = 0;
    for (index, time) in times.iter().enumerate().skip(1) {
        let is_clear = time.as_secs_f64() < times[best].as_secs_f64() * (1.0 - GAIN_MIN);
        if *time < Duration::MAX && is_clear {
            best = index;
        }
    }
    candidates[best]
}

fn trial(team: &mut Team, matrices: &[&Matrix], rows: usize, kernels: Kernels) -> Duration {
    let longest = |size: fn(&Matrix) -> usize| matrices.iter().map(|matrix| size(matrix)).max();
    let x = vec![0.5; rows * longest(Matrix::inputs).unwrap_or(0)];
    let mut out = vec![0.0; rows * longest(Matrix::outputs).unwrap_or(0)];
    let mut products = Products::with(kernels);
    let started = Instant::now();
    for matrix in matrices {
        let x = &x[..rows * matrix.inputs()];
        products.product(team, matrix, x, &mut out[..rows * matrix.outputs()]);
    }
    started.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn whatever_is_chosen_exists_here_and_gives_the_same_bits() {
        let mut team = Team::new(Some(2)).expect("threads");
        for form in [Form::Bf16, Form::Int8, Form::Int4Min] {
            let value = |index: usize| f32::from(u8::try_from(index % 13).expect("small"));
            let row = |output: usize| (0..64).map(move |input| value(output * 7 + input));
            let matrix = Matrix::pack(form, (100, 64), &mut team, &|output, into| {
                into.write_f32(&row(output).collect::<Vec<_>>())
            });
            let matrix = matrix.expect("packed");
            for tier in Tier::here() {
                let kernels = calibrate(&mut team, tier, &[&matrix, &matrix]);
                assert!(kernels.bf16.is_here() && kernels.codes == tier);
                let x: Vec<f32> = row(3).collect();
                let mut results = [Kernels::of(Tier::Portable), kernels].map(|kernels| {
                    let mut out = vec![0.0; 100];
                    Products::with(kernels).product(&mut team, &matrix, &x, &mut out);
                    out
                });
                let [expected, got] = &mut results;
                assert_eq!(got, expected, "{kernels}");
            }
        }
    }

    #[test]
    fn no_weights_leave_the_kernels_as_they_are() {
        let mut team = Team::new(Some(1)).expect("threads");
        let tier = Tier::best();
        let kernels = calibrate(&mut team, tier, &[]);
        assert_eq!(kernels.codes, Kernels::of(tier).codes);
    }
}
