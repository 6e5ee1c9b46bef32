//! How rows become a panel, and a row is read back from it.

use std::ops::Range;

use half::bf16;

use super::{BLOCK, Form, PANEL, Row, f16_at};

/// The rows of one panel, one after the other, before they are interleaved. A worker fills and
/// writes it panel after panel.
#[derive(Debug)]
pub(super) struct Staged {
    form: Form,
    inputs: usize,
    values: Vec<u16>,
    codes: Vec<u8>,
    scales: Vec<u16>,
    minimums: Vec<u16>,
}

// === impl Staged ===

impl Staged {
    pub(super) fn new(form: Form, inputs: usize) -> Self {
        let blocks = inputs / BLOCK;
        let (values, codes, scales, minimums) = match form {
            Form::Bf16 => (inputs, 0, 0, 0),
            Form::Int8 | Form::Int4 => (0, inputs, blocks, 0),
            Form::Int4Min => (0, inputs, blocks, blocks),
        };
        Self {
            form,
            inputs,
            values: vec![0; values * PANEL],
            codes: vec![0; codes * PANEL],
            scales: vec![0; scales * PANEL],
            minimums: vec![0; minimums * PANEL],
        }
    }

    /// Asks for the rows of one panel; those that there are not become zero.
    pub(super) fn fill<E>(
        &mut self,
        outputs: Range<usize>,
        rows: &(dyn Fn(usize, &mut Row<'_>) -> Result<(), E> + Sync),
    ) -> Result<(), (usize, E)> {
        if outputs.len() < PANEL {
            *self = Self::new(self.form, self.inputs);
        }
        for (index, output) in outputs.enumerate() {
            let mut row = Row {
                form: self.form,
                values: nth(&mut self.values, index),
                codes: nth(&mut self.codes, index),
                scales: nth(&mut self.scales, index),
                minimums: nth(&mut self.minimums, index),
            };
            rows(output, &mut row).map_err(|error| (output, error))?;
        }
        Ok(())
    }

    /// Interleaves what was filled.
    pub(super) fn write(&self, panel: &mut [u8]) {
        if self.form == Form::Bf16 {
            return self.write_values(panel);
        }
        let code_bytes = self.form.code_bytes();
        let blocks = panel.chunks_exact_mut(self.form.block_bytes());
        for (block, bytes) in blocks.enumerate() {
            let (codes, scales) = bytes.split_at_mut(code_bytes);
            if self.form == Form::Int8 {
                self.write_codes(block, codes);
            } else {
                self.write_pairs(block, codes);
            }
            let (scales, minimums) = scales.split_at_mut(PANEL * 2);
            self.write_halves(&self.scales, block, scales);
            self.write_halves(&self.minimums, block, minimums);
        }
    }

    fn write_values(&self, panel: &mut [u8]) {
        for (pair, bytes) in panel.chunks_exact_mut(PANEL * 4).enumerate() {
            for (output, bytes) in bytes.chunks_exact_mut(4).enumerate() {
                let row = &self.values[output * self.inputs..(output + 1) * self.inputs];
                bytes[..2].copy_from_slice(&row[pair * 2].to_le_bytes());
                let odd = row.get(pair * 2 + 1).copied().unwrap_or(0);
                bytes[2..].copy_from_slice(&odd.to_le_bytes());
            }
        }
    }

    /// The codes of one output in one block.
    fn codes_of(&self, output: usize, block: usize) -> &[u8] {
        let start = output * self.inputs + block * BLOCK;
        &self.codes[start..start + BLOCK]
    }

    fn write_codes(&self, block: usize, into: &mut [u8]) {
        for output in 0..PANEL {
            let codes = self.codes_of(output, block);
            for (group, codes) in codes.chunks_exact(4).enumerate() {
                let at = (group * PANEL + output) * 4;
                into[at..at + 4].copy_from_slice(codes);
            }
        }
    }

    fn write_pairs(&self, block: usize, into: &mut [u8]) {
        for output in 0..PANEL {
            let (low, high) = self.codes_of(output, block).split_at(BLOCK / 2);
            for (index, (low, high)) in low.iter().zip(high).enumerate() {
                let at = (index / 4 * PANEL + output) * 4 + index % 4;
                into[at] = low | high << 4;
            }
        }
    }

    /// Of `(outputs, blocks)` the column of one block, where there are any.
    fn write_halves(&self, halves: &[u16], block: usize, into: &mut [u8]) {
        let blocks = self.inputs / BLOCK;
        for (output, bytes) in into.chunks_exact_mut(2).enumerate() {
            bytes.copy_from_slice(&halves[output * blocks + block].to_le_bytes());
        }
    }
}

/// Reads the weights of one of a panel's 64 outputs.
pub(super) fn read_row(form: Form, panel: &[u8], output: usize, into: &mut [f32]) {
    if form == Form::Bf16 {
        for (input, to) in into.iter_mut().enumerate() {
            let at = (input / 2 * PANEL + output) * 4 + input % 2 * 2;
            *to = bf16::from_le_bytes([panel[at], panel[at + 1]]).to_f32();
        }
        return;
    }
    let blocks = panel.chunks_exact(form.block_bytes());
    for (block, into) in blocks.zip(into.chunks_exact_mut(BLOCK)) {
        let (codes, scales) = block.split_at(form.code_bytes());
        let scale = f16_at(scales, output * 2);
        for (input, to) in into.iter_mut().enumerate() {
            let code = code_at(form, codes, output, input);
            *to = scale * small(code - form.offset());
        }
        if form == Form::Int4Min {
            let minimum = f16_at(scales, (PANEL + output) * 2);
            into.iter_mut().for_each(|value| *value += minimum);
        }
    }
}

/// A code as it is stored, offset included.
pub(crate) fn code_at(form: Form, codes: &[u8], output: usize, input: usize) -> i32 {
    let at = |input: usize| (input / 4 * PANEL + output) * 4 + input % 4;
    let half = BLOCK / 2;
    i32::from(match form {
        Form::Bf16 | Form::Int8 => codes[at(input)],
        Form::Int4 | Form::Int4Min if input < half => codes[at(input)] & 0x0f,
        Form::Int4 | Form::Int4Min => codes[at(input - half)] >> 4,
    })
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^24")]
fn small(value: i32) -> f32 {
    value as f32
}

/// The `index`th of 64 equal parts.
fn nth<T>(all: &mut [T], index: usize) -> &mut [T] {
    let len = all.len() / PANEL;
    &mut all[index * len..(index + 1) * len]
}
