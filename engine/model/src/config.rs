//! What a decoder looks like: the numbers that both file formats tell, and their limits.
//!
//! Every bound here keeps a lying file from asking for absurd memory later.

use berth_engine_core::batch::TokenId;

mod graph;
mod rope;

pub use graph::{Activation, Experts, Graph, Local};
pub use rope::{LongRope, Rope, RopeScaling, Yarn};

/// Layers, a hundred times more than any model in use needs would still fit.
const LAYERS_MAX: usize = 1_024;
/// Width of any one dimension; the largest dense models stay below 2^17.
const WIDTH_MAX: usize = 1 << 20;
/// Largest vocabularies in use have 2^18 tokens.
const VOCAB_MAX: usize = 1 << 22;
/// Ten million positions are advertised by some models.
const POSITIONS_MAX: usize = 1 << 26;
/// The largest mixtures in use have some hundreds of experts in a layer.
const EXPERTS_MAX: usize = 1_024;

/// A decoder: Llama's numbers, and what its family does differently.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The model's own name, or its file's.
    pub name: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Decoder layers.
    pub layer_count: usize,
    /// Query heads, a multiple of `kv_head_count`.
    pub head_count: usize,
    /// Key and value heads; also the number of parts that the model is always held in.
    pub kv_head_count: usize,
    /// Channels of one head, even.
    pub head_dim: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Added to the mean square in RMS normalisation.
    pub rms_norm_eps: f32,
    /// Rotary position embedding of the layers that see all positions.
    pub rope: Rope,
    /// What it does that Llama does not.
    pub graph: Graph,
    /// The output projection is the embedding itself.
    pub tied_embeddings: bool,
    /// Positions that the model was trained for.
    pub position_count_max: usize,
    /// Token that starts a text, if the model has one.
    pub bos: Option<TokenId>,
    /// Tokens that end an answer.
    pub eos: Vec<TokenId>,
}

/// A config that no decoder here can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ConfigError {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong with its value.
    pub reason: String,
}

// === impl ModelConfig ===

impl ModelConfig {
    /// Query heads that share one key and value head.
    #[must_use]
    pub fn heads_per_group(&self) -> usize {
        self.head_count / self.kv_head_count
    }

