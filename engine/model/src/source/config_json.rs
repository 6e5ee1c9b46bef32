//! `config.json` and `generation_config.json` of a Hugging Face folder.

use std::fs;
use std::io::Read;
use std::path::Path;

use berth_engine_core::batch::TokenId;
use serde::Deserialize;

use super::{Flaw, OpenError};
use crate::config::{ModelConfig, Rope, RopeScaling};

/// Configs in use have a few kilobytes.
const BYTES_MAX: u64 = 1 << 20;
const ARCHITECTURE: &str = "LlamaForCausalLM";

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
    rope_scaling: Option<RopeJson>,
    /// Where transformers 5 keeps theta and scaling together.
    rope_parameters: Option<RopeJson>,
    #[serde(default)]
    tie_word_embeddings: bool,
    max_position_embeddings: usize,
    bos_token_id: Option<TokenId>,
    eos_token_id: Option<OneOrMore>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    quantization_config: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RopeJson {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<f32>,
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
pub(crate) fn read(folder: &Path) -> Result<ModelConfig, OpenError> {
    let path = folder.join("config.json");
    let text = read_bounded(&path).map_err(|flaw| flaw.of(&path))?;
    let name = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut config = parse(&text, name).map_err(|flaw| flaw.of(&path))?;
    let path = folder.join("generation_config.json");
    if path.exists() {
        let eos = read_bounded(&path).and_then(|text| generation_eos(&text));
        for token in eos.map_err(|flaw| flaw.of(&path))? {
            if !config.eos.contains(&token) {
                config.eos.push(token);
            }
        }
    }
    Ok(config)
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

pub(crate) fn parse(text: &[u8], name: String) -> Result<ModelConfig, Flaw> {
    let fault = |error: serde_json::Error| Flaw::malformed("JSON", error.to_string());
    let ArchitectureJson { architectures } = serde_json::from_slice(text).map_err(fault)?;
    if architectures != [ARCHITECTURE] {
        return Err(Flaw::Unsupported {
            what: format!("architecture {}", architectures.join(", ")),
            supported: "folders with architecture LlamaForCausalLM are",
        });
    }
    let json: ConfigJson = serde_json::from_slice(text).map_err(fault)?;
    json.check_supported()?;
    let rope = json.rope()?;
    let per_head = json
        .hidden_size
        .checked_div(json.num_attention_heads)
        .unwrap_or(0);
    Ok(ModelConfig {
        name,
        hidden_size: json.hidden_size,
        layer_count: json.num_hidden_layers,
        head_count: json.num_attention_heads,
        kv_head_count: json.num_key_value_heads.unwrap_or(json.num_attention_heads),
        head_dim: json.head_dim.unwrap_or(per_head),
        intermediate_size: json.intermediate_size,
        vocab_size: json.vocab_size,
        rms_norm_eps: json.rms_norm_eps,
        rope,
        tied_embeddings: json.tie_word_embeddings,
        position_count_max: json.max_position_embeddings,
        bos: json.bos_token_id,
        eos: json
            .eos_token_id
            .map(OneOrMore::into_vec)
            .unwrap_or_default(),
    })
}

// === impl ConfigJson ===

impl ConfigJson {
    fn check_supported(&self) -> Result<(), Flaw> {
        let activation = self.hidden_act.as_deref().unwrap_or("silu");
        let what = if activation != "silu" {
            format!("activation {activation:?}")
        } else if self.attention_bias || self.mlp_bias {
            "a projection with bias".to_owned()
        } else if self.quantization_config.is_some() {
            "a quantization_config".to_owned()
        } else {
            return Ok(());
        };
        Err(Flaw::Unsupported {
            what,
            supported: "bias-free SiLU decoders in F32, F16, BF16 are",
        })
    }

    fn rope(&self) -> Result<Rope, Flaw> {
        let scaled = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        let theta = scaled.and_then(|rope| rope.rope_theta).or(self.rope_theta);
        let scaling = scaled.map_or(Ok(RopeScaling::None), RopeJson::scaling)?;
        Ok(Rope {
            theta: theta.unwrap_or(10_000.0),
            scaling,
        })
    }
}

// === impl RopeJson ===

impl RopeJson {
    fn scaling(&self) -> Result<RopeScaling, Flaw> {
        let wanted = |value: Option<f32>, name: &str| {
            value.ok_or_else(|| Flaw::malformed("rope_scaling", format!("{name} is missing")))
        };
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear {
                factor: wanted(self.factor, "factor")?,
            }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: wanted(self.factor, "factor")?,
                low_freq_factor: wanted(self.low_freq_factor, "low_freq_factor")?,
                high_freq_factor: wanted(self.high_freq_factor, "high_freq_factor")?,
                original_positions: wanted(
                    self.original_max_position_embeddings,
                    "original_max_position_embeddings",
                )?,
            }),
            Some(other) => Err(Flaw::Unsupported {
                what: format!("rope scaling {other:?}"),
                supported: "default, linear and llama3 are",
            }),
        }
    }
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
mod tests {
    use super::*;

    const TEXT: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "vocab_size": 100, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512, "eos_token_id": [1, 2]"#;

    #[track_caller]
    fn parsed(more: &str) -> Result<ModelConfig, String> {
        let text = format!("{TEXT}{more}}}");
        parse(text.as_bytes(), "m".to_owned()).map_err(|flaw| flaw.to_string())
    }

    #[test]
    fn rope_is_read_from_its_three_spellings() {
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 8192.0,
        };
        let numbers = r#""factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192"#;
        let old =
            format!(r#", "rope_theta": 5e5, "rope_scaling": {{"rope_type": "llama3", {numbers}}}"#);
        let new = format!(
            r#", "rope_parameters": {{"rope_type": "llama3", "rope_theta": 5e5, {numbers}}}"#
        );
        for more in [old, new] {
            let rope = parsed(&more).unwrap().rope;
            assert_eq!(
                rope,
                Rope {
                    theta: 5e5,
                    scaling: llama3.clone()
                }
            );
        }
        assert_eq!(parsed("").unwrap().rope.scaling, RopeScaling::None);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let refused = |more: &str| parsed(more).unwrap_err();
        assert_eq!(
            refused(r#", "attention_bias": true"#),
            "a projection with bias is not supported"
        );
        assert_eq!(
            refused(r#", "hidden_act": "gelu""#),
            "activation \"gelu\" is not supported"
        );
        let yarn = r#", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}"#;
        assert_eq!(refused(yarn), "rope scaling \"yarn\" is not supported");
        let other = br#"{"architectures": ["GPT2LMHeadModel"], "n_embd": 768}"#;
        let flaw = parse(other, "m".to_owned()).unwrap_err();
        assert_eq!(
            flaw.to_string(),
            "architecture GPT2LMHeadModel is not supported"
        );
    }
}
