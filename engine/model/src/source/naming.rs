//! What files call the weights of a decoder, and where several are one tensor.

use super::weight::{LayerWeight, Weight};
use crate::config::ModelConfig;

/// How a model's files name its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Naming {
    pub(crate) format: Format,
    /// Query, key and value are one tensor, and so are gate and up (Phi).
    pub(crate) is_joined: bool,
    /// There are norms after the blocks, which changes the names of those before (Gemma).
    pub(crate) has_norms_after: bool,
    /// The two channels of a rotary pair lie side by side in rows of query and key (Llama's GGUF).
    pub(crate) interleaves_pairs: bool,
    /// In folders.
    pub(crate) experts: ExpertNames,
}

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Gguf,
    HuggingFace,
}

/// What folders call experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpertNames {
    /// Mixtral's.
    BlockSparse,
    /// Qwen's.
    Mlp,
}

/// Where a file has a weight: some rows of a tensor, all of them as a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) first_row: usize,
    /// Of the whole tensor.
    pub(crate) shape: Vec<usize>,
}

// === impl Naming ===

impl Naming {
    /// Where `weight` of a model like `config` is.
    pub(crate) fn place(self, weight: Weight, config: &ModelConfig) -> Place {
        let (first_row, shape) = self.rows_of_tensor(weight, config);
        Place {
            name: self.name(weight),
            first_row,
            shape,
        }
    }

    /// The first row, and the shape of the tensor that it is in.
    fn rows_of_tensor(self, weight: Weight, config: &ModelConfig) -> (usize, Vec<usize>) {
        use LayerWeight as W;
        let own = weight.shape(config);
        let Weight::Layer(_, of_layer) = weight else {
            return (0, own);
        };
        let rows = |weight: W| Weight::Layer(0, weight).shape(config)[0];
        let qkv = vec![rows(W::Query) + 2 * rows(W::Key), config.hidden_size];
        let gate_up = vec![2 * rows(W::Gate), config.hidden_size];
        match of_layer {
            W::Query if self.is_joined => (0, qkv),
            W::Key if self.is_joined => (rows(W::Query), qkv),
            W::Value if self.is_joined => (rows(W::Query) + rows(W::Key), qkv),
            W::Gate if self.is_joined => (0, gate_up),
            W::Up if self.is_joined => (rows(W::Gate), gate_up),
            W::ExpertGate(expert) | W::ExpertUp(expert) | W::ExpertDown(expert)
                if self.format == Format::Gguf =>
            {
                let count = rows(W::Router);
                (expert * own[0], [vec![count], own].concat())
            }
            _ => (0, own),
        }
    }

    pub(crate) fn name(self, weight: Weight) -> String {
        let name = match (self.format, weight) {
            (_, Weight::RopeFactors) => "rope_freqs",
            (Format::Gguf, Weight::Embedding) => "token_embd",
            (Format::Gguf, Weight::FinalNorm) => "output_norm",
            (Format::Gguf, Weight::Head) => "output",
            (Format::HuggingFace, Weight::Embedding) => "model.embed_tokens",
            (Format::HuggingFace, Weight::FinalNorm) => "model.norm",
            (Format::HuggingFace, Weight::Head) => "lm_head",
            (Format::Gguf, Weight::Layer(layer, weight)) => {
                &format!("blk.{layer}.{}", self.gguf(weight))
            }
            (Format::HuggingFace, Weight::Layer(layer, weight)) => {
                &format!("model.layers.{layer}.{}", self.hugging_face(weight))
            }
        };
        let is_bias = matches!(
            weight,
            Weight::Layer(
                _,
                LayerWeight::QueryBias | LayerWeight::KeyBias | LayerWeight::ValueBias
            )
        );
        format!("{name}.{}", if is_bias { "bias" } else { "weight" })
    }

    /// As the tensor names of gguf-py (`constants.py` in ggml-org/llama.cpp).
    fn gguf(self, weight: LayerWeight) -> &'static str {
        use LayerWeight as W;
        match weight {
            W::AttentionNorm => "attn_norm",
            W::Query | W::Key | W::Value if self.is_joined => "attn_qkv",
            W::Query | W::QueryBias => "attn_q",
            W::Key | W::KeyBias => "attn_k",
            W::Value | W::ValueBias => "attn_v",
            W::QueryNorm => "attn_q_norm",
            W::KeyNorm => "attn_k_norm",
            W::Output => "attn_output",
            W::AfterAttention => "post_attention_norm",
            W::MlpNorm => "ffn_norm",
            W::Gate if self.is_joined => "ffn_up",
            W::Gate => "ffn_gate",
            W::Up => "ffn_up",
            W::Down => "ffn_down",
            W::AfterMlp => "post_ffw_norm",
            W::Router => "ffn_gate_inp",
            W::ExpertGate(_) => "ffn_gate_exps",
            W::ExpertUp(_) => "ffn_up_exps",
            W::ExpertDown(_) => "ffn_down_exps",
        }
    }

    fn hugging_face(self, weight: LayerWeight) -> String {
        use LayerWeight as W;
        let name = match weight {
            W::AttentionNorm => "input_layernorm",
            W::Query | W::Key | W::Value if self.is_joined => "self_attn.qkv_proj",
            W::Query | W::QueryBias => "self_attn.q_proj",
            W::Key | W::KeyBias => "self_attn.k_proj",
            W::Value | W::ValueBias => "self_attn.v_proj",
            W::QueryNorm => "self_attn.q_norm",
            W::KeyNorm => "self_attn.k_norm",
            W::Output => "self_attn.o_proj",
            W::AfterAttention => "post_attention_layernorm",
            W::MlpNorm if self.has_norms_after => "pre_feedforward_layernorm",
            W::MlpNorm => "post_attention_layernorm",
            W::Gate | W::Up if self.is_joined => "mlp.gate_up_proj",
            W::Gate => "mlp.gate_proj",
            W::Up => "mlp.up_proj",
            W::Down => "mlp.down_proj",
            W::AfterMlp => "post_feedforward_layernorm",
            W::Router => self.experts.router(),
            W::ExpertGate(expert) => return self.experts.name(expert, 0),
            W::ExpertUp(expert) => return self.experts.name(expert, 1),
            W::ExpertDown(expert) => return self.experts.name(expert, 2),
        };
        name.to_owned()
    }

    /// Rows of this weight need [`super::weight::pairs_apart`].
    pub(crate) fn interleaves(self, weight: Weight) -> bool {
        let rotated = matches!(
            weight,
            Weight::Layer(_, LayerWeight::Query | LayerWeight::Key)
        );
        self.interleaves_pairs && rotated
    }
}

// === impl ExpertNames ===

impl ExpertNames {
    fn router(self) -> &'static str {
        match self {
            Self::BlockSparse => "block_sparse_moe.gate",
            Self::Mlp => "mlp.gate",
        }
    }

    /// Of gate, up or down, in this order.
    fn name(self, expert: usize, part: usize) -> String {
        match self {
            Self::BlockSparse => {
                let part = ["w1", "w3", "w2"][part];
                format!("block_sparse_moe.experts.{expert}.{part}")
            }
            Self::Mlp => {
                let part = ["gate_proj", "up_proj", "down_proj"][part];
                format!("mlp.experts.{expert}.{part}")
            }
        }
    }
}