    /// The first thing that it has and Llama has not, if there is one.
    #[must_use]
    pub fn beyond_llama(&self) -> Option<&'static str> {
        match self.rope.scaling {
            _ if self.rope.rotated != self.head_dim => Some("heads that are turned in part"),
            RopeScaling::Yarn(_) | RopeScaling::LongRope(_) => Some("a YaRN or LongRoPE scaling"),
            _ => self.graph.beyond_llama(),
        }
    }

    /// Checks every number against its bounds and against the others.
    ///
    /// # Errors
    /// Names the first field that cannot be.
    pub fn check(&self) -> Result<(), ConfigError> {
        within("hidden_size", self.hidden_size, WIDTH_MAX)?;
        check_layer_count(self.layer_count)?;
        within("head_count", self.head_count, WIDTH_MAX)?;
        within("kv_head_count", self.kv_head_count, self.head_count)?;
        within("head_dim", self.head_dim, WIDTH_MAX)?;
        within(
            "head_count times head_dim",
            self.head_count * self.head_dim,
            WIDTH_MAX,
        )?;
        within("intermediate_size", self.intermediate_size, WIDTH_MAX)?;
        within("vocab_size", self.vocab_size, VOCAB_MAX)?;
        within("position_count_max", self.position_count_max, POSITIONS_MAX)?;
        self.check_parts()?;
        self.check_numbers()?;
        self.check_tokens()
    }

    fn check_parts(&self) -> Result<(), ConfigError> {
        let parts = self.kv_head_count;
        if !self.head_count.is_multiple_of(parts) {
            let heads = self.head_count;
            return fault(
                "head_count",
                format!("{heads} is no multiple of {parts} KV heads"),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return fault("head_dim", format!("{} is odd", self.head_dim));
        }
        if self.intermediate_size < parts || self.vocab_size < parts {
            return fault(
                "kv_head_count",
                format!("{parts} parts are more than there are rows"),
            );
        }
        match &self.graph.experts {
            Some(experts) if experts.intermediate_size < parts => fault(
                "expert width",
                format!("{} for {parts} parts", experts.intermediate_size),
            ),
            _ => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let eps = self.rms_norm_eps;
        if !(eps > 0.0 && eps < 1.0) {
            return fault("rms_norm_eps", format!("{eps} is not between 0 and 1"));
        }
        self.rope.check(self.head_dim)?;
        self.graph.check(self.layer_count, self.head_dim)
    }

    fn check_tokens(&self) -> Result<(), ConfigError> {
        let vocab_size = self.vocab_size;
        let outside = |token: &TokenId| usize::try_from(*token).is_ok_and(|id| id >= vocab_size);
        if let Some(token) = self
            .eos
            .iter()
            .chain(&self.bos)
            .find(|token| outside(token))
        {
            let reason = format!("token {token} is not among the {vocab_size} of the vocabulary");
            return fault("bos or eos", reason);
        }
        Ok(())
    }
}

/// Before anything is made for each layer.
pub(crate) fn check_layer_count(layer_count: usize) -> Result<(), ConfigError> {
    within("layer_count", layer_count, LAYERS_MAX)
}

fn within(field: &'static str, value: usize, max: usize) -> Result<(), ConfigError> {
    if value == 0 || value > max {
        return fault(field, format!("{value} is not between 1 and {max}"));
    }
    Ok(())
}

fn positive(field: &'static str, value: f32) -> Result<(), ConfigError> {
    if !(value.is_finite() && value > 0.0) {
        return fault(field, format!("{value} is not a positive number"));
    }
    Ok(())
}

fn fault(field: &'static str, reason: String) -> Result<(), ConfigError> {
    Err(ConfigError { field, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;

    #[track_caller]
    fn check(change: impl FnOnce(&mut ModelConfig), field: Option<&str>) {
        let mut config = tiny::config();
        change(&mut config);
        assert_eq!(config.check().err().map(|error| error.field), field);
    }

    #[test]
    fn a_sound_config_passes() {
        check(|_| {}, None);
    }

    #[test]
    fn an_impossible_number_is_named() {
        check(|config| config.hidden_size = 0, Some("hidden_size"));
        check(|config| config.layer_count = 1 << 40, Some("layer_count"));
        check(
            |config| config.kv_head_count = config.head_count - 1,
            Some("head_count"),
        );
        check(
            |config| config.kv_head_count = config.head_count + 1,
            Some("kv_head_count"),
        );
        check(|config| config.head_dim = 7, Some("head_dim"));
        check(|config| config.intermediate_size = 1, Some("kv_head_count"));
        check(
            |config| config.rms_norm_eps = f32::NAN,
            Some("rms_norm_eps"),
        );
        check(|config| config.rope.theta = -1.0, Some("rope theta"));
        check(|config| config.eos = vec![1 << 30], Some("bos or eos"));
        let uneven = RopeScaling::PerFrequency(vec![1.0]);
        check(|config| config.rope.scaling = uneven, Some("rope factors"));
        check(|config| config.rope.rotated = 10, Some("rotated channels"));
        let windows = |config: &mut ModelConfig| {
            config.graph.local = Some(Local {
                window: 4,
                rope: config.rope.clone(),
                layers: vec![true],
            });
        };
        check(windows, Some("layers with a window"));
        let experts = |config: &mut ModelConfig| {
            config.graph.experts = Some(Experts {
                count: 4,
                per_row: 5,
                intermediate_size: 32,
                is_normalised: true,
                layers: vec![true; 2],
            });
        };
        check(experts, Some("experts of a row"));
        check(
            |config| config.graph.score_cap = Some(0.0),
            Some("cap of attention scores"),
        );
    }
}
