//! Activations as a form's kernels read them: converted once for each product, in pieces.
#![allow(unsafe_code, reason = "workers convert pieces of the same buffers")]

use crate::matrix::{BLOCK, Form};
use crate::parts::Parts;
use crate::tier::Tier;

/// Below this a block counts as zero, so that neither its scale nor the inverse of it is denormal
/// or infinite: 2⁻¹¹⁰.
const MAGNITUDE_MIN: f32 = f32::from_bits((127 - 110) << 23);
/// Blocks of 32 that are converted by one worker at least: some tenths of a microsecond.
const PIECE: usize = 32;

const SIGN: u32 = 1 << 31;
const INFINITE: u32 = 0xff << 23;

/// The buffers, which only grow.
#[derive(Debug, Default)]
pub(super) struct Activations {
    rounded: Vec<u16>,
    values: Vec<f32>,
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
    scaled_sums: Vec<f32>,
}

/// The buffers of one product while workers fill them.
#[derive(Debug)]
pub(super) struct Filling<'a> {
    as_what: As,
    tier: Tier,
    rows: usize,
    inputs: usize,
    rounded: Parts<'a, u16>,
    values: Parts<'a, f32>,
    codes: Parts<'a, i8>,
    scales: Parts<'a, f32>,
    sums: Parts<'a, i32>,
    scaled_sums: Parts<'a, f32>,
}

/// The buffers of one product, full. Those of other forms are empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled<'a> {
    /// bf16 for kernels that multiply bf16: `(rows, inputs)`, an odd number of inputs filled up
    /// with a zero.
    pub(super) rounded: &'a [u16],
    /// The same values in f32, for kernels that multiply f32.
    pub(super) values: &'a [f32],
    /// `(rows, inputs)`.
    pub(super) codes: &'a [i8],
    /// `(rows, inputs / 32)`.
    pub(super) scales: &'a [f32],
    /// Of the codes of each block.
    pub(super) sums: &'a [i32],
    /// Each of those times its scale.
    pub(super) scaled_sums: &'a [f32],
}

/// What activations become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum As {
    Rounded,
    Values,
    Codes,
}

// === impl Activations ===

impl Activations {
    /// Room for `(rows, inputs)` in the form that `tier` multiplies with `form`.
    pub(super) fn filling(
        &mut self,
        form: Form,
        tier: Tier,
        (rows, inputs): (usize, usize),
    ) -> Filling<'_> {
        let as_what = match (form, tier) {
            (Form::Bf16, Tier::Avx512Bf16) => As::Rounded,
            (Form::Bf16, _) => As::Values,
            (Form::Int8 | Form::Int4 | Form::Int4Min, _) => As::Codes,
        };
        let padded = rows * inputs.next_multiple_of(2);
        let (codes, blocks) = (rows * inputs, rows * inputs.div_ceil(BLOCK));
        let of = |wanted: As, len: usize| if as_what == wanted { len } else { 0 };
        Filling {
            as_what,
            tier,
            rows,
            inputs,
            rounded: room(&mut self.rounded, of(As::Rounded, padded)),
            values: room(&mut self.values, of(As::Values, padded)),
            codes: room(&mut self.codes, of(As::Codes, codes)),
            scales: room(&mut self.scales, of(As::Codes, blocks)),
            sums: room(&mut self.sums, of(As::Codes, blocks)),
            scaled_sums: room(&mut self.scaled_sums, of(As::Codes, blocks)),
        }
    }
}

fn room<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) -> Parts<'_, T> {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    Parts::of(&mut buffer[..len])
}

// === impl Filling ===

