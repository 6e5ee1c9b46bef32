//! `config.json` and `generation_config.json` of a Hugging Face folder.

use std::fs;
use std::io::Read;
use std::path::Path;

use berth_engine_core::batch::TokenId;
use serde::{Deserialize, Deserializer};

use super::naming::Naming;
use super::{Flaw, OpenError};
use crate::config::{ModelConfig, Rope, RopeScaling, check_layer_count};
use family::{Family, wanted};
use rope::{Positions, RopeJson};

mod family;
pub(crate) mod rope;

/// Configs in use have a few kilobytes.
const BYTES_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
struct ConfigJson {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_local_base_freq: Option<f32>,
    rope_scaling: Option<RopeJson>,
    rope_parameters: Option<RopeJson>,
    partial_rotary_factor: Option<f32>,
    tie_word_embeddings: Option<bool>,
    max_position_embeddings: usize,
    original_max_position_embeddings: Option<f32>,
    bos_token_id: Option<TokenId>,
    eos_token_id: Option<OneOrMore>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    use_bidirectional_attention: Option<bool>,
    quantization_config: Option<serde_json::Value>,
    query_pre_attn_scalar: Option<f32>,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    /// The outer is none where the file has no such field, the inner where it says null.
    #[serde(default, deserialize_with = "said")]
    sliding_window: Option<Option<usize>>,
    #[serde(default)]
    use_sliding_window: bool,
    max_window_layers: Option<usize>,
    #[serde(alias = "_sliding_window_pattern")]
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    num_experts: Option<usize>,
    num_local_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    moe_intermediate_size: Option<usize>,
    #[serde(default)]
    norm_topk_prob: bool,
    decoder_sparse_step: Option<usize>,
    #[serde(default)]
    mlp_only_layers: Vec<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(TokenId),
    More(Vec<TokenId>),
}

#[derive(Deserialize)]
struct GenerationJson {
    eos_token_id: Option<OneOrMore>,
}

/// Only what the architecture check needs: other models' configs lack our fields.
#[derive(Deserialize)]
struct ArchitectureJson {
    #[serde(default)]
    architectures: Vec<String>,
}

/// Reads the folder's `config.json`, and the end tokens of its `generation_config.json`.
pub(crate) fn read(folder: &Path) -> Result<(ModelConfig, Naming), OpenError> {
    let path = folder.join("config.json");
    let text = read_bounded(&path).map_err(|flaw| flaw.of(&path))?;
    let name = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let (mut config, naming) = parse(&text, name).map_err(|flaw| flaw.of(&path))?;
    let path = folder.join("generation_config.json");
    if path.exists() {
        let eos = read_bounded(&path).and_then(|text| generation_eos(&text));
        for token in eos.map_err(|flaw| flaw.of(&path))? {
            if !config.eos.contains(&token) {
                config.eos.push(token);
            }
        }
    }
    Ok((config, naming))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Flaw> {
    let mut text = Vec::new();
    fs::File::open(path)?
        .take(BYTES_MAX + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(Flaw::malformed(
            "file",
            format!("is longer than {BYTES_MAX} bytes"),
        ));
    }
    Ok(text)
}

fn generation_eos(text: &[u8]) -> Result<Vec<TokenId>, Flaw> {
    let json: GenerationJson =
        serde_json::from_slice(text).map_err(|error| Flaw::malformed("JSON", error.to_string()))?;
    Ok(json
        .eos_token_id
        .map(OneOrMore::into_vec)
        .unwrap_or_default())
}

pub(crate) fn parse(text: &[u8], name: String) -> Result<(ModelConfig, Naming), Flaw> {
    let fault = |error: serde_json::Error| Flaw::malformed("JSON", error.to_string());
    let ArchitectureJson { architectures } = serde_json::from_slice(text).map_err(fault)?;
    let family = Family::of(&architectures)?;
    let json: ConfigJson = serde_json::from_slice(text).map_err(fault)?;
    json.check_supported()?;
    check_layer_count(json.num_hidden_layers)?;
    let per_head = json
        .hidden_size
        .checked_div(json.num_attention_heads)
        .unwrap_or(0);
    let head_dim = json.head_dim.or(family.default_head_dim(per_head));
    let head_dim = wanted(head_dim, "head_dim")?;
    let rope = json.rope(head_dim, family.default_theta())?;
    let config = ModelConfig {
        name,
        hidden_size: json.hidden_size,
        layer_count: json.num_hidden_layers,
        head_count: json.num_attention_heads,
        kv_head_count: json.num_key_value_heads.unwrap_or(json.num_attention_heads),
        head_dim,
        intermediate_size: json.intermediate_size,
        vocab_size: json.vocab_size,
        rms_norm_eps: json.rms_norm_eps,
        graph: family.graph(&json, &rope)?,
        tied_embeddings: json
            .tie_word_embeddings
            .unwrap_or_else(|| family.is_tied_by_default()),
        position_count_max: position_count(json.max_position_embeddings, &rope),
        rope,
        bos: json.bos_token_id,
        eos: json
            .eos_token_id
            .map(OneOrMore::into_vec)
            .unwrap_or_default(),
    };
    Ok((config, family.naming()))
}

/// Positions that the model may be served with: Qwen's files tell those of the first training,
/// and a stretch.
fn position_count(told: usize, rope: &Rope) -> usize {
    let RopeScaling::Yarn(yarn) = &rope.scaling else {
        return told;
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it saturates, and the config is checked afterwards"
    )]
    let stretched = (yarn.factor * yarn.original_positions) as usize;
    told.max(stretched)
}

