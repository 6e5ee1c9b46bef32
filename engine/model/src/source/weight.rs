//! The weights of a decoder, their names in both formats, and the shapes they must have.

use candle_core::Tensor;

use crate::config::{ModelConfig, RopeScaling};

/// One weight of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    Embedding,
    FinalNorm,
    /// The output projection, where it is not the embedding.
    Head,
    Layer(usize, LayerWeight),
    /// GGUF only: one stretch per rotary frequency.
    RopeFactors,
}

/// One weight of a layer. Matrices are `(outputs, inputs)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerWeight {
    AttentionNorm,
    Query,
    Key,
    Value,
    Output,
    MlpNorm,
    Gate,
    Up,
    Down,
}

/// Which names a file gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    Gguf,
    HuggingFace,
}

const LAYER_WEIGHTS: [LayerWeight; 9] = [
    LayerWeight::AttentionNorm,
    LayerWeight::Query,
    LayerWeight::Key,
    LayerWeight::Value,
    LayerWeight::Output,
    LayerWeight::MlpNorm,
    LayerWeight::Gate,
    LayerWeight::Up,
    LayerWeight::Down,
];

/// Every weight that `config` asks for, with its shape.
pub(crate) fn expected(config: &ModelConfig) -> Vec<(Weight, Vec<usize>)> {
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let mut all = vec![
        (Weight::Embedding, vec![vocab, hidden]),
        (Weight::FinalNorm, vec![hidden]),
    ];
    if !config.tied_embeddings {
        all.push((Weight::Head, vec![vocab, hidden]));
    }
    if let RopeScaling::PerFrequency(factors) = &config.rope.scaling {
        all.push((Weight::RopeFactors, vec![factors.len()]));
    }
    for layer in 0..config.layer_count {
        let shapes =
            LAYER_WEIGHTS.map(|weight| (Weight::Layer(layer, weight), weight.shape(config)));
        all.extend(shapes);
    }
    all
}

/// Query or key rows of whole heads, from GGUF's order into the one of
/// [`crate::config::Rope`]. `llama.cpp` stores the two channels of a rotary pair side by side
/// (`permute` in its `conversion/llama.py`); here they lie `head_dim / 2` apart.
///
/// * `rows`: `(heads * head_dim, inputs)`. Same shape out, contiguous.
pub(crate) fn pairs_apart(rows: &Tensor, head_dim: usize) -> candle_core::Result<Tensor> {
    let (row_count, inputs) = rows.dims2()?;
    rows.reshape((row_count / head_dim, head_dim / 2, 2, inputs))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((row_count, inputs))
}

/// Which row of GGUF's order is row `row` of [`pairs_apart`].
pub(crate) fn row_before_pairs_apart(row: usize, head_dim: usize) -> usize {
    let (head, channel) = (row / head_dim, row % head_dim);
    let (side, pair) = (channel / (head_dim / 2), channel % (head_dim / 2));
    head * head_dim + 2 * pair + side
}

// === impl LayerWeight ===

impl LayerWeight {
    fn shape(self, config: &ModelConfig) -> Vec<usize> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let query = config.head_count * config.head_dim;
        let kv = config.kv_head_count * config.head_dim;
        match self {
            Self::AttentionNorm | Self::MlpNorm => vec![hidden],
            Self::Query => vec![query, hidden],
            Self::Key | Self::Value => vec![kv, hidden],
            Self::Output => vec![hidden, query],
            Self::Gate | Self::Up => vec![inner, hidden],
            Self::Down => vec![hidden, inner],
        }
    }

    fn gguf_name(self) -> &'static str {
        match self {
            Self::AttentionNorm => "attn_norm",
            Self::Query => "attn_q",
            Self::Key => "attn_k",
            Self::Value => "attn_v",
            Self::Output => "attn_output",
            Self::MlpNorm => "ffn_norm",
            Self::Gate => "ffn_gate",
            Self::Up => "ffn_up",
            Self::Down => "ffn_down",
        }
    }

    fn hugging_face_name(self) -> &'static str {
        match self {
            Self::AttentionNorm => "input_layernorm",
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::MlpNorm => "post_attention_layernorm",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }
}

// === impl Naming ===

impl Naming {
    pub(crate) fn name(self, weight: Weight) -> String {
        match (self, weight) {
            (Self::Gguf, Weight::Embedding) => "token_embd.weight".to_owned(),
            (Self::Gguf, Weight::FinalNorm) => "output_norm.weight".to_owned(),
            (Self::Gguf, Weight::Head) => "output.weight".to_owned(),
            (_, Weight::RopeFactors) => "rope_freqs.weight".to_owned(),
            (Self::Gguf, Weight::Layer(layer, weight)) => {
                format!("blk.{layer}.{}.weight", weight.gguf_name())
            }
            (Self::HuggingFace, Weight::Embedding) => "model.embed_tokens.weight".to_owned(),
            (Self::HuggingFace, Weight::FinalNorm) => "model.norm.weight".to_owned(),
            (Self::HuggingFace, Weight::Head) => "lm_head.weight".to_owned(),
            (Self::HuggingFace, Weight::Layer(layer, weight)) => {
                format!("model.layers.{layer}.{}.weight", weight.hugging_face_name())
            }
        }
    }

    /// Rows of this weight need [`pairs_apart`].
    pub(crate) fn interleaves_pairs(self, weight: Weight) -> bool {
        let rotated = matches!(
            weight,
            Weight::Layer(_, LayerWeight::Query | LayerWeight::Key)
        );
        self == Self::Gguf && rotated
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn single_rows_come_from_where_whole_heads_come_from() {
        let stored: Vec<f32> = (0_u8..24).map(f32::from).collect();
        let rows = Tensor::from_vec(stored, (24, 1), &Device::Cpu).unwrap();
        let apart = pairs_apart(&rows, 8).unwrap();
        let expected: Vec<f32> = apart.flatten_all().unwrap().to_vec1().unwrap();
        let found: Vec<f32> = (0..24)
            .map(|row| f32::from(u8::try_from(row_before_pairs_apart(row, 8)).unwrap()))
            .collect();
        assert_eq!(found, expected);
    }
}
