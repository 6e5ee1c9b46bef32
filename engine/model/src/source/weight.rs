//! The weights of a decoder, and the shapes they must have.

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
    QueryBias,
    KeyBias,
    ValueBias,
    /// As long as a head.
    QueryNorm,
    KeyNorm,
    Output,
    /// Of what attention adds.
    AfterAttention,
    MlpNorm,
    Gate,
    Up,
    Down,
    /// Of what the feed-forward block adds.
    AfterMlp,
    /// A row for each expert.
    Router,
    ExpertGate(usize),
    ExpertUp(usize),
    ExpertDown(usize),
}

/// Every weight that `config` asks for.
pub(crate) fn all(config: &ModelConfig) -> impl Iterator<Item = Weight> {
    let mut tables = vec![Weight::Embedding, Weight::FinalNorm];
    if !config.tied_embeddings {
        tables.push(Weight::Head);
    }
    if let RopeScaling::PerFrequency(_) = &config.rope.scaling {
        tables.push(Weight::RopeFactors);
    }
    let of_layer = |layer| {
        let weights = layer_weights(config, layer).into_iter();
        weights.map(move |weight| Weight::Layer(layer, weight))
    };
    let layers = (0..config.layer_count).flat_map(of_layer);
    tables.into_iter().chain(layers)
}

fn layer_weights(config: &ModelConfig, layer: usize) -> Vec<LayerWeight> {
    use LayerWeight as W;
    let graph = &config.graph;
    let mut all = vec![
        W::AttentionNorm,
        W::Query,
        W::Key,
        W::Value,
        W::Output,
        W::MlpNorm,
    ];
    if graph.qkv_bias {
        all.extend([W::QueryBias, W::KeyBias, W::ValueBias]);
    }
    if graph.head_norms {
        all.extend([W::QueryNorm, W::KeyNorm]);
    }
    if graph.norms_after {
        all.extend([W::AfterAttention, W::AfterMlp]);
    }
    match graph.experts_of(layer) {
        None => all.extend([W::Gate, W::Up, W::Down]),
        Some(experts) => {
            let of_expert =
                |expert| [W::ExpertGate, W::ExpertUp, W::ExpertDown].map(|of| of(expert));
            all.push(W::Router);
            all.extend((0..experts.count).flat_map(of_expert));
        }
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

// === impl Weight ===

impl Weight {
    /// `(outputs, inputs)`, or the length of a vector.
    pub(crate) fn shape(self, config: &ModelConfig) -> Vec<usize> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        match self {
            Self::Embedding | Self::Head => vec![vocab, hidden],
            Self::FinalNorm => vec![hidden],
            Self::RopeFactors => vec![config.rope.rotated / 2],
            Self::Layer(_, weight) => weight.shape(config),
        }
    }
}

// === impl LayerWeight ===

impl LayerWeight {
    fn shape(self, config: &ModelConfig) -> Vec<usize> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let query = config.head_count * config.head_dim;
        let kv = config.kv_head_count * config.head_dim;
        let (expert_count, expert_inner) = match &config.graph.experts {
            Some(experts) => (experts.count, experts.intermediate_size),
            None => (0, 0),
        };
        match self {
            Self::AttentionNorm | Self::AfterAttention | Self::MlpNorm | Self::AfterMlp => {
                vec![hidden]
            }
            Self::QueryNorm | Self::KeyNorm => vec![config.head_dim],
            Self::QueryBias => vec![query],
            Self::KeyBias | Self::ValueBias => vec![kv],
            Self::Query => vec![query, hidden],
            Self::Key | Self::Value => vec![kv, hidden],
            Self::Output => vec![hidden, query],
            Self::Gate | Self::Up => vec![inner, hidden],
            Self::Down => vec![hidden, inner],
            Self::Router => vec![expert_count, hidden],
            Self::ExpertGate(_) | Self::ExpertUp(_) => vec![expert_inner, hidden],
            Self::ExpertDown(_) => vec![hidden, expert_inner],
        }
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