/// A field that is there, be it null.
fn said<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<usize>>, D::Error> {
    Option::deserialize(value).map(Some)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "widths and positions in use are below 2^24"
)]
fn real(count: usize) -> f32 {
    count as f32
}

// === impl ConfigJson ===

impl ConfigJson {
    fn check_supported(&self) -> Result<(), Flaw> {
        let what = if self.attention_bias || self.mlp_bias {
            "a projection with bias"
        } else if self.use_bidirectional_attention == Some(true) {
            "attention to later positions"
        } else if self.quantization_config.is_some() {
            "a quantization_config"
        } else {
            return Ok(());
        };
        Err(Flaw::Unsupported {
            what: what.to_owned(),
            supported: "bias-free decoders in F32, F16, BF16 are",
        })
    }

    /// Of the layers that see all positions.
    fn rope(&self, head_dim: usize, default_theta: f32) -> Result<Rope, Flaw> {
        let told = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        let told = told.map(|rope| rope.full_attention.as_deref().unwrap_or(rope));
        let theta = told.and_then(|rope| rope.rope_theta).or(self.rope_theta);
        let part = told
            .and_then(|rope| rope.partial_rotary_factor)
            .or(self.partial_rotary_factor);
        let positions = Positions {
            count_max: real(self.max_position_embeddings),
            original: self.original_max_position_embeddings,
        };
        Ok(Rope {
            theta: theta.unwrap_or(default_theta),
            rotated: part.map_or(head_dim, |part| part_of(head_dim, part)),
            scaling: told.map_or(Ok(RopeScaling::None), |rope| rope.scaling(positions))?,
        })
    }

    /// Of the layers that see a window, where they have their own base and are not stretched.
    fn local_rope(&self, rope: &Rope) -> Result<Rope, Flaw> {
        let told = self.rope_parameters.as_ref();
        let told = told.and_then(|rope| rope.sliding_attention.as_deref());
        let theta = told
            .and_then(|rope| rope.rope_theta)
            .or(self.rope_local_base_freq);
        Ok(Rope {
            theta: wanted(theta, "rope_local_base_freq")?,
            rotated: rope.rotated,
            scaling: RopeScaling::None,
        })
    }
}

/// Some of a head's channels, rounded down.
fn part_of(head_dim: usize, part: f32) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it saturates, and the config is checked afterwards"
    )]
    let rotated = (real(head_dim) * part) as usize;
    rotated
}

// === impl OneOrMore ===

impl OneOrMore {
    fn into_vec(self) -> Vec<TokenId> {
        match self {
            Self::One(token) => vec![token],
            Self::More(tokens) => tokens,
        }
    }
}

#[cfg(test)]
mod tests;
