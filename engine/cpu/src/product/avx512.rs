//! Kernels of AVX-512: sixteen outputs in a vector.
#![allow(
    unsafe_code,
    reason = "vector instructions and the addresses that they read"
)]

use std::arch::x86_64::*;
use std::mem;

use super::Task;
use super::activations::Filled;
use super::codes::compute_codes;
use super::lanes::{CodeLanes, PairLanes, Vector};
use super::pairs::Pairs;
use super::tiles::compute;

/// Sixteen sums.
pub(crate) struct Sixteen;

/// VDPBF16PS: two products of bf16 are added by one instruction, the odd one first.
pub(crate) struct Dot;

/// f32 arithmetic on bf16 values.
pub(crate) struct Fused;

/// VPDPBUSD: four products of bytes are added by one instruction.
pub(crate) struct Vnni;

/// Products of bytes in pairs, which are added up in two steps.
pub(crate) struct Pairwise;

/// # Safety
/// The CPU has AVX-512 F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn bf16_dot(task: &Task<'_>) {
    // SAFETY: the instructions are there and enabled.
    unsafe { compute::<Pairs<Dot>>(task) }
}

/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn bf16_fused(task: &Task<'_>) {
    // SAFETY: the instructions are there and enabled.
    unsafe { compute::<Pairs<Fused>>(task) }
}

/// # Safety
/// The CPU has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn codes_vnni(task: &Task<'_>) {
    // SAFETY: the instructions are there and enabled.
    unsafe { compute_codes::<Vnni>(task) }
}

/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn codes_pairwise(task: &Task<'_>) {
    // SAFETY: the instructions are there and enabled.
    unsafe { compute_codes::<Pairwise>(task) }
}

// === impl Sixteen ===

impl Vector for Sixteen {
    type Sums = __m512;
    type Integers = __m512i;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: &[f32]) -> __m512 {
        // SAFETY: lanes that the mask leaves out are not read.
        unsafe { _mm512_maskz_loadu_ps(first_lanes(from.len()), from.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store(sums: __m512, into: &mut [f32]) {
        // SAFETY: lanes that the mask leaves out are not written.
        unsafe { _mm512_mask_storeu_ps(into.as_mut_ptr(), first_lanes(into.len()), sums) }
    }

    #[inline(always)]
    unsafe fn all(value: i32) -> __m512i {
        // SAFETY: as the caller promises.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn widen(halves: *const u8) -> __m512 {
        // SAFETY: sixteen halves can be read there, as the caller promises.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(halves.cast())) }
    }

    #[inline(always)]
    unsafe fn add_scaled(sums: __m512, dots: __m512i, scale: f32, scales: __m512) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe {
            let scales = _mm512_mul_ps(scales, _mm512_set1_ps(scale));
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scales, sums)
        }
    }

    #[inline(always)]
    unsafe fn add_minimums(sums: __m512, minimums: __m512, factor: f32) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { _mm512_fmadd_ps(minimums, _mm512_set1_ps(factor), sums) }
    }
}

/// As many as there are numbers, at most all.
#[inline(always)]
fn first_lanes(count: usize) -> __mmask16 {
    if count < 16 {
        (1 << count) - 1
    } else {
        __mmask16::MAX
    }
}

// === impl Dot ===

impl PairLanes for Dot {
    type Vector = Sixteen;
    type Weights = __m512bh;
    type Pair = __m512bh;
    type Stored = u16;
    const TILES: &'static [usize] = &[4; 6];

