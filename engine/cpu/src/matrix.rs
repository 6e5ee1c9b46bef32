//! Weights as kernels read them: `(outputs, inputs)`, packed in panels of 64 outputs.
//!
//! A panel holds all inputs of its outputs, so that it is read from start to end once. Outputs
//! beyond the last are zero.
//!
//! | form | a panel | bytes for 32 inputs of one output |
//! |---|---|---|
//! | bf16 | `[inputs / 2][64][2]` bf16; an odd last input has a zero beside it | 64 |
//! | int8 | `[inputs / 32]` of `[8][64][4]` codes + 128, then `[64]` scales in f16 | 34 |
//! | int4 | `[inputs / 32]` of `[4][64][4]` pairs of codes, then `[64]` scales | 18 |
//! | int4 with minimum | the same, then `[64]` minimums in f16 | 20 |
//!
//! A byte of 4-bit codes has the code of input `4 g + i` of the block in its low half and that of
//! input `16 + 4 g + i` in its high one, at `[g][output][i]`.
#![allow(
    unsafe_code,
    reason = "workers write panels of one mapping side by side"
)]

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use half::f16;

use crate::memory::Memory;
use crate::parts::Parts;
use crate::team::Team;

mod panel;
mod row;

pub(crate) use panel::code_at;
pub use row::{Row, RowError};

use panel::Staged;

/// Outputs in a panel.
pub(crate) const PANEL: usize = 64;
/// Inputs that share a scale.
pub const BLOCK: usize = 32;

/// How weights are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// 16 bits each.
    Bf16,
    /// 8 bits, and a scale in f16 for 32 of them: `scale × code`, code -128 to 127. As Q8_0.
    Int8,
    /// 4 bits, and a scale in f16 for 32 of them: `scale × (code - 8)`. As Q4_0.
    Int4,
    /// 4 bits, and a scale and a minimum in f16 for 32 of them: `scale × code + minimum`. As Q4_1.
    Int4Min,
}

/// Packed weights.
#[derive(Debug)]
pub struct Matrix {
    form: Form,
    outputs: usize,
    inputs: usize,
    memory: Memory,
}

/// Why a matrix cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError<E> {
    /// Blocks of 32 do not fit its inputs.
    #[error("{form} needs a multiple of {BLOCK} inputs, not {inputs}")]
    Inputs {
        /// The form asked for.
        form: Form,
        /// How many there are.
        inputs: usize,
    },
    /// The kernel gives no memory.
    #[error("taking {bytes} bytes for packed weights")]
    Memory {
        /// How much.
        bytes: usize,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A row cannot be had. Of several the first.
    #[error("packing output {output}")]
    Row {
        /// Which.
        output: usize,
        /// Why.
        #[source]
        source: E,
    },
}

// === impl Form ===

impl Form {
    /// What one panel takes.
    pub(crate) fn panel_bytes(self, inputs: usize) -> usize {
        match self {
            Self::Bf16 => inputs.div_ceil(2) * PANEL * 4,
            Self::Int8 | Self::Int4 | Self::Int4Min => inputs / BLOCK * self.block_bytes(),
        }
    }

    /// What 32 inputs of a panel take.
    pub(crate) fn block_bytes(self) -> usize {
        match self {
            Self::Bf16 => BLOCK * PANEL * 2,
            Self::Int8 => (BLOCK + 2) * PANEL,
            Self::Int4 => (BLOCK / 2 + 2) * PANEL,
            Self::Int4Min => (BLOCK / 2 + 4) * PANEL,
        }
    }

    /// What the codes of such a block take; scales come after them.
    pub(crate) fn code_bytes(self) -> usize {
        match self {
            Self::Bf16 => 0,
            Self::Int8 => BLOCK * PANEL,
            Self::Int4 | Self::Int4Min => BLOCK / 2 * PANEL,
        }
    }

    /// What a matrix takes in memory, before it is packed.
    #[must_use]
    pub fn bytes(self, outputs: usize, inputs: usize) -> usize {
        outputs.div_ceil(PANEL) * self.panel_bytes(inputs)
    }

    /// As flags and logs call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::Int4Min => "int4-min",
        }
    }

    /// What a code is stored above its value.
    pub(crate) fn offset(self) -> i32 {
        match self {
            Self::Bf16 | Self::Int4Min => 0,
            Self::Int8 => 128,
            Self::Int4 => 8,
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Matrix ===

impl Matrix {
    /// Packs what `rows` writes for each output. Every worker of `team` asks for the rows that it
    /// will multiply, in ascending order, and so has their memory on its own NUMA node.
    ///
    /// # Errors
    /// When a row cannot be had, memory cannot be had, or inputs are not whole blocks.
    pub fn pack<E: Send>(
        form: Form,
        (outputs, inputs): (usize, usize),
        team: &mut Team,
        rows: &(dyn Fn(usize, &mut Row<'_>) -> Result<(), E> + Sync),
    ) -> Result<Self, PackError<E>> {
        if form != Form::Bf16 && !inputs.is_multiple_of(BLOCK) {
            return Err(PackError::Inputs { form, inputs });
        }
        let bytes = form.bytes(outputs, inputs);
        let memory = team.memory().take(bytes);
        let mut memory = memory.map_err(|source| PackError::Memory { bytes, source })?;
        let failed: Mutex<Option<(usize, E)>> = Mutex::new(None);
        let panel_bytes = form.panel_bytes(inputs);
        let parts = Parts::of(memory.bytes_mut());
        team.run_on_each(|worker| {
            let mut staged = Staged::new(form, inputs);
            for panel in worker.share(outputs.div_ceil(PANEL)) {
                let of_panel = panel * PANEL..outputs.min((panel + 1) * PANEL);
                if let Err((output, error)) = staged.fill(of_panel, rows) {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    if failed.as_ref().is_none_or(|(first, _)| output < *first) {
                        *failed = Some((output, error));
                    }
                    return;
                }
                // SAFETY: shares do not overlap, so each panel is written by one worker.
                let into = unsafe { parts.part(panel * panel_bytes..(panel + 1) * panel_bytes) };
                staged.write(into);
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((output, source)) => Err(PackError::Row { output, source }),
            None => Ok(Self {
                form,
                outputs,
                inputs,
                memory,
            }),
        }
    }

    /// How its weights are held.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// Values that a product with it gives.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Values that a product with it takes.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.bytes().len()
    }

    /// All panels, one after the other.
    pub(crate) fn panels(&self) -> &[u8] {
        self.memory.bytes()
    }

    /// Writes the weights of one output, as they are held: an embedding that is tied to the output
    /// matrix is read here. `scale × code + minimum` is rounded once after each operation.
    ///
    /// # Panics
    /// When there is no such output, or `into` is not as long as there are inputs.
    pub fn row(&self, output: usize, into: &mut [f32]) {
        assert!(output < self.outputs, "an output of the matrix");
        assert_eq!(into.len(), self.inputs, "room for a row");
        let panel_bytes = self.form.panel_bytes(self.inputs);
        let start = output / PANEL * panel_bytes;
        let panel = &self.panels()[start..start + panel_bytes];
        panel::read_row(self.form, panel, output % PANEL, into);
    }
}

/// Two bytes at `at`, as little-endian f16.
pub(crate) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests;
