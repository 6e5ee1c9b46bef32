//! A tiny random Llama for tests, written as a Hugging Face folder or as a GGUF file.
//!
//! Its numbers divide badly on purpose: 9 heads in 3 groups, 50 channels and 101 tokens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::config::{Graph, ModelConfig, Rope};

mod drive;
mod quantised;
mod text;

pub(crate) use drive::{DRIVEN_CACHE, check_driven};
pub(crate) use quantised::{write_mixed, write_quantised};
pub(crate) use text::{Text, batch};

/// Name, shape (outermost first) and elements.
pub(crate) type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub(crate) fn config() -> ModelConfig {
    ModelConfig {
        name: "tiny".to_owned(),
        hidden_size: 40,
        layer_count: 2,
        head_count: 9,
        kv_head_count: 3,
        head_dim: 8,
        intermediate_size: 50,
        vocab_size: 101,
        rms_norm_eps: 1e-5,
        rope: Rope::plain(10_000.0, 8),
        graph: Graph::llama(),
        tied_embeddings: false,
        position_count_max: 128,
        bos: Some(1),
        eos: vec![2],
    }
}

/// Every weight by its Hugging Face name, small pseudo-random numbers.
pub(crate) fn weights() -> Weights {
    let (hidden, inner, vocab, query, kv) = (40, 50, 101, 72, 24);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
        ("lm_head.weight".to_owned(), vec![vocab, hidden]),
    ];
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        shapes.extend([
            (name("input_layernorm"), vec![hidden]),
            (name("self_attn.q_proj"), vec![query, hidden]),
            (name("self_attn.k_proj"), vec![kv, hidden]),
            (name("self_attn.v_proj"), vec![kv, hidden]),
            (name("self_attn.o_proj"), vec![hidden, query]),
            (name("post_attention_layernorm"), vec![hidden]),
            (name("mlp.gate_proj"), vec![inner, hidden]),
            (name("mlp.up_proj"), vec![inner, hidden]),
            (name("mlp.down_proj"), vec![hidden, inner]),
        ]);
    }
    let mut state = 7_u32;
    shapes
        .into_iter()
        .map(|(name, shape)| {
            let count = shape.iter().product();
            let around = if shape.len() == 1 { 1.0 } else { 0.0 };
            let elements = (0..count).map(|_| around + random(&mut state)).collect();
            (name, (shape, elements))
        })
        .collect()
}

/// Between -0.5 and 0.5, and exact in bf16: seven bits.
pub(crate) fn random(state: &mut u32) -> f32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    f32::from(i8::try_from(*state >> 25).unwrap() - 64) / 128.0
}

/// `config.json` of the tiny model.
pub(crate) fn config_json() -> serde_json::Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 8,
        "intermediate_size": 50, "vocab_size": 101, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 128, "tie_word_embeddings": false,
        "bos_token_id": 1, "eos_token_id": 2,
    })
}

