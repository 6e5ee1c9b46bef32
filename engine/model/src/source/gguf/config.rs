//! The decoder that a GGUF file describes, by its architecture.
//!
//! Keys are those of gguf-py (`constants.py` in ggml-org/llama.cpp); what a file leaves to its
//! architecture is what `src/llama-model.cpp` there takes.

use std::path::Path;

use super::header::Header;
use super::metadata::Metadata;
use crate::config::{
    Activation, Experts, Graph, Local, LongRope, ModelConfig, Rope, RopeScaling, Yarn,
    check_layer_count,
};
use crate::source::Flaw;
use crate::source::config_json::rope::yarn_magnitude;
use crate::source::naming::{ExpertNames, Format, Naming};
use crate::source::weight::Weight;

/// An architecture that is read. Mistral and Mixtral come as `llama`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Llama,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    Gemma2,
    Gemma3,
    Phi3,
}

/// The metadata of one architecture: keys begin with its name.
struct Keys<'a> {
    meta: &'a Metadata,
    architecture: String,
}

/// Stretches of rotary wavelengths that the file has as tensors.
pub(super) struct Stretches {
    /// `rope_freqs`.
    pub(super) always: Option<Vec<f32>>,
    /// `rope_factors_short` and `rope_factors_long`.
    pub(super) short: Option<Vec<f32>>,
    pub(super) long: Option<Vec<f32>>,
}

/// The config, less what only tensors tell.
pub(super) fn config(path: &Path, header: &Header) -> Result<(ModelConfig, Naming), Flaw> {
    let meta = &header.metadata;
    let architecture = meta.text("general.architecture")?.unwrap_or_default();
    let family = Family::of(&architecture)?;
    let keys = Keys { meta, architecture };
    let naming = family.naming();
    let head_count = keys.size("attention.head_count")?;
    let hidden_size = keys.size("embedding_length")?;
    let layer_count = keys.size("block_count")?;
    check_layer_count(layer_count)?;
    let per_head = hidden_size.checked_div(head_count).unwrap_or(0);
    let head_dim = keys.size_or("attention.key_length", per_head)?;
    let has_head = header.tensors.contains_key(&naming.name(Weight::Head));
    let mut config = ModelConfig {
        name: meta
            .text("general.name")?
            .unwrap_or_else(|| file_name(path)),
        hidden_size,
        layer_count,
        head_count,
        kv_head_count: keys.size_or("attention.head_count_kv", head_count)?,
        head_dim,
        intermediate_size: keys.size("feed_forward_length")?,
        vocab_size: rows(header, &naming.name(Weight::Embedding))?,
        rms_norm_eps: keys.number("attention.layer_norm_rms_epsilon")?,
        rope: Rope {
            theta: keys.number_or("rope.freq_base", 10_000.0)?,
            rotated: keys.size_or("rope.dimension_count", head_dim)?,
            scaling: keys.rope_scaling()?,
        },
        graph: Graph::llama(),
        tied_embeddings: !has_head,
        position_count_max: keys.size("context_length")?,
        bos: meta.token("tokenizer.ggml.bos_token_id")?,
        eos: meta
            .token("tokenizer.ggml.eos_token_id")?
            .into_iter()
            .chain(meta.token("tokenizer.ggml.eot_token_id")?)
            .collect(),
    };
    config.graph = family.graph(&keys, &config)?;
    keys.check_values(head_dim)?;
    if naming.interleaves_pairs && config.rope.rotated != head_dim {
        return Err(Flaw::Unsupported {
            what: format!("{} rotated channels of {head_dim}", config.rope.rotated),
            supported: "heads of which llama rotates all channels are",
        });
    }
    Ok((config, naming))
}

