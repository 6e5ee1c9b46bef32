//! Sixteen f32 in one AVX-512 register, or in two of AVX2.
//!
//! The methods are safe to call only where the instructions exist. Nobody outside this file can
//! make these types run elsewhere: they are reached through `compute_*`, which check that first.
#![allow(
    unsafe_code,
    reason = "instructions that were found at run time must be called by promise"
)]

use std::arch::x86_64::{
    __m256, __m512, _CMP_LT_OQ, _mm256_add_epi32, _mm256_add_ps, _mm256_andnot_ps,
    _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_div_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_sub_ps, _mm512_add_epi32,
    _mm512_add_ps, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_div_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_blend_ps, _mm512_max_ps, _mm512_min_ps,
    _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
    _mm512_storeu_ps, _mm512_sub_ps,
};

use super::{Kernel, Lanes, WIDTH};

const HALF: usize = WIDTH / 2;
const BIAS: i32 = 127 << 23;

/// One register of AVX-512.
#[derive(Clone, Copy)]
struct Avx512(__m512);

/// Two registers of AVX2.
#[derive(Clone, Copy)]
struct Avx2(__m256, __m256);

pub(super) fn compute_avx512<K: Kernel>(kernel: K) -> K::Out {
    assert!(
        is_x86_feature_detected!("avx512f"),
        "the tier needs AVX-512"
    );
    // SAFETY: the machine has the instructions, as was just checked.
    unsafe { run_avx512(kernel) }
}

pub(super) fn compute_avx2<K: Kernel>(kernel: K) -> K::Out {
    let is_there = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    assert!(is_there, "the tier needs AVX2 and FMA");
    // SAFETY: the machine has the instructions, as was just checked.
    unsafe { run_avx2(kernel) }
}

#[target_feature(enable = "avx512f,avx2,fma")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Out {
    kernel.run::<Avx512>()
}

#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
    kernel.run::<Avx2>()
}

// === impl Avx512 ===

impl Lanes for Avx512 {
    const QUERIES_AT_ONCE: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: only reached from `run_avx512`.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn load(from: &[f32; WIDTH]) -> Self {
        // SAFETY: only reached from `run_avx512`; sixteen f32 may be read there.
        Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; WIDTH]) {
        // SAFETY: only reached from `run_avx512`; sixteen f32 may be written there.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        // SAFETY: only reached from `run_avx512`.
        Self(unsafe { _mm512_fmadd_ps(self.0, by.0, plus.0) })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: only reached from `run_avx512`.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: only reached from `run_avx512`.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: only reached from `run_avx512`.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        // SAFETY: only reached from `run_avx512`.
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: only reached from `run_avx512`.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: only reached from `run_avx512`.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn exp2_of_low_bits(self) -> Self {
        // SAFETY: only reached from `run_avx512`.
        Self(unsafe {
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(self.0));
            _mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(BIAS)))
        })
    }

    #[inline(always)]
    fn zero_where_below(self, x: Self, bound: f32) -> Self {
        // SAFETY: only reached from `run_avx512`.
        Self(unsafe {
            let is_below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x.0, _mm512_set1_ps(bound));
            _mm512_mask_blend_ps(is_below, self.0, _mm512_setzero_ps())
        })
    }
}

// === impl Avx2 ===

impl Avx2 {
    #[inline(always)]
    fn with(self, other: Self, join: impl Fn(__m256, __m256) -> __m256) -> Self {
        Self(join(self.0, other.0), join(self.1, other.1))
    }
}

impl Lanes for Avx2 {
    const QUERIES_AT_ONCE: usize = 2;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: only reached from `run_avx2`.
        let both = unsafe { _mm256_set1_ps(value) };
        Self(both, both)
    }

    #[inline(always)]
    fn load(from: &[f32; WIDTH]) -> Self {
        let (low, high) = from.split_at(HALF);
        // SAFETY: only reached from `run_avx2`; eight f32 may be read from each half.
        unsafe {
            Self(
                _mm256_loadu_ps(low.as_ptr()),
                _mm256_loadu_ps(high.as_ptr()),
            )
        }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; WIDTH]) {
        let (low, high) = to.split_at_mut(HALF);
        // SAFETY: only reached from `run_avx2`; eight f32 may be written to each half.
        unsafe {
            _mm256_storeu_ps(low.as_mut_ptr(), self.0);
            _mm256_storeu_ps(high.as_mut_ptr(), self.1);
        }
    }

    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        // SAFETY: only reached from `run_avx2`.
        unsafe {
            Self(
                _mm256_fmadd_ps(self.0, by.0, plus.0),
                _mm256_fmadd_ps(self.1, by.1, plus.1),
            )
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: only reached from `run_avx2`.
        self.with(other, |a, b| unsafe { _mm256_add_ps(a, b) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: only reached from `run_avx2`.
        self.with(other, |a, b| unsafe { _mm256_sub_ps(a, b) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: only reached from `run_avx2`.
        self.with(other, |a, b| unsafe { _mm256_mul_ps(a, b) })
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        // SAFETY: only reached from `run_avx2`.
        self.with(other, |a, b| unsafe { _mm256_div_ps(a, b) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: only reached from `run_avx2`.
        self.with(other, |a, b| unsafe { _mm256_max_ps(a, b) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: only reached from `run_avx2`.
        self.with(other, |a, b| unsafe { _mm256_min_ps(a, b) })
    }

    #[inline(always)]
    fn exp2_of_low_bits(self) -> Self {
        // SAFETY: only reached from `run_avx2`.
        let of = |half| unsafe {
            let shifted = _mm256_slli_epi32::<23>(_mm256_castps_si256(half));
            _mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(BIAS)))
        };
        Self(of(self.0), of(self.1))
    }

    #[inline(always)]
    fn zero_where_below(self, x: Self, bound: f32) -> Self {
        // SAFETY: only reached from `run_avx2`.
        self.with(x, |value, x| unsafe {
            _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_set1_ps(bound)), value)
        })
    }
}
