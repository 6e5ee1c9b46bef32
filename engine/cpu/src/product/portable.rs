//! Kernels in plain Rust: the oracle for all others.

use super::Task;
use crate::matrix::{BLOCK, Form, PANEL, code_at, f16_at};

/// Where a bf16 value is neither zero nor denormal, as a magnitude's bits.
const NORMAL_MIN: u16 = 0x0080;
const MAGNITUDE: u16 = 0x7fff;

/// The magnitudes of some bf16 values that are not zero.
#[derive(Clone, Copy, Debug)]
struct Span {
    least: u16,
    greatest: u16,
}

/// As the module's documentation says, for each row and output.
pub(super) fn bf16(task: &Task<'_>) {
    let weights = Span::of_weights(task);
    let inputs = task.inputs.next_multiple_of(2);
    for row in 0..task.rows {
        let x = &task.x.values[row * inputs..(row + 1) * inputs];
        let mut sums = [0.0; PANEL];
        // A product of two bf16 values is exact in f32 as long as its exponent fits; then a fused
        // addition rounds as an addition of the product does, which every machine has.
        if weights.products_fit(Span::of_values(x)) {
            add_pairs(task, x, &mut sums, |sum, x, w| sum + x * w);
        } else {
            add_pairs(task, x, &mut sums, |sum, x, w| x.mul_add(w, sum));
        }
        task.out_of(row).copy_from_slice(&sums[..task.wanted]);
    }
}

#[inline(always)]
fn add_pairs(
    task: &Task<'_>,
    x: &[f32],
    sums: &mut [f32; PANEL],
    add: impl Fn(f32, f32, f32) -> f32,
) {
    for (pair, x) in task.panel.chunks_exact(PANEL * 4).zip(x.chunks_exact(2)) {
        let weights = pair[task.first * 4..].chunks_exact(4);
        for (sum, w) in sums[..task.width].iter_mut().zip(weights) {
            let even = f32::from_bits(u32::from_le_bytes([0, 0, w[0], w[1]]));
            let odd = f32::from_bits(u32::from_le_bytes([0, 0, w[2], w[3]]));
            *sum = add(add(*sum, x[1], odd), x[0], even);
        }
    }
}

/// As the module's documentation says, for each row and output.
pub(super) fn codes(task: &Task<'_>) {
    let blocks = task.inputs / BLOCK;
    for row in 0..task.rows {
        let mut sums = [0.0; PANEL];
        for block in 0..blocks {
            add_block(task, row * blocks + block, block, &mut sums);
        }
        task.out_of(row).copy_from_slice(&sums[..task.wanted]);
    }
}

/// `x_block` counts over all rows.
fn add_block(task: &Task<'_>, x_block: usize, block: usize, sums: &mut [f32; PANEL]) {
    let bytes = task.form.block_bytes();
    let weights = &task.panel[block * bytes..(block + 1) * bytes];
    let (codes, scales) = weights.split_at(task.form.code_bytes());
    let x = &task.x.codes[x_block * BLOCK..(x_block + 1) * BLOCK];
    for (index, sum) in sums[..task.width].iter_mut().enumerate() {
        let output = task.first + index;
        let products = x
            .iter()
            .enumerate()
            .map(|(input, x)| i32::from(*x) * code_at(task.form, codes, output, input));
        let dot = products.sum::<i32>() - task.form.offset() * task.x.sums[x_block];
        let scale = task.x.scales[x_block] * f16_at(scales, output * 2);
        *sum = exact(dot).mul_add(scale, *sum);
        if task.form == Form::Int4Min {
            let minimum = f16_at(scales, (PANEL + output) * 2);
            *sum = minimum.mul_add(task.x.scaled_sums[x_block], *sum);
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "at most 32 · 127 · 128, below 2^24"
)]
fn exact(dot: i32) -> f32 {
    dot as f32
}

// === impl Span ===

impl Span {
    fn of_weights(task: &Task<'_>) -> Self {
        let (from, to) = (task.first * 4, (task.first + task.width) * 4);
        let pairs = task.panel.chunks_exact(PANEL * 4);
        let values = pairs.flat_map(|pair| pair[from..to].chunks_exact(2));
        Self::of(values.map(|w| u16::from_le_bytes([w[0], w[1]])))
    }

    fn of_values(x: &[f32]) -> Self {
        Self::of(x.iter().map(|x| half::bf16::from_f32(*x).to_bits()))
    }

    fn of(values: impl Iterator<Item = u16>) -> Self {
        let none = Self {
            least: MAGNITUDE,
            greatest: 0,
        };
        values.fold(none, |span, value| {
            let magnitude = value & MAGNITUDE;
            // Below the least normal number it counts as zero: this makes it great instead.
            let above = magnitude.wrapping_sub(NORMAL_MIN) & MAGNITUDE;
            Self {
                least: span.least.min(above),
                greatest: span.greatest.max(magnitude),
            }
        })
    }

    /// Whether every product of two values of these spans is zero, or normal and finite.
    fn products_fit(self, other: Self) -> bool {
        let f64_of = |bits: u16| f64::from(f32::from_bits(u32::from(bits) << 16));
        let least = |span: Self| f64_of((span.least + NORMAL_MIN) & MAGNITUDE);
        let low = least(self) * least(other);
        let high = f64_of(self.greatest) * f64_of(other.greatest);
        low >= f64::from(f32::MIN_POSITIVE) && high <= f64::from(f32::MAX)
    }
}