/// Replaces the scaling of the rope by what tensors tell.
pub(super) fn stretch(
    config: &mut ModelConfig,
    header: &Header,
    stretches: Stretches,
) -> Result<(), Flaw> {
    let before = config.rope.clone();
    let meta = &header.metadata;
    let architecture = meta.text("general.architecture")?.unwrap_or_default();
    let keys = Keys { meta, architecture };
    if let Some(factors) = stretches.always {
        if before.scaling != RopeScaling::None {
            return Err(Flaw::malformed(
                "rope_freqs",
                "stretches what rope.scaling.type scales already",
            ));
        }
        config.rope.scaling = RopeScaling::PerFrequency(factors);
    }
    match (stretches.short, stretches.long) {
        (Some(short), Some(long)) => {
            config.rope.scaling = RopeScaling::LongRope(LongRope {
                short,
                long,
                original_positions: keys.real_size("rope.scaling.original_context_length")?,
                magnitude: keys.number_or("rope.scaling.attn_factor", 1.0)?,
            });
        }
        (None, None) if !keys.is_longrope()? => {}
        _ => {
            return Err(Flaw::malformed(
                "rope_factors_long and rope_factors_short",
                "longrope needs both",
            ));
        }
    }
    match &mut config.graph.local {
        Some(local) if local.rope == before => local.rope = config.rope.clone(),
        _ => {}
    }
    Ok(())
}

// === impl Family ===

impl Family {
    fn of(architecture: &str) -> Result<Self, Flaw> {
        Ok(match architecture {
            "llama" => Self::Llama,
            "qwen2" => Self::Qwen2,
            "qwen3" => Self::Qwen3,
            "qwen3moe" => Self::Qwen3Moe,
            "gemma2" => Self::Gemma2,
            "gemma3" => Self::Gemma3,
            "phi3" => Self::Phi3,
            other => {
                return Err(Flaw::Unsupported {
                    what: format!("architecture {other:?}"),
                    supported: "GGUF files of architecture llama, qwen2, qwen3, qwen3moe, gemma2, \
                                gemma3 and phi3 are",
                });
            }
        })
    }

    fn naming(self) -> Naming {
        Naming {
            format: Format::Gguf,
            is_joined: self == Self::Phi3,
            has_norms_after: self.is_gemma(),
            interleaves_pairs: self == Self::Llama,
            experts: ExpertNames::Mlp,
        }
    }

    fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    fn graph(self, keys: &Keys<'_>, config: &ModelConfig) -> Result<Graph, Flaw> {
        let mut graph = Graph {
            qkv_bias: self == Self::Qwen2,
            head_norms: matches!(self, Self::Qwen3 | Self::Qwen3Moe | Self::Gemma3),
            local: self.local(keys, config)?,
            experts: self.experts(keys, config)?,
            ..Graph::llama()
        };
        if self.is_gemma() {
            // The converter has added the 1 to the weights of norms already.
            graph.norms_after = true;
            graph.activation = Activation::GeluTanh;
            graph.embedding_scale = real(config.hidden_size).sqrt();
            graph.query_scale = Some(1.0 / real(self.query_width(config)).sqrt());
        }
        if self == Self::Gemma2 {
            graph.score_cap = Some(keys.number("attn_logit_softcapping")?);
            graph.logit_cap = Some(keys.number("final_logit_softcapping")?);
        }
        Ok(graph)
    }

    /// What Gemma's queries are divided by the root of. Its models of 27 billion parameters, told
    /// by their layers, take the width of the residual stream for each head.
    fn query_width(self, config: &ModelConfig) -> usize {
        let largest = if self == Self::Gemma2 { 46 } else { 62 };
        if config.layer_count == largest {
            config
                .hidden_size
                .checked_div(config.head_count)
                .unwrap_or(0)
        } else {
            config.head_dim
        }
    }

    fn local(self, keys: &Keys<'_>, config: &ModelConfig) -> Result<Option<Local>, Flaw> {
        let window = match self {
            Self::Gemma2 | Self::Gemma3 => keys.size("attention.sliding_window")?,
            Self::Phi3 => keys.size_or("attention.sliding_window", 0)?,
            _ => 0,
        };
        if window == 0 {
            return Ok(None);
        }
        let period = match self {
            Self::Gemma2 => keys.size_or("attention.sliding_window_pattern", 2)?,
            Self::Gemma3 => keys.size_or("attention.sliding_window_pattern", 6)?,
            _ => 0,
        };
        let is_local = |index: usize| !(index + 1).is_multiple_of(period);
        let rope = match self {
            Self::Gemma3 => Rope {
                theta: keys.number_or("rope.freq_base_swa", 10_000.0)?,
                scaling: RopeScaling::None,
                ..config.rope.clone()
            },
            _ => config.rope.clone(),
        };
        Ok(Some(Local {
            window,
            rope,
            layers: (0..config.layer_count).map(is_local).collect(),
        }))
    }