    #[inline(always)]
    fn stored<'a>(x: &Filled<'a>) -> &'a [u16] {
        x.rounded
    }

    #[inline(always)]
    unsafe fn weights(weights: *const u32) -> __m512bh {
        // SAFETY: sixteen pairs can be read there; both types are 64 bytes of any value.
        unsafe { mem::transmute(_mm512_loadu_si512(weights.cast())) }
    }

    #[inline(always)]
    unsafe fn pair(x: *const u16) -> __m512bh {
        // SAFETY: two values can be read there; both types are 64 bytes of any value.
        unsafe { mem::transmute(_mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn add(sums: __m512, weights: __m512bh, pair: __m512bh) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { _mm512_dpbf16_ps(sums, weights, pair) }
    }
}

// === impl Fused ===

impl PairLanes for Fused {
    type Vector = Sixteen;
    /// The odd ones, then the even ones.
    type Weights = [__m512; 2];
    type Pair = [__m512; 2];
    type Stored = f32;
    const TILES: &'static [usize] = &[4; 4];

    #[inline(always)]
    fn stored<'a>(x: &Filled<'a>) -> &'a [f32] {
        x.values
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
}

// === impl Vnni ===

impl CodeLanes for Vnni {
    type Vector = Sixteen;
    type Codes = __m512i;
    const TILES: &'static [usize] = &[4, 4, 2, 2, 2, 2];
    /// The instruction multiplies bytes without a sign by bytes with one.
    const BYTES_KEEP_OFFSET: bool = true;

    #[inline(always)]
    unsafe fn bytes(codes: *const u8) -> __m512i {
        // SAFETY: 64 codes can be read there, as the caller promises.
        unsafe { _mm512_loadu_si512(codes.cast()) }
    }

    #[inline(always)]
    unsafe fn halves(codes: *const u8) -> [__m512i; 2] {
        // SAFETY: 64 bytes can be read there, as the caller promises.
        unsafe { halves(codes) }
    }

    #[inline(always)]
    unsafe fn add(dots: __m512i, codes: __m512i, quad: __m512i) -> __m512i {
        // SAFETY: as the caller promises.
        unsafe { _mm512_dpbusd_epi32(dots, codes, quad) }
    }
}

// === impl Pairwise ===

impl CodeLanes for Pairwise {
    type Vector = Sixteen;
    /// Magnitudes, and which are negative.
    type Codes = (__m512i, __mmask64);
    const TILES: &'static [usize] = &[4, 2];
    /// 16 bits hold the sum of two products of a magnitude of at most 128 by one of at most 127.
    const BYTES_KEEP_OFFSET: bool = false;

    #[inline(always)]
    unsafe fn bytes(codes: *const u8) -> (__m512i, __mmask64) {
        // SAFETY: 64 codes can be read there, as the caller promises.
        unsafe {
            let stored = _mm512_loadu_si512(codes.cast());
            let codes = _mm512_xor_si512(stored, _mm512_set1_epi8(-128));
            (_mm512_abs_epi8(codes), _mm512_movepi8_mask(codes))
        }
    }

    #[inline(always)]
    unsafe fn halves(codes: *const u8) -> [(__m512i, __mmask64); 2] {
        // SAFETY: 64 bytes can be read there, as the caller promises.
        unsafe { halves(codes).map(|codes| (codes, 0)) }
    }

    #[inline(always)]
    unsafe fn add(dots: __m512i, codes: (__m512i, __mmask64), quad: __m512i) -> __m512i {
        // SAFETY: as the caller promises.
        unsafe {
            let signed = _mm512_mask_sub_epi8(quad, codes.1, _mm512_setzero_si512(), quad);
            let twos = _mm512_maddubs_epi16(codes.0, signed);
            _mm512_add_epi32(dots, _mm512_madd_epi16(twos, _mm512_set1_epi16(1)))
        }
    }
}

/// # Safety
/// The CPU has AVX-512 F, and `codes` points to 64 bytes.
#[inline(always)]
unsafe fn halves(codes: *const u8) -> [__m512i; 2] {
    // SAFETY: as the caller promises.
    unsafe {
        let bytes = _mm512_loadu_si512(codes.cast());
        let low = _mm512_set1_epi8(0x0f);
        let shifted = _mm512_srli_epi16::<4>(bytes);
        [_mm512_and_si512(bytes, low), _mm512_and_si512(shifted, low)]
    }
}
