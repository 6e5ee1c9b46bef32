//! The same kind of model with quantised matrices, whose widths are whole blocks of 32.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::Dtype;

use super::{Gguf, encode};

const HIDDEN: usize = 64;
const INNER: usize = 96;
const VOCAB: usize = 101;
/// Six heads of 16 channels.
const QUERY: usize = 96;
/// Three heads.
const KV: usize = 48;

/// Writes a GGUF file whose matrices are of this type: 2 (`Q4_0`), 3 (`Q4_1`), 6 (`Q5_0`) or
/// 8 (`Q8_0`). Its embedding is its output projection.
pub(crate) fn write_quantised(folder: &Path, kind: u32) -> PathBuf {
    let mut gguf = Gguf::default();
    gguf.head(&[
        ("block_count", 2),
        ("context_length", 128),
        ("embedding_length", 64),
        ("feed_forward_length", 96),
        ("attention.head_count", 6),
        ("attention.head_count_kv", 3),
        ("attention.key_length", 16),
        ("attention.value_length", 16),
        ("rope.dimension_count", 16),
    ]);
    let mut state = 3_u32;
    matrix(&mut gguf, "token_embd", [VOCAB, HIDDEN], kind, &mut state);
    norm(&mut gguf, "output_norm", &mut state);
    for layer in 0..2 {
        for (name, shape) in [
            ("attn_q", [QUERY, HIDDEN]),
            ("attn_k", [KV, HIDDEN]),
            ("attn_v", [KV, HIDDEN]),
            ("attn_output", [HIDDEN, QUERY]),
            ("ffn_gate", [INNER, HIDDEN]),
            ("ffn_up", [INNER, HIDDEN]),
            ("ffn_down", [HIDDEN, INNER]),
        ] {
            let name = format!("blk.{layer}.{name}");
            matrix(&mut gguf, &name, shape, kind, &mut state);
        }
        for name in ["attn_norm", "ffn_norm"] {
            norm(&mut gguf, &format!("blk.{layer}.{name}"), &mut state);
        }
    }
    let path = folder.join("quantised.gguf");
    fs::write(&path, gguf.finish()).unwrap();
    path
}

fn norm(gguf: &mut Gguf, name: &str, state: &mut u32) {
    let elements = (0..HIDDEN).map(|_| 1.0 + super::random(state));
    let bytes = encode(&elements.collect::<Vec<f32>>(), Dtype::F32);
    gguf.raw_tensor(&format!("{name}.weight"), &[HIDDEN], 0, &bytes);
}

/// Random codes, with scales that keep weights within a quarter of zero.
fn matrix(gguf: &mut Gguf, name: &str, shape: [usize; 2], kind: u32, state: &mut u32) {
    let (heads, code_bytes): (&[f32], usize) = match kind {
        2 => (&[1.0 / 32.0], 16),
        3 => (&[1.0 / 32.0, -0.234], 16),
        6 => (&[1.0 / 64.0], 20),
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
