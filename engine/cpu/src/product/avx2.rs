//! Kernels of AVX2 with FMA and F16C: eight outputs in a vector.
#![allow(
    unsafe_code,
    reason = "vector instructions and the addresses that they read"
)]

use std::arch::x86_64::*;

use super::Task;
use super::activations::Filled;
use super::codes::compute_codes;
use super::lanes::{CodeLanes, PairLanes, Vector};
use super::pairs::Pairs;
use super::tiles::compute;

const LANES: usize = 8;

/// Eight sums.
pub(crate) struct Eight;

/// f32 arithmetic on bf16 values.
pub(crate) struct Fused;

/// Products of bytes in pairs, which are added up in two steps.
pub(crate) struct Pairwise;

/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn bf16(task: &Task<'_>) {
    // SAFETY: the instructions are there and enabled.
    unsafe { compute::<Pairs<Fused>>(task) }
}

/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn codes(task: &Task<'_>) {
    // SAFETY: the instructions are there and enabled.
    unsafe { compute_codes::<Pairwise>(task) }
}

// === impl Eight ===

impl Vector for Eight {
    type Sums = __m256;
    type Integers = __m256i;
    const LANES: usize = LANES;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: as the caller promises.
        unsafe { _mm256_setzero_ps() }
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

    #[inline(always)]
    unsafe fn all(value: i32) -> __m256i {
        // SAFETY: as the caller promises.
        unsafe { _mm256_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn widen(halves: *const u8) -> __m256 {
        // SAFETY: eight halves can be read there, as the caller promises.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(halves.cast())) }
    }

    #[inline(always)]
    unsafe fn add_scaled(sums: __m256, dots: __m256i, scale: f32, scales: __m256) -> __m256 {
        // SAFETY: as the caller promises.
        unsafe {
            let scales = _mm256_mul_ps(scales, _mm256_set1_ps(scale));
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scales, sums)
        }
    }

    #[inline(always)]
    unsafe fn add_minimums(sums: __m256, minimums: __m256, factor: f32) -> __m256 {
        // SAFETY: as the caller promises.
        unsafe { _mm256_fmadd_ps(minimums, _mm256_set1_ps(factor), sums) }
    }
}

// === impl Fused ===

impl PairLanes for Fused {
    type Vector = Eight;
    /// The odd ones, then the even ones.
    type Weights = [__m256; 2];
    type Pair = [__m256; 2];
    type Stored = f32;
    const TILES: &'static [usize] = &[8, 4, 2, 2];

    #[inline(always)]
    fn stored<'a>(x: &Filled<'a>) -> &'a [f32] {
        x.values
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
}

// === impl Pairwise ===

impl CodeLanes for Pairwise {
    type Vector = Eight;
    /// With their signs.
    type Codes = __m256i;
    const TILES: &'static [usize] = &[4, 2];
    /// 16 bits hold the sum of two products of a magnitude of at most 128 by one of at most 127.
    const BYTES_KEEP_OFFSET: bool = false;

    #[inline(always)]
    unsafe fn bytes(codes: *const u8) -> __m256i {
        // SAFETY: 32 codes can be read there, as the caller promises.
        unsafe {
            let stored = _mm256_loadu_si256(codes.cast());
            _mm256_xor_si256(stored, _mm256_set1_epi8(-128))
        }
    }

    #[inline(always)]
    unsafe fn halves(codes: *const u8) -> [__m256i; 2] {
        // SAFETY: 32 bytes can be read there, as the caller promises.
        unsafe {
            let bytes = _mm256_loadu_si256(codes.cast());
            let low = _mm256_set1_epi8(0x0f);
            let shifted = _mm256_srli_epi16::<4>(bytes);
            [_mm256_and_si256(bytes, low), _mm256_and_si256(shifted, low)]
        }
    }

    #[inline(always)]
    unsafe fn add(dots: __m256i, codes: __m256i, quad: __m256i) -> __m256i {
        // SAFETY: as the caller promises.
        unsafe {
            let magnitudes = _mm256_abs_epi8(codes);
            let twos = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(quad, codes));
            _mm256_add_epi32(dots, _mm256_madd_epi16(twos, _mm256_set1_epi16(1)))
        }
    }
}
