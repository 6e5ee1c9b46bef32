//! How weights are quantised while they are loaded.

use berth_engine_cpu::matrix::Form;

use crate::source::{LayerWeight, Weight};

/// For weights that are stored in 16 or 32 bits; what the files have quantised stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// 8 bits with a scale for 32, as Q8_0.
    Int8,
    /// 4 bits with a scale for 32, as Q4_0; embedding and output projection in 8 bits.
    Int4,
}

// === impl Quantization ===

impl Quantization {
    /// What it makes of a weight that is stored in 16 or 32 bits. A router stays: it is small, and
    /// decides.
    pub(crate) fn form(self, weight: Weight) -> Form {
        match (self, weight) {
            (_, Weight::Layer(_, LayerWeight::Router)) => Form::Bf16,
            (Self::Int4, Weight::Layer(..)) => Form::Int4,
            _ => Form::Int8,
        }
    }
}