    fn experts(self, keys: &Keys<'_>, config: &ModelConfig) -> Result<Option<Experts>, Flaw> {
        let count = keys.size_or("expert_count", 0)?;
        let intermediate_size = match self {
            Self::Llama if count > 0 => config.intermediate_size,
            Self::Qwen3Moe => keys.size("expert_feed_forward_length")?,
            _ if count > 0 => {
                return Err(Flaw::Unsupported {
                    what: "a mixture of experts".to_owned(),
                    supported: "those of Mixtral and Qwen 3 are",
                });
            }
            _ => return Ok(None),
        };
        Ok(Some(Experts {
            count,
            per_row: keys.size("expert_used_count")?,
            intermediate_size,
            is_normalised: true,
            layers: vec![true; config.layer_count],
        }))
    }
}

// === impl Keys ===

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size(&self, name: &str) -> Result<usize, Flaw> {
        self.meta.size(&self.key(name))
    }

    fn size_or(&self, name: &str, default: usize) -> Result<usize, Flaw> {
        self.meta.size_or(&self.key(name), default)
    }

    /// A size to compute with.
    fn real_size(&self, name: &str) -> Result<f32, Flaw> {
        self.size(name).map(real)
    }

    fn number(&self, name: &str) -> Result<f32, Flaw> {
        self.meta.number(&self.key(name))
    }

    fn number_or(&self, name: &str, default: f32) -> Result<f32, Flaw> {
        self.meta.number_or(&self.key(name), default)
    }

    fn is_longrope(&self) -> Result<bool, Flaw> {
        let kind = self.meta.text(&self.key("rope.scaling.type"))?;
        Ok(kind.as_deref() == Some("longrope"))
    }

    fn rope_scaling(&self) -> Result<RopeScaling, Flaw> {
        let kind = self.meta.text(&self.key("rope.scaling.type"))?;
        match kind.as_deref() {
            // Longrope's numbers are tensors.
            None | Some("none" | "longrope") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear {
                factor: self.number("rope.scaling.factor")?,
            }),
            Some("yarn") => {
                let factor = self.number("rope.scaling.factor")?;
                let scale = self.number_or("rope.scaling.attn_factor", 1.0)?;
                Ok(RopeScaling::Yarn(Yarn {
                    factor,
                    original_positions: self.real_size("rope.scaling.original_context_length")?,
                    beta_fast: self.number_or("rope.scaling.yarn_beta_fast", 32.0)?,
                    beta_slow: self.number_or("rope.scaling.yarn_beta_slow", 1.0)?,
                    is_truncated: true,
                    magnitude: scale * yarn_magnitude(factor, 1.0),
                }))
            }
            Some(other) => Err(Flaw::Unsupported {
                what: format!("rope scaling {other:?}"),
                supported: "none, linear, yarn, longrope and a rope_freqs tensor are",
            }),
        }
    }

    /// Values are as wide as keys.
    fn check_values(&self, head_dim: usize) -> Result<(), Flaw> {
        let width = self.size_or("attention.value_length", head_dim)?;
        if width == head_dim {
            return Ok(());
        }
        Err(Flaw::Unsupported {
            what: format!("value_length {width} beside key_length {head_dim}"),
            supported: "heads with keys as wide as values are",
        })
    }
}

fn rows(header: &Header, name: &str) -> Result<usize, Flaw> {
    let tensor = header.tensors.get(name);
    tensor
        .and_then(|tensor| tensor.shape.first().copied())
        .ok_or_else(|| Flaw::malformed(format!("tensor {name}"), "is missing"))
}

fn file_name(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "widths and positions in use are below 2^24"
)]
fn real(count: usize) -> f32 {
    count as f32
}
