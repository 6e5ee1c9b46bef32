//! What families of decoders do differently from Llama: a family adds only its difference.

use super::{ConfigError, EXPERTS_MAX, Rope, WIDTH_MAX, fault, positive, within};

/// The differences; Llama's are [`Graph::llama`].
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Queries, keys and values have a bias (Qwen 2).
    pub qkv_bias: bool,
    /// Each head's queries and keys are normalised before they are turned (Qwen 3, Gemma 3).
    pub head_norms: bool,
    /// What attention and the feed-forward block add is normalised first (Gemma).
    pub norms_after: bool,
    /// Added to the weights of norms as they are stored: 1 in Gemma's folders.
    pub norm_offset: f32,
    /// Of the feed-forward block's gate.
    pub activation: Activation,
    /// What rows of the embedding are multiplied with.
    pub embedding_scale: f32,
    /// What queries are multiplied with; else `1 / sqrt(head_dim)`.
    pub query_scale: Option<f32>,
    /// Attention's scores are `cap · tanh(score / cap)` (Gemma 2).
    pub score_cap: Option<f32>,
    /// Logits are `cap · tanh(logit / cap)` (Gemma 2).
    pub logit_cap: Option<f32>,
    /// Some layers see a window of positions only.
    pub local: Option<Local>,
    /// Some feed-forward blocks are mixtures.
    pub experts: Option<Experts>,
}

/// The gate's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// GELU by its approximation with tanh (Hendrycks and Gimpel 2016).
    GeluTanh,
}

/// Layers whose rows see the last `window` positions, their own among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// Positions that a row sees at most.
    pub window: usize,
    /// How these layers turn queries and keys.
    pub rope: Rope,
    /// Whether each layer is one of them.
    pub layers: Vec<bool>,
}

/// Feed-forward blocks of which each row uses a few.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that a row uses.
    pub per_row: usize,
    /// Width inside an expert.
    pub intermediate_size: usize,
    /// The weights of a row's experts are made to sum to 1.
    pub is_normalised: bool,
    /// Whether each layer has them; other layers have a plain block.
    pub layers: Vec<bool>,
}

// === impl Graph ===

impl Graph {
    /// No bias, norms before each block only, SiLU, every layer sees all, no experts.
    #[must_use]
    pub fn llama() -> Self {
        Self {
            qkv_bias: false,
            head_norms: false,
            norms_after: false,
            norm_offset: 0.0,
            activation: Activation::Silu,
            embedding_scale: 1.0,
            query_scale: None,
            score_cap: None,
            logit_cap: None,
            local: None,
            experts: None,
        }
    }

    /// The first thing that Llama has not, if there is one.
    pub(super) fn beyond_llama(&self) -> Option<&'static str> {
        let llama = Self::llama();
        let differences = [
            (self.qkv_bias, "a bias of queries, keys and values"),
            (self.head_norms, "normalised queries and keys"),
            (self.norms_after, "norms after attention"),
            (self.activation != llama.activation, "a GELU"),
            (self.score_cap.is_some(), "capped attention scores"),
            (self.logit_cap.is_some(), "capped logits"),
            (self.local.is_some(), "layers that see a window"),
            (self.experts.is_some(), "a mixture of experts"),
            (*self != llama, "scaled embeddings or queries"),
        ];
        let found = differences.into_iter().find(|(is_there, _)| *is_there);
        found.map(|(_, what)| what)
    }

    /// What layer `index` sees of, where it does not see all.
    #[must_use]
    pub fn local_of(&self, index: usize) -> Option<&Local> {
        let local = self.local.as_ref()?;
        local.layers[index].then_some(local)
    }

    /// The experts of layer `index`, where it has some.
    #[must_use]
    pub fn experts_of(&self, index: usize) -> Option<&Experts> {
        let experts = self.experts.as_ref()?;
        experts.layers[index].then_some(experts)
    }

    pub(super) fn check(&self, layer_count: usize, head_dim: usize) -> Result<(), ConfigError> {
        positive("embedding scale", self.embedding_scale)?;
        let caps = [
            ("query scale", self.query_scale),
            ("cap of attention scores", self.score_cap),
            ("cap of logits", self.logit_cap),
        ];
        for (field, value) in caps {
            positive(field, value.unwrap_or(1.0))?;
        }
        if let Some(local) = &self.local {
            within("sliding window", local.window, usize::MAX)?;
            one_each("layers with a window", &local.layers, layer_count)?;
            local.rope.check(head_dim)?;
        }
        if let Some(experts) = &self.experts {
            within("experts", experts.count, EXPERTS_MAX)?;
            within("experts of a row", experts.per_row, experts.count)?;
            within("expert width", experts.intermediate_size, WIDTH_MAX)?;
            one_each("layers with experts", &experts.layers, layer_count)?;
        }
        Ok(())
    }
}

fn one_each(field: &'static str, layers: &[bool], layer_count: usize) -> Result<(), ConfigError> {
    if layers.len() != layer_count {
        return fault(field, format!("{} for {layer_count} layers", layers.len()));
    }
    Ok(())
}
