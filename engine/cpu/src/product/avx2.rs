//! Kernels of AVX2 with FMA: eight outputs in a vector.
#![allow(
    unsafe_code,
    reason = "vector instructions and the addresses that they read"
)]

use std::arch::x86_64::*;

use super::activations::Filled;
use super::lanes::PairLanes;
use super::{Task, pairs};

/// f32 arithmetic on bf16 values.
struct Fused;

const LANES: usize = 8;

/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn bf16(task: &Task<'_>) {
    // SAFETY: the instructions are there and enabled.
    unsafe { pairs::compute::<Fused>(task) }
}

// === impl Fused ===

impl PairLanes for Fused {
    type Sums = __m256;
    /// The odd ones, then the even ones.
    type Weights = [__m256; 2];
    type Pair = [__m256; 2];
    type Stored = f32;
    const LANES: usize = LANES;
    const TILES: &'static [usize] = &[8, 4, 2, 2];

    #[inline(always)]
    fn stored<'a>(x: &Filled<'a>) -> &'a [f32] {
        x.values
    }

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: as the caller promises.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn weights(weights: *const u32) -> [__m256; 2] {
        // SAFETY: eight pairs can be read there, as the caller promises.
        unsafe {
            let pairs = _mm256_loadu_si256(weights.cast());
            let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(-0x1_0000));
            let even = _mm256_slli_epi32::<16>(pairs);
            [_mm256_castsi256_ps(odd), _mm256_castsi256_ps(even)]
        }
    }

    #[inline(always)]
    unsafe fn pair(x: *const f32) -> [__m256; 2] {
        // SAFETY: two values can be read there, as the caller promises.
        unsafe { [_mm256_set1_ps(*x.add(1)), _mm256_set1_ps(*x)] }
    }

    #[inline(always)]
    unsafe fn add(sums: __m256, weights: [__m256; 2], pair: [__m256; 2]) -> __m256 {
        // SAFETY: as the caller promises.
        unsafe {
            let sums = _mm256_fmadd_ps(weights[0], pair[0], sums);
            _mm256_fmadd_ps(weights[1], pair[1], sums)
        }
    }

    #[inline(always)]
    unsafe fn load(from: &[f32]) -> __m256 {
        let mut lanes = [0.0; LANES];
        let len = LANES.min(from.len());
        lanes[..len].copy_from_slice(&from[..len]);
        // SAFETY: eight lanes can be read there.
        unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store(sums: __m256, into: &mut [f32]) {
        let mut lanes = [0.0; LANES];
        // SAFETY: eight lanes can be written there.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums) };
        let len = LANES.min(into.len());
        into[..len].copy_from_slice(&lanes[..len]);
    }
}
