//! The same kind of model with quantised matrices, whose widths are whole blocks of 32.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::f16;
use safetensors::Dtype;

use super::{Gguf, encode};

const VOCAB: usize = 101;

/// Widths of a model whose rows are whole blocks.
#[derive(Clone, Copy)]
struct Widths {
    hidden: usize,
    inner: usize,
    /// Of each of six heads, which share three of keys and values.
    head_dim: usize,
}

/// Writes a GGUF file whose matrices are of this type: 1 (`F16`), 2 (`Q4_0`), 3 (`Q4_1`), 6 (`Q5_0`),
/// 7 (`Q5_1`), 8 (`Q8_0`), or 10 to 14 (`Q2_K` to `Q6_K`). Its embedding is its output projection.
pub(crate) fn write_quantised(folder: &Path, kind: u32) -> PathBuf {
    write_mixed(folder, |_| kind)
}

/// As [`write_quantised`], with the type of each tensor by its name.
pub(crate) fn write_mixed(folder: &Path, kind: impl Fn(&str) -> u32) -> PathBuf {
    let widths = if kind("blk.0.ffn_up.weight") < 10 {
        Widths {
            hidden: 64,
            inner: 96,
            head_dim: 16,
        }
    } else {
        // Blocks of 256.
        Widths {
            hidden: 256,
            inner: 256,
            head_dim: 128,
        }
    };
    let mut gguf = Gguf::default();
    let number = |width: usize| u32::try_from(width).unwrap();
    gguf.head(&[
        ("block_count", 2),
        ("context_length", 128),
        ("embedding_length", number(widths.hidden)),
        ("feed_forward_length", number(widths.inner)),
        ("attention.head_count", 6),
        ("attention.head_count_kv", 3),
        ("attention.key_length", number(widths.head_dim)),
        ("attention.value_length", number(widths.head_dim)),
        ("rope.dimension_count", number(widths.head_dim)),
    ]);
    let (mut state, hidden) = (3_u32, widths.hidden);
    let mut write = |gguf: &mut Gguf, name: &str, shape| {
        matrix(
            gguf,
            name,
            shape,
            kind(&format!("{name}.weight")),
            &mut state,
        );
    };
    write(&mut gguf, "token_embd", [VOCAB, hidden]);
    let (query, kv) = (6 * widths.head_dim, 3 * widths.head_dim);
    for layer in 0..2 {
        for (name, shape) in [
            ("attn_q", [query, hidden]),
            ("attn_k", [kv, hidden]),
            ("attn_v", [kv, hidden]),
            ("attn_output", [hidden, query]),
            ("ffn_gate", [widths.inner, hidden]),
            ("ffn_up", [widths.inner, hidden]),
            ("ffn_down", [hidden, widths.inner]),
        ] {
            write(&mut gguf, &format!("blk.{layer}.{name}"), shape);
        }
    }
    for name in [
        "output_norm",
        "blk.0.attn_norm",
        "blk.0.ffn_norm",
        "blk.1.attn_norm",
        "blk.1.ffn_norm",
    ] {
        norm(&mut gguf, name, hidden, &mut state);
    }
    let path = folder.join("quantised.gguf");
    fs::write(&path, gguf.finish()).unwrap();
    path
}

fn norm(gguf: &mut Gguf, name: &str, width: usize, state: &mut u32) {
    let elements = (0..width).map(|_| 1.0 + super::random(state));
    let bytes = encode(&elements.collect::<Vec<f32>>(), Dtype::F32);
    gguf.raw_tensor(&format!("{name}.weight"), &[width], 0, &bytes);
}

/// Random codes of the K family, from random values.
fn k_matrix(shape: [usize; 2], dtype: GgmlDType, state: &mut u32) -> Vec<u8> {
    let count = shape[0] * shape[1];
    let values: Vec<f32> = (0..count).map(|_| super::random(state) / 4.0).collect();
    let values = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap();
    let quantised = QTensor::quantize(&values, dtype).unwrap();
    quantised.data().unwrap().into_owned()
}

/// Random codes, with scales that keep weights within a quarter of zero.
fn matrix(gguf: &mut Gguf, name: &str, shape: [usize; 2], kind: u32, state: &mut u32) {
    let of_k = match kind {
        10 => Some(GgmlDType::Q2K),
        11 => Some(GgmlDType::Q3K),
        12 => Some(GgmlDType::Q4K),
        13 => Some(GgmlDType::Q5K),
        14 => Some(GgmlDType::Q6K),
        _ => None,
    };
    if let Some(dtype) = of_k {
        let bytes = k_matrix(shape, dtype, state);
        return gguf.raw_tensor(&format!("{name}.weight"), &shape, kind, &bytes);
    }
    if kind == 1 {
        let count = shape[0] * shape[1];
        let values: Vec<f32> = (0..count).map(|_| super::random(state) / 4.0).collect();
        let bytes = encode(&values, Dtype::F16);
        return gguf.raw_tensor(&format!("{name}.weight"), &shape, kind, &bytes);
    }
    let (heads, code_bytes): (&[f32], usize) = match kind {
        2 => (&[1.0 / 32.0], 16),
        3 => (&[1.0 / 32.0, -0.234], 16),
        6 => (&[1.0 / 64.0], 20),
        7 => (&[1.0 / 64.0, -0.234], 20),
        _ => (&[1.0 / 512.0], 32),
    };
    let mut bytes = Vec::new();
    for _ in 0..shape[0] * shape[1] / 32 {
        for head in heads {
            let varied = head * (1.0 + super::random(state) / 2.0);
            bytes.extend(f16::from_f32(varied).to_le_bytes());
        }
        bytes.extend((0..code_bytes).map(|_| {
            super::random(state);
            u8::try_from(*state >> 24).unwrap()
        }));
    }
    gguf.raw_tensor(&format!("{name}.weight"), &shape, kind, &bytes);
}
