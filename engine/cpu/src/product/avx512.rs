//! Kernels of AVX-512: sixteen outputs in a vector.
#![allow(
    unsafe_code,
    reason = "vector instructions and the addresses that they read"
)]

use std::arch::x86_64::*;

use super::activations::Filled;
use super::lanes::PairLanes;
use super::{Task, pairs};

/// VDPBF16PS: two products of bf16 are added by one instruction, the odd one first.
struct Dot;

/// f32 arithmetic on bf16 values.
struct Fused;

/// # Safety
/// The CPU has AVX-512 F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn bf16_dot(task: &Task<'_>) {
    // SAFETY: the instructions are there and enabled.
    unsafe { pairs::compute::<Dot>(task) }
}

/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn bf16_fused(task: &Task<'_>) {
    // SAFETY: the instructions are there and enabled.
    unsafe { pairs::compute::<Fused>(task) }
}

// === impl Dot ===

impl PairLanes for Dot {
    type Sums = __m512;
    type Weights = __m512bh;
    type Pair = __m512bh;
    type Stored = u16;
    const LANES: usize = 16;
    const TILES: &'static [usize] = &[4; 6];

    #[inline(always)]
    fn stored<'a>(x: &Filled<'a>) -> &'a [u16] {
        x.rounded
    }

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn weights(weights: *const u32) -> __m512bh {
        // SAFETY: sixteen pairs can be read there, as the caller promises.
        unsafe { as_pairs(_mm512_loadu_si512(weights.cast())) }
    }

    #[inline(always)]
    unsafe fn pair(x: *const u16) -> __m512bh {
        // SAFETY: two values can be read there, as the caller promises.
        unsafe { as_pairs(_mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn add(sums: __m512, weights: __m512bh, pair: __m512bh) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { _mm512_dpbf16_ps(sums, weights, pair) }
    }

    #[inline(always)]
    unsafe fn load(from: &[f32]) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { load(from) }
    }

    #[inline(always)]
    unsafe fn store(sums: __m512, into: &mut [f32]) {
        // SAFETY: as the caller promises.
        unsafe { store(sums, into) }
    }
}

// === impl Fused ===

impl PairLanes for Fused {
    type Sums = __m512;
    /// The odd ones, then the even ones.
    type Weights = [__m512; 2];
    type Pair = [__m512; 2];
    type Stored = f32;
    const LANES: usize = 16;
    const TILES: &'static [usize] = &[4; 4];

    #[inline(always)]
    fn stored<'a>(x: &Filled<'a>) -> &'a [f32] {
        x.values
    }

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn weights(weights: *const u32) -> [__m512; 2] {
        // SAFETY: sixteen pairs can be read there, as the caller promises.
        unsafe {
            let pairs = _mm512_loadu_si512(weights.cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(-0x1_0000));
            let even = _mm512_slli_epi32::<16>(pairs);
            [_mm512_castsi512_ps(odd), _mm512_castsi512_ps(even)]
        }
    }

    #[inline(always)]
    unsafe fn pair(x: *const f32) -> [__m512; 2] {
        // SAFETY: two values can be read there, as the caller promises.
        unsafe { [_mm512_set1_ps(*x.add(1)), _mm512_set1_ps(*x)] }
    }

    #[inline(always)]
    unsafe fn add(sums: __m512, weights: [__m512; 2], pair: [__m512; 2]) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe {
            let sums = _mm512_fmadd_ps(weights[0], pair[0], sums);
            _mm512_fmadd_ps(weights[1], pair[1], sums)
        }
    }

    #[inline(always)]
    unsafe fn load(from: &[f32]) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { load(from) }
    }

    #[inline(always)]
    unsafe fn store(sums: __m512, into: &mut [f32]) {
        // SAFETY: as the caller promises.
        unsafe { store(sums, into) }
    }
}

/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn as_pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, and any bits are a value.
    unsafe { std::mem::transmute(bits) }
}

/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn load(from: &[f32]) -> __m512 {
    // SAFETY: lanes that the mask leaves out are not read.
    unsafe { _mm512_maskz_loadu_ps(first_lanes(from.len()), from.as_ptr()) }
}

/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn store(sums: __m512, into: &mut [f32]) {
    // SAFETY: lanes that the mask leaves out are not written.
    unsafe { _mm512_mask_storeu_ps(into.as_mut_ptr(), first_lanes(into.len()), sums) }
}

/// As many as there are numbers, at most all.
#[inline(always)]
fn first_lanes(count: usize) -> __mmask16 {
    if count < 16 {
        (1 << count) - 1
    } else {
        u16::MAX
    }
}
