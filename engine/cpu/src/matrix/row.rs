//! One output's weights on their way into a panel.
//!
//! Blocks of a GGUF file keep their codes, scales and minimums to the bit.

use half::{bf16, f16};

use super::{BLOCK, Form};

/// Where the weights of one output are to be written, once, whole.
#[derive(Debug)]
pub struct Row<'a> {
    pub(super) form: Form,
    /// One for each input; empty in other forms than bf16.
    pub(super) values: &'a mut [u16],
    /// One for each input, the form's offset added; empty in bf16.
    pub(super) codes: &'a mut [u8],
    /// f16, one for each block.
    pub(super) scales: &'a mut [u16],
    /// f16, one for each block; empty in forms without.
    pub(super) minimums: &'a mut [u16],
}

/// Why weights do not go into a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Too few or too many.
    #[error("{given} values for a row of {inputs}")]
    Length {
        /// How many came, a file's blocks counted as 32 each.
        given: usize,
        /// How many a row has.
        inputs: usize,
    },
    /// Not exactly, that is.
    #[error("{blocks} blocks cannot be held as {form}")]
    Form {
        /// GGUF's name for them.
        blocks: &'static str,
        /// What the matrix is packed as.
        form: Form,
    },
    /// Infinite, not a number, or too great for a scale in f16.
    #[error("the weights of block {block} cannot be held by codes and a scale in f16")]
    Value {
        /// Which, counted in blocks of 32 from the row's start.
        block: usize,
    },
}

/// A block of a GGUF file.
#[derive(Clone, Copy)]
struct Layout {
    name: &'static str,
    bytes: usize,
}

const Q8_0: Layout = Layout {
    name: "Q8_0",
    bytes: 34,
};
const Q4_0: Layout = Layout {
    name: "Q4_0",
    bytes: 18,
};
const Q4_1: Layout = Layout {
    name: "Q4_1",
    bytes: 20,
};

// === impl Row ===