impl Filling<'_> {
    /// Pieces that the conversion is done in.
    pub(super) fn piece_count(&self) -> usize {
        self.block_count().div_ceil(PIECE)
    }

    fn block_count(&self) -> usize {
        self.rows * self.inputs.div_ceil(BLOCK)
    }

    /// Converts one piece of `x`.
    pub(super) fn fill(&self, piece: usize, x: &[f32]) {
        let row_blocks = self.inputs.div_ceil(BLOCK);
        let blocks = piece * PIECE..self.block_count().min((piece + 1) * PIECE);
        self.tier.run(|| {
            for unit in blocks {
                let (row, block) = (unit / row_blocks, unit % row_blocks);
                let start = row * self.inputs + block * BLOCK;
                let len = BLOCK.min(self.inputs - block * BLOCK);
                self.fill_block(row, block, &x[start..start + len]);
            }
        });
    }

    #[inline(always)]
    fn fill_block(&self, row: usize, block: usize, x: &[f32]) {
        let padded = row * self.inputs.next_multiple_of(2) + block * BLOCK;
        let padded = padded..padded + x.len().next_multiple_of(2);
        // SAFETY (all below): blocks do not overlap, and each is in one piece.
        match self.as_what {
            As::Rounded => {
                // SAFETY: as above.
                let into = unsafe { self.rounded.part(padded) };
                into.last_mut().into_iter().for_each(|odd| *odd = 0);
                into.iter_mut().zip(x).for_each(|(to, x)| *to = round(*x));
            }
            As::Values => {
                // SAFETY: as above.
                let into = unsafe { self.values.part(padded) };
                into.last_mut().into_iter().for_each(|odd| *odd = 0.0);
                for (to, x) in into.iter_mut().zip(x) {
                    *to = f32::from_bits(u32::from(round(*x)) << 16);
                }
            }
            As::Codes => self.fill_codes(row * self.inputs / BLOCK + block, x),
        }
    }

    #[inline(always)]
    fn fill_codes(&self, block: usize, x: &[f32]) {
        // SAFETY: blocks do not overlap, and each is in one piece.
        let codes = unsafe { self.codes.part(block * BLOCK..(block + 1) * BLOCK) };
        let (scale, sum) = quantise(x, codes);
        // SAFETY: as above.
        unsafe {
            self.scales.part(block..block + 1)[0] = scale;
            self.sums.part(block..block + 1)[0] = sum;
            self.scaled_sums.part(block..block + 1)[0] = scale * small(sum);
        }
    }

    /// # Safety
    /// Every piece is filled, and nobody fills any more.
    pub(super) unsafe fn seen(&self) -> Filled<'_> {
        // SAFETY: nobody writes any more, by the caller's promise.
        unsafe {
            Filled {
                rounded: self.rounded.seen(),
                values: self.values.seen(),
                codes: self.codes.seen(),
                scales: self.scales.seen(),
                sums: self.sums.seen(),
                scaled_sums: self.scaled_sums.seen(),
            }
        }
    }
}

/// To bf16, to the nearest, ties to even; what is not a number stays none.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the upper half of 32 bits, shifted down"
)]
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    (if bits & !SIGN > INFINITE {
        quiet
    } else {
        rounded
    }) as u16
}

/// Codes of 32 values, their scale and their sum. A value that is not finite makes the scale NaN.
#[inline(always)]
fn quantise(x: &[f32], codes: &mut [i8]) -> (f32, i32) {
    let greatest = x.iter().fold(0, |most, x| most.max(x.to_bits() & !SIGN));
    let magnitude = f32::from_bits(greatest);
    let (scale, inverse) = if greatest >= INFINITE {
        (f32::NAN, 0.0)
    } else if magnitude < MAGNITUDE_MIN {
        (0.0, 0.0)
    } else {
        (magnitude / 127.0, 127.0 / magnitude)
    };
    let mut sum = 0;
    for (to, x) in codes.iter_mut().zip(x) {
        let code = nearest(x * inverse);
        sum += code;
        *to = to_code(code);
    }
    (scale, sum)
}

/// The whole number nearest to a value of at most 127 and a rounding, ties to even.
#[inline(always)]
fn nearest(x: f32) -> i32 {
    // Adding 1.5 · 2^23 leaves no bits for a fraction; the whole number is then in the low bits.
    // What is not a number has no code, and its block no scale.
    const MAGIC: f32 = 12_582_912.0;
    let bits = (x + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32;
    bits.clamp(-127, 127)
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "from -127 to 127")]
fn to_code(code: i32) -> i8 {
    code as i8
}

#[inline(always)]
#[expect(clippy::cast_precision_loss, reason = "at most 32 · 127")]
fn small(sum: i32) -> f32 {
    sum as f32
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        for upper in 0..=u16::MAX {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(upper) << 16 | lower);
                assert_eq!(round(x), bf16::from_f32(x).to_bits(), "{x}");
            }
        }
    }

    #[test]
    fn the_greatest_magnitude_gets_code_127_and_ties_go_to_even() {
        let mut x = [0.0; BLOCK];
        x[..6].copy_from_slice(&[-127.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
        let mut codes = [0; BLOCK];
        assert_eq!(quantise(&x, &mut codes), (1.0, -127 + 2 + 2 - 2));
        assert_eq!(codes[..6], [-127, 0, 2, 2, 0, -2]);
    }

    #[test]
    fn codes_stay_in_range_for_magnitudes_of_all_sizes() {
        let mut codes = [0; BLOCK];
        for bits in (0..INFINITE).step_by(9_973) {
            let x = [f32::from_bits(bits); BLOCK];
            let (scale, sum) = quantise(&x, &mut codes);
            let is_zero = x[0] < MAGNITUDE_MIN;
            assert_eq!(sum, if is_zero { 0 } else { 127 * 32 }, "{}", x[0]);
            assert!(scale.is_finite() && (scale.is_normal() || scale == 0.0));
        }
    }

    #[test]
    fn a_block_with_a_value_that_is_not_finite_has_no_scale() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; BLOCK];
            x[7] = odd;
            assert!(quantise(&x, &mut [0; BLOCK]).0.is_nan());
        }
    }
}
