//! A GGUF file: its header, the decoder that it describes, its tokenizer.
//!
//! The format: `docs/gguf.md` of ggml-org/ggml. Only the `llama` architecture is read.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use berth_engine_core::batch::TokenId;

use super::store::TensorStore;
use super::weight::{Naming, Weight};
use super::{Flaw, ModelSource, OpenError, TokenizerFiles};
use crate::config::{ModelConfig, Rope, RopeScaling};
use header::Header;

mod bounded;
mod header;
mod metadata;

/// The tokenizer that a GGUF file carries, as the file tells it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`: `gpt2` is byte-level BPE, `llama` SentencePiece.
    pub model: String,
    /// `tokenizer.ggml.pre`: which regular expression splits text before BPE.
    pub pre: Option<String>,
    /// Every token's text, by id.
    pub tokens: Vec<String>,
    /// Every token's kind, by id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// Pairs `left right` in order of preference.
    pub merges: Vec<String>,
    /// Every token's score, by id; SentencePiece only.
    pub scores: Vec<f32>,
    /// Starts a text.
    pub bos: Option<TokenId>,
    /// Ends an answer.
    pub eos: Option<TokenId>,
    /// Stands for what has no token.
    pub unknown: Option<TokenId>,
    /// Fills up a batch; never generated.
    pub padding: Option<TokenId>,
    /// Whether texts are encoded with `bos` in front; absent where the file does not say.
    pub add_bos: Option<bool>,
    /// A space is put in front of a text.
    pub add_space_prefix: bool,
    /// Jinja source of the chat template.
    pub chat_template: Option<String>,
}

/// Opens the file; the config and weights are checked by the caller.
pub(crate) fn open(path: &Path) -> Result<ModelSource, OpenError> {
    let file = File::open(path).map_err(|error| Flaw::Io(error).of(path))?;
    read(path, file).map_err(|flaw| flaw.of(path))
}

fn read(path: &Path, file: File) -> Result<ModelSource, Flaw> {
    let length = file.metadata()?.len();
    let header = Header::read(BufReader::new(&file), length)?;
    let tokenizer = tokenizer(&header)?;
    let mut store = TensorStore::default();
    let mut config = config(path, &header)?;
    let Header { tensors, .. } = header;
    store
        .add(path.to_path_buf(), file, tensors)
        .map_err(|name| Flaw::malformed(format!("tensor {name}"), "is there twice"))?;
    if let Some(factors) = rope_factors(&store)? {
        config.rope.scaling = RopeScaling::PerFrequency(factors);
    }
    Ok(ModelSource {
        path: path.to_path_buf(),
        config,
        tokenizer: TokenizerFiles::Gguf(Box::new(tokenizer)),
        store,
        naming: Naming::Gguf,
    })
}

fn config(path: &Path, header: &Header) -> Result<ModelConfig, Flaw> {
    let meta = &header.metadata;
    supported(header)?;
    let head_count = meta.size("llama.attention.head_count")?;
    let hidden_size = meta.size("llama.embedding_length")?;
    let per_head = hidden_size.checked_div(head_count).unwrap_or(0);
    let config = ModelConfig {
        name: meta
            .text("general.name")?
            .unwrap_or_else(|| file_name(path)),
        hidden_size,
        layer_count: meta.size("llama.block_count")?,
        head_count,
        kv_head_count: meta.size_or("llama.attention.head_count_kv", head_count)?,
        head_dim: meta.size_or("llama.attention.key_length", per_head)?,
        intermediate_size: meta.size("llama.feed_forward_length")?,
        vocab_size: rows(header, &Naming::Gguf.name(Weight::Embedding))?,
        rms_norm_eps: meta.number("llama.attention.layer_norm_rms_epsilon")?,
        rope: Rope {
            theta: meta.number_or("llama.rope.freq_base", 10_000.0)?,
            scaling: rope_scaling(header)?,
        },
        tied_embeddings: !header
            .tensors
            .contains_key(&Naming::Gguf.name(Weight::Head)),
        position_count_max: meta.size("llama.context_length")?,
        bos: meta.token("tokenizer.ggml.bos_token_id")?,
        eos: meta
            .token("tokenizer.ggml.eos_token_id")?
            .into_iter()
            .collect(),
    };
    same(
        meta.size_or("llama.attention.value_length", config.head_dim)?,
        &config,
        "value_length",
    )?;
    same(
        meta.size_or("llama.rope.dimension_count", config.head_dim)?,
        &config,
        "rotated channels",
    )?;
    Ok(config)
}