impl Row<'_> {
    /// Weights that it takes.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.values.len().max(self.codes.len())
    }

    /// What it is packed as.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// Values; rounded to the nearest, ties to even, where the form is bf16. Other forms are
    /// quantised as llama.cpp's reference does for Q8_0, Q4_0 and Q4_1, except that codes are
    /// chosen for the scale as it is held, in f16.
    ///
    /// # Errors
    /// When there are too few or too many, or one is not finite or too great in a form of codes.
    pub fn write_f32(&mut self, values: &[f32]) -> Result<(), RowError> {
        self.check_length(values.len())?;
        if self.form == Form::Bf16 {
            for (to, from) in self.values.iter_mut().zip(values) {
                *to = bf16::from_f32(*from).to_bits();
            }
            return Ok(());
        }
        for (block, values) in values.chunks_exact(BLOCK).enumerate() {
            self.quantise(block, values)
                .ok_or(RowError::Value { block })?;
        }
        Ok(())
    }

    /// As [`Self::write_f32`], without rounding in bf16.
    ///
    /// # Errors
    /// As there.
    pub fn write_bf16(
        &mut self,
        values: impl ExactSizeIterator<Item = bf16>,
    ) -> Result<(), RowError> {
        self.check_length(values.len())?;
        if self.form == Form::Bf16 {
            for (to, from) in self.values.iter_mut().zip(values) {
                *to = from.to_bits();
            }
            return Ok(());
        }
        let mut block_values = [0.0; BLOCK];
        for (input, value) in values.enumerate() {
            let (block, place) = (input / BLOCK, input % BLOCK);
            block_values[place] = value.to_f32();
            if place == BLOCK - 1 {
                self.quantise(block, &block_values)
                    .ok_or(RowError::Value { block })?;
            }
        }
        Ok(())
    }

    /// GGUF's blocks of a scale and 32 signed bytes, into int8.
    ///
    /// # Errors
    /// When the form cannot hold them exactly, or there are too few or too many.
    pub fn write_q8_0(&mut self, blocks: &[u8]) -> Result<(), RowError> {
        self.check_blocks(Q8_0, blocks.len(), &[Form::Int8])?;
        for (index, block) in blocks.chunks_exact(Q8_0.bytes).enumerate() {
            self.scales[index] = u16::from_le_bytes([block[0], block[1]]);
            for (to, from) in self.codes_of(index).iter_mut().zip(&block[2..]) {
                *to = from ^ 0x80;
            }
        }
        Ok(())
    }

    /// GGUF's blocks of a scale and 32 codes of 4 bits, into int4 or int8.
    ///
    /// # Errors
    /// As [`Self::write_q8_0`].
    pub fn write_q4_0(&mut self, blocks: &[u8]) -> Result<(), RowError> {
        self.check_blocks(Q4_0, blocks.len(), &[Form::Int4, Form::Int8])?;
        // A code is 8 above its value in the file, and the form's offset above it here.
        let above = if self.form == Form::Int8 { 120 } else { 0 };
        for (index, block) in blocks.chunks_exact(Q4_0.bytes).enumerate() {
            self.scales[index] = u16::from_le_bytes([block[0], block[1]]);
            write_halves(self.codes_of(index), &block[2..], above);
        }
        Ok(())
    }

    /// GGUF's blocks of a scale, a minimum and 32 codes of 4 bits, into int4 with minimum.
    ///
    /// # Errors
    /// As [`Self::write_q8_0`].
    pub fn write_q4_1(&mut self, blocks: &[u8]) -> Result<(), RowError> {
        self.check_blocks(Q4_1, blocks.len(), &[Form::Int4Min])?;
        for (index, block) in blocks.chunks_exact(Q4_1.bytes).enumerate() {
            self.scales[index] = u16::from_le_bytes([block[0], block[1]]);
            self.minimums[index] = u16::from_le_bytes([block[2], block[3]]);
            write_halves(self.codes_of(index), &block[4..], 0);
        }
        Ok(())
    }

    fn check_length(&self, given: usize) -> Result<(), RowError> {
        let inputs = self.inputs();
        if given == inputs {
            Ok(())
        } else {
            Err(RowError::Length { given, inputs })
        }
    }

    fn check_blocks(&self, layout: Layout, bytes: usize, forms: &[Form]) -> Result<(), RowError> {
        if !forms.contains(&self.form) {
            return Err(RowError::Form {
                blocks: layout.name,
                form: self.form,
            });
        }
        self.check_length(bytes.div_ceil(layout.bytes) * BLOCK)
    }

    fn codes_of(&mut self, block: usize) -> &mut [u8] {
        &mut self.codes[block * BLOCK..(block + 1) * BLOCK]
    }

    /// `None` where it is not possible.
    fn quantise(&mut self, block: usize, values: &[f32]) -> Option<()> {
        if !values.iter().all(|value| value.is_finite()) {
            return None;
        }
        let (scale, minimum, greatest) = self.scale_of(values)?;
        self.scales[block] = scale.to_bits();
        if let Some(to) = self.minimums.get_mut(block) {
            *to = minimum.to_bits();
        }
        let (scale, minimum) = (scale.to_f32(), minimum.to_f32());
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let (lowest, offset) = match self.form {
            Form::Int8 => (-127.0, 128.0),
            Form::Int4 => (-8.0, 8.0),
            Form::Int4Min | Form::Bf16 => (0.0, 0.0),
        };
        for (to, from) in self.codes_of(block).iter_mut().zip(values) {
            let code = ((from - minimum) * inverse).clamp(lowest, greatest);
            *to = to_code(code + offset);
        }
        Some(())
    }

    /// Scale, minimum and greatest code before the offset.
    fn scale_of(&self, values: &[f32]) -> Option<(f16, f16, f32)> {
        let far = |a: f32, b: f32| if b.abs() > a.abs() { b } else { a };
        let farthest = values.iter().copied().fold(0.0, far);
        let low = values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (scale, minimum, greatest) = match self.form {
            Form::Int8 => (farthest.abs() / 127.0, 0.0, 127.0),
            // The value that is farthest from zero gets the code that has no counterpart.
            Form::Int4 => (farthest / -8.0, 0.0, 7.0),
            Form::Int4Min | Form::Bf16 => ((high - low) / 15.0, low, 15.0),
        };
        let (scale, minimum) = (f16::from_f32(scale), f16::from_f32(minimum));
        (scale.is_finite() && minimum.is_finite()).then_some((scale, minimum, greatest))
    }
}

/// A byte has the code of one input in its low half, and of the 16th after that in its high one.
fn write_halves(codes: &mut [u8], bytes: &[u8], above: u8) {
    for (index, byte) in bytes.iter().enumerate() {
        codes[index] = (byte & 0x0f) + above;
        codes[index + BLOCK / 2] = (byte >> 4) + above;
    }
}

/// The whole number nearest to a value from 0 to 255, ties to even.
#[inline]
fn to_code(value: f32) -> u8 {
    // Adding 2^23 leaves no bits for a fraction; the whole number is then in the lowest bits.
    const MAGIC: f32 = 8_388_608.0;
    (value + MAGIC).to_bits().to_le_bytes()[0]
}
