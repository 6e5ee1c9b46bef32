//! What each architecture of a `config.json` does differently, and how its files name weights.

use super::{ConfigJson, Flaw};
use crate::config::{Activation, Experts, Graph, Local, Rope};
use crate::source::naming::{ExpertNames, Format, Naming};

/// What `MistralConfig` of transformers takes where nothing is said.
const MISTRAL_WINDOW: usize = 4_096;

/// An architecture that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma2,
    Gemma3,
    Phi3,
    Mixtral,
    Qwen3Moe,
}

// === impl Family ===

impl Family {
    pub(super) fn of(architectures: &[String]) -> Result<Self, Flaw> {
        let name = architectures.first().map_or("", String::as_str);
        match name {
            _ if architectures.len() > 1 => {}
            "LlamaForCausalLM" => return Ok(Self::Llama),
            "MistralForCausalLM" => return Ok(Self::Mistral),
            "Qwen2ForCausalLM" => return Ok(Self::Qwen2),
            "Qwen3ForCausalLM" => return Ok(Self::Qwen3),
            "Gemma2ForCausalLM" => return Ok(Self::Gemma2),
            "Gemma3ForCausalLM" => return Ok(Self::Gemma3),
            "Phi3ForCausalLM" => return Ok(Self::Phi3),
            "MixtralForCausalLM" => return Ok(Self::Mixtral),
            "Qwen3MoeForCausalLM" => return Ok(Self::Qwen3Moe),
            _ => {}
        }
        Err(Flaw::Unsupported {
            what: format!("architecture {}", architectures.join(", ")),
            supported: "Llama, Mistral, Qwen2, Qwen3, Gemma2, Gemma3, Phi3, Mixtral and Qwen3Moe \
                        (each with ForCausalLM) are",
        })
    }

    pub(super) fn naming(self) -> Naming {
        Naming {
            format: Format::HuggingFace,
            is_joined: self == Self::Phi3,
            has_norms_after: self.is_gemma(),
            interleaves_pairs: false,
            experts: if self == Self::Mixtral {
                ExpertNames::BlockSparse
            } else {
                ExpertNames::Mlp
            },
        }
    }

    pub(super) fn is_tied_by_default(self) -> bool {
        self.is_gemma()
    }

    /// Channels of a head where the file does not say: `None` for those whose heads together are
    /// not as wide as the residual stream, so that nothing is guessed.
    pub(super) fn default_head_dim(self, per_head: usize) -> Option<usize> {
        let is_free = self.is_gemma() || self == Self::Qwen3;
        (!is_free).then_some(per_head)
    }

    /// The base of the rope where the file does not say, as transformers has it.
    pub(super) fn default_theta(self) -> f32 {
        match self {
            Self::Mixtral | Self::Gemma3 => 1_000_000.0,
            _ => 10_000.0,
        }
    }

    fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    pub(super) fn graph(self, json: &ConfigJson, rope: &Rope) -> Result<Graph, Flaw> {
        let mut graph = Graph {
            qkv_bias: self == Self::Qwen2,
            head_norms: matches!(self, Self::Qwen3 | Self::Qwen3Moe | Self::Gemma3),
            activation: json.activation()?,
            local: self.local(json, rope)?,
            experts: self.experts(json)?,
            ..Graph::llama()
        };
        if self.is_gemma() {
            let scalar = wanted(json.query_pre_attn_scalar, "query_pre_attn_scalar")?;
            graph.norms_after = true;
            graph.norm_offset = 1.0;
            graph.embedding_scale = super::real(json.hidden_size).sqrt();
            graph.query_scale = Some(1.0 / scalar.sqrt());
            graph.score_cap = json.attn_logit_softcapping;
            graph.logit_cap = json.final_logit_softcapping;
        }
        if self == Self::Gemma2 {
            wanted(graph.score_cap, "attn_logit_softcapping")?;
            wanted(graph.logit_cap, "final_logit_softcapping")?;
        }
        Ok(graph)
    }