/// Refuses what the `llama` name also stands for but this decoder is not.
fn supported(header: &Header) -> Result<(), Flaw> {
    let architecture = header
        .metadata
        .text("general.architecture")?
        .unwrap_or_default();
    if architecture != "llama" {
        return Err(Flaw::Unsupported {
            what: format!("architecture {architecture:?}"),
            supported: "GGUF files of architecture \"llama\" are",
        });
    }
    if header.metadata.size_or("llama.expert_count", 0)? > 0 {
        return Err(Flaw::Unsupported {
            what: "a mixture of experts".to_owned(),
            supported: "dense decoders are",
        });
    }
    if let Some(name) = header.tensors.keys().find(|name| name.ends_with(".bias")) {
        return Err(Flaw::Unsupported {
            what: format!("a projection with bias ({name})"),
            supported: "decoders without biases are",
        });
    }
    Ok(())
}

fn rope_scaling(header: &Header) -> Result<RopeScaling, Flaw> {
    let meta = &header.metadata;
    match meta.text("llama.rope.scaling.type")?.as_deref() {
        None | Some("none") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear {
            factor: meta.number("llama.rope.scaling.factor")?,
        }),
        Some(other) => Err(Flaw::Unsupported {
            what: format!("rope scaling {other:?}"),
            supported: "none, linear and a rope_freqs tensor are",
        }),
    }
}

/// The stretches of tensor `rope_freqs.weight`, where the file has one.
fn rope_factors(store: &TensorStore) -> Result<Option<Vec<f32>>, Flaw> {
    let name = Naming::Gguf.name(Weight::RopeFactors);
    let Some(shape) = store.shape(&name) else {
        return Ok(None);
    };
    // No head is wider than this; it bounds what is read before the config is checked.
    if shape.len() != 1 || shape[0] > 1 << 16 {
        return Err(Flaw::malformed(
            format!("tensor {name}"),
            format!("has shape {shape:?}"),
        ));
    }
    let read = |error: &dyn std::error::Error| Flaw::malformed("rope factors", error.to_string());
    let factors = store.rows(&name, 0..1).map_err(|error| read(&error))?;
    factors
        .flatten_all()
        .and_then(|all| all.to_vec1())
        .map(Some)
        .map_err(|error| read(&error))
}

fn tokenizer(header: &Header) -> Result<GgufTokenizer, Flaw> {
    let meta = &header.metadata;
    Ok(GgufTokenizer {
        model: meta.text("tokenizer.ggml.model")?.unwrap_or_default(),
        pre: meta.text("tokenizer.ggml.pre")?,
        tokens: meta.texts("tokenizer.ggml.tokens")?,
        token_types: meta.integers("tokenizer.ggml.token_type")?,
        merges: meta.texts("tokenizer.ggml.merges")?,
        scores: meta.numbers("tokenizer.ggml.scores")?,
        bos: meta.token("tokenizer.ggml.bos_token_id")?,
        eos: meta.token("tokenizer.ggml.eos_token_id")?,
        unknown: meta.token("tokenizer.ggml.unknown_token_id")?,
        padding: meta.token("tokenizer.ggml.padding_token_id")?,
        add_bos: meta.flag("tokenizer.ggml.add_bos_token")?,
        add_space_prefix: meta
            .flag("tokenizer.ggml.add_space_prefix")?
            .unwrap_or(false),
        chat_template: meta.text("tokenizer.chat_template")?,
    })
}

fn rows(header: &Header, name: &str) -> Result<usize, Flaw> {
    let tensor = header.tensors.get(name);
    tensor
        .and_then(|tensor| tensor.shape.first().copied())
        .ok_or_else(|| Flaw::malformed(format!("tensor {name}"), "is missing"))
}

fn same(value: usize, config: &ModelConfig, what: &str) -> Result<(), Flaw> {
    if value == config.head_dim {
        return Ok(());
    }
    Err(Flaw::Unsupported {
        what: format!("{what} {value} beside key_length {}", config.head_dim),
        supported: "heads that are rotated whole, with keys as wide as values, are",
    })
}

fn file_name(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests;
