//! The kernels' own instructions, with operands that stay where they are.
#![allow(
    unsafe_code,
    reason = "vector instructions for what the CPU was found to have"
)]

use std::hint::black_box;

use crate::matrix::Form;
use crate::product::lanes::{CodeLanes, PairLanes, Vector};
use crate::product::{avx2, avx512};
use crate::tier::Tier;

/// Vectors of codes or pairs of weights.
const WIDE: usize = 4;
/// Rows of sums: with `WIDE` enough that no addition waits for the one before.
const ROWS: usize = 3;

/// Operations that were done in `rounds` of a tile.
///
/// # Safety
/// The CPU has the tier.
pub(super) unsafe fn rounds(tier: Tier, form: Form, rounds: u64) -> u64 {
    let bf16 = form == Form::Bf16;
    // SAFETY: as the caller promises.
    unsafe {
        match tier {
            Tier::Avx512Bf16 if bf16 => with_dot(rounds),
            Tier::Avx512Vnni | Tier::Avx512 if bf16 => with_fused_512(rounds),
            Tier::Avx2 if bf16 => with_fused_256(rounds),
            Tier::Avx512Bf16 | Tier::Avx512Vnni => with_vnni(rounds),
            Tier::Avx512 => with_pairwise_512(rounds),
            Tier::Avx2 => with_pairwise_256(rounds),
            Tier::Portable => 0,
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn with_dot(rounds: u64) -> u64 {
    // SAFETY: the instructions are there and enabled.
    unsafe { pairs::<avx512::Dot>(rounds) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn with_fused_512(rounds: u64) -> u64 {
    // SAFETY: the instructions are there and enabled.
    unsafe { pairs::<avx512::Fused>(rounds) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn with_fused_256(rounds: u64) -> u64 {
    // SAFETY: the instructions are there and enabled.
    unsafe { pairs::<avx2::Fused>(rounds) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn with_vnni(rounds: u64) -> u64 {
    // SAFETY: the instructions are there and enabled.
    unsafe { codes::<avx512::Vnni>(rounds) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn with_pairwise_512(rounds: u64) -> u64 {
    // SAFETY: the instructions are there and enabled.
    unsafe { codes::<avx512::Pairwise>(rounds) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn with_pairwise_256(rounds: u64) -> u64 {
    // SAFETY: the instructions are there and enabled.
    unsafe { codes::<avx2::Pairwise>(rounds) }
}

/// # Safety
/// The CPU has the instructions of `L`, and the caller enables them.
#[inline(always)]
unsafe fn pairs<L: PairLanes>(rounds: u64) -> u64 {
    let (weights, x) = ([0_u32; 16], [0_u32; 4]);
    // SAFETY: a vector has at most sixteen pairs; two activations are at most eight bytes; the
    // instructions are there as the caller promises.
    unsafe {
        let weights = L::weights(black_box(weights.as_ptr()));
        let pair = L::pair(black_box(x.as_ptr()).cast());
        let mut sums = [L::Vector::zero(); ROWS * WIDE];
        for _ in 0..rounds {
            for sums in &mut sums {
                *sums = L::add(*sums, weights, pair);
            }
        }
        black_box(sums);
    }
    // Two multiplications and two additions in each lane.
    rounds * (ROWS * WIDE * L::Vector::LANES * 4) as u64
}

/// # Safety
/// As [`pairs`].
#[inline(always)]
unsafe fn codes<L: CodeLanes>(rounds: u64) -> u64 {
    let (codes, x) = ([0_u8; 64 * WIDE], [0_i8; 4 * ROWS]);
    // SAFETY: a vector has at most 64 codes, and a row's part is four; the instructions are there as
    // the caller promises.
    unsafe {
        let mut vectors = [L::bytes(black_box(codes.as_ptr())); WIDE];
        for (index, vector) in vectors.iter_mut().enumerate() {
            *vector = L::bytes(black_box(codes.as_ptr()).add(index * 64));
        }
        let mut dots = [[L::Vector::all(0); WIDE]; ROWS];
        for _ in 0..rounds {
            // Read anew, so that no product is known from the round before.
            let x = black_box(x.as_ptr());
            for (row, dots) in dots.iter_mut().enumerate() {
                let quad = L::Vector::quad(x.add(row * 4));
                for (dots, codes) in dots.iter_mut().zip(vectors) {
                    *dots = L::add(*dots, codes, quad);
                }
            }
        }
        black_box(dots);
    }
    // Four multiplications and four additions in each lane.
    rounds * (ROWS * WIDE * L::Vector::LANES * 8) as u64
}