    fn local(self, json: &ConfigJson, rope: &Rope) -> Result<Option<Local>, Flaw> {
        let window = match (self, json.sliding_window) {
            (Self::Llama, _) => None,
            (Self::Mistral, None) => Some(MISTRAL_WINDOW),
            (Self::Gemma2 | Self::Gemma3, None) => Some(wanted(None, "sliding_window")?),
            (Self::Qwen2 | Self::Qwen3 | Self::Qwen3Moe, _) if !json.use_sliding_window => None,
            (Self::Qwen2 | Self::Qwen3 | Self::Qwen3Moe, None) => {
                Some(wanted(None, "sliding_window")?)
            }
            (_, window) => window.flatten(),
        };
        let Some(window) = window else {
            return Ok(None);
        };
        let layers = match &json.layer_types {
            Some(types) => layers_by_type(types)?,
            None => {
                if matches!(self, Self::Qwen2 | Self::Qwen3) {
                    wanted(json.max_window_layers, "max_window_layers")?;
                }
                let is_local = |index| self.is_local(json, index);
                (0..json.num_hidden_layers).map(is_local).collect()
            }
        };
        if !layers.contains(&true) {
            return Ok(None);
        }
        let rope = match self {
            Self::Gemma3 => json.local_rope(rope)?,
            _ => rope.clone(),
        };
        Ok(Some(Local {
            window,
            rope,
            layers,
        }))
    }

    /// Whether layer `index` sees a window, where the file does not list it.
    fn is_local(self, json: &ConfigJson, index: usize) -> bool {
        match self {
            Self::Gemma2 => index.is_multiple_of(2),
            Self::Gemma3 => !(index + 1).is_multiple_of(json.sliding_window_pattern.unwrap_or(6)),
            Self::Qwen2 | Self::Qwen3 => index >= json.max_window_layers.unwrap_or(0),
            _ => true,
        }
    }

    fn experts(self, json: &ConfigJson) -> Result<Option<Experts>, Flaw> {
        let (intermediate_size, is_normalised) = match self {
            Self::Mixtral => (json.intermediate_size, true),
            Self::Qwen3Moe => (
                wanted(json.moe_intermediate_size, "moe_intermediate_size")?,
                json.norm_topk_prob,
            ),
            _ => return Ok(None),
        };
        let step = json.decoder_sparse_step.unwrap_or(1).max(1);
        let is_sparse = |index: usize| {
            !json.mlp_only_layers.contains(&index) && (index + 1).is_multiple_of(step)
        };
        let layers: Vec<bool> = (0..json.num_hidden_layers).map(is_sparse).collect();
        if !layers.contains(&true) {
            return Ok(None);
        }
        Ok(Some(Experts {
            count: wanted(json.num_experts.or(json.num_local_experts), "num_experts")?,
            per_row: wanted(json.num_experts_per_tok, "num_experts_per_tok")?,
            intermediate_size,
            is_normalised,
            layers,
        }))
    }
}

// === impl ConfigJson ===

impl ConfigJson {
    fn activation(&self) -> Result<Activation, Flaw> {
        // Gemma's own name goes first: old files have a wrong one beside it.
        let named = self.hidden_activation.as_ref().or(self.hidden_act.as_ref());
        match named.map_or("silu", String::as_str) {
            "silu" => Ok(Activation::Silu),
            "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            other => Err(Flaw::Unsupported {
                what: format!("activation {other:?}"),
                supported: "silu and gelu_pytorch_tanh are",
            }),
        }
    }
}

fn layers_by_type(types: &[String]) -> Result<Vec<bool>, Flaw> {
    let is_local = |name: &String| match name.as_str() {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => Err(Flaw::Unsupported {
            what: format!("layer type {other:?}"),
            supported: "full_attention and sliding_attention are",
        }),
    };
    types.iter().map(is_local).collect()
}

pub(super) fn wanted<T>(value: Option<T>, name: &'static str) -> Result<T, Flaw> {
    value.ok_or_else(|| Flaw::malformed(name, "is missing"))
}