/// Writes the model as a folder whose tensors have this type.
pub(crate) fn write_folder(folder: &Path, dtype: Dtype) {
    fs::write(folder.join("config.json"), config_json().to_string()).unwrap();
    let encoded: Vec<(String, Vec<usize>, Vec<u8>)> = weights()
        .into_iter()
        .map(|(name, (shape, elements))| (name, shape, encode(&elements, dtype)))
        .collect();
    let views = encoded.iter().map(|(name, shape, bytes)| {
        (
            name.as_str(),
            TensorView::new(dtype, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

pub(crate) fn encode(elements: &[f32], dtype: Dtype) -> Vec<u8> {
    let each = |&element: &f32| match dtype {
        Dtype::F16 => f16::from_f32(element).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f32(element).to_le_bytes().to_vec(),
        _ => element.to_le_bytes().to_vec(),
    };
    elements.iter().flat_map(each).collect()
}

/// Writes the model as a GGUF file of F32 tensors.
pub(crate) fn write_gguf(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.gguf");
    fs::write(&path, gguf_bytes(&weights())).unwrap();
    path
}

/// The model as a GGUF file.
pub(crate) fn gguf_bytes(weights: &Weights) -> Vec<u8> {
    let mut gguf = Gguf::default();
    gguf.head(&[
        ("block_count", 2),
        ("context_length", 128),
        ("embedding_length", 40),
        ("feed_forward_length", 50),
        ("attention.head_count", 9),
        ("attention.head_count_kv", 3),
        ("attention.key_length", 8),
        ("attention.value_length", 8),
        ("rope.dimension_count", 8),
    ]);
    for (name, (shape, elements)) in weights {
        let rotated = name.contains("q_proj") || name.contains("k_proj");
        let elements = if rotated {
            pairs_together(elements, 40)
        } else {
            elements.clone()
        };
        gguf.tensor(&gguf_name(name), shape, &elements);
    }
    gguf.finish()
}

fn gguf_name(name: &str) -> String {
    let mut name = name.to_owned();
    for (from, to) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        name = name.replace(from, to);
    }
    name
}

/// Row `i` and row `i + 4` of each head of 8 channels side by side, as GGUF has them.
fn pairs_together(elements: &[f32], columns: usize) -> Vec<f32> {
    let heads = elements.chunks_exact(8 * columns);
    heads
        .flat_map(|head| {
            (0..8).flat_map(move |row| {
                let from = (row % 2 * 4 + row / 2) * columns;
                head[from..from + columns].to_vec()
            })
        })
        .collect()
}

/// A GGUF file being written.
#[derive(Default)]
pub(crate) struct Gguf {
    key_count: u64,
    keys: Vec<u8>,
    tensor_count: u64,
    tensors: Vec<u8>,
    data: Vec<u8>,
}

// === impl Gguf ===

impl Gguf {
    fn key(&mut self, key: &str, kind: u32) {
        self.key_count += 1;
        string(&mut self.keys, key);
        self.keys.extend(kind.to_le_bytes());
    }

    /// Everything but the tensors, with these numbers of the architecture.
    fn head(&mut self, numbers: &[(&str, u32)]) {
        self.text("general.architecture", "llama");
        self.text("general.name", "tiny");
        for (key, value) in numbers {
            self.integer(&format!("llama.{key}"), *value);
        }
        self.number("llama.attention.layer_norm_rms_epsilon", 1e-5);
        self.number("llama.rope.freq_base", 10_000.0);
        self.text("tokenizer.ggml.model", "gpt2");
        self.texts("tokenizer.ggml.tokens", &["<s>", "a", "b"]);
        self.integer("tokenizer.ggml.bos_token_id", 1);
        self.integer("tokenizer.ggml.eos_token_id", 2);
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        string(&mut self.keys, value);
    }

    pub(crate) fn integer(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.keys.extend(value.to_le_bytes());
    }

    pub(crate) fn number(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.keys.extend(value.to_le_bytes());
    }

    pub(crate) fn texts(&mut self, key: &str, values: &[&str]) {
        self.key(key, 9);
        self.keys.extend(8_u32.to_le_bytes());
        self.keys.extend((values.len() as u64).to_le_bytes());
        values
            .iter()
            .for_each(|value| string(&mut self.keys, value));
    }

    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize], elements: &[f32]) {
        self.raw_tensor(name, shape, 0, &encode(elements, Dtype::F32));
    }

    /// A tensor of the `ggml_type` numbered `kind`.
    pub(crate) fn raw_tensor(&mut self, name: &str, shape: &[usize], kind: u32, bytes: &[u8]) {
        self.tensor_count += 1;
        string(&mut self.tensors, name);
        self.tensors
            .extend(u32::try_from(shape.len()).unwrap().to_le_bytes());
        for &size in shape.iter().rev() {
            self.tensors.extend((size as u64).to_le_bytes());
        }
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend(self.tensor_count.to_le_bytes());
        file.extend(self.key_count.to_le_bytes());
        file.extend(self.keys);
        file.extend(self.tensors);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(self.data);
        file
    }
}

fn string(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}
