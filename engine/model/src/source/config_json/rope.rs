//! Rotary position embedding as `config.json` tells it, in the spellings of its years.

use serde::Deserialize;

use super::Flaw;
use crate::config::{LongRope, RopeScaling, Yarn};

/// `rope_scaling`, or `rope_parameters` where transformers 5 keeps theta and scaling together.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RopeJson {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    pub(super) rope_theta: Option<f32>,
    pub(super) partial_rotary_factor: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<f32>,
    attention_factor: Option<f32>,
    beta_fast: Option<f32>,
    beta_slow: Option<f32>,
    mscale: Option<f32>,
    mscale_all_dim: Option<f32>,
    truncate: Option<bool>,
    short_factor: Option<Vec<f32>>,
    long_factor: Option<Vec<f32>>,
    /// Where kinds of layers differ (Gemma 3): of layers that see all.
    pub(super) full_attention: Option<Box<RopeJson>>,
    /// Of layers that see a window.
    pub(super) sliding_attention: Option<Box<RopeJson>>,
}

/// What the scaling needs of the rest of the config.
#[derive(Clone, Copy)]
pub(super) struct Positions {
    pub(super) count_max: f32,
    /// Where Phi keeps it.
    pub(super) original: Option<f32>,
}

// === impl RopeJson ===

impl RopeJson {
    pub(super) fn scaling(&self, positions: Positions) -> Result<RopeScaling, Flaw> {
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
            Some("yarn") => self.yarn(positions).map(RopeScaling::Yarn),
            Some("longrope" | "su") => self.longrope(positions).map(RopeScaling::LongRope),
            Some(other) => Err(Flaw::Unsupported {
                what: format!("rope scaling {other:?}"),
                supported: "default, linear, llama3, yarn and longrope are",
            }),
        }
    }

    /// As `_compute_yarn_parameters` of transformers fills in what is not said.
    fn yarn(&self, positions: Positions) -> Result<Yarn, Flaw> {
        let factor = wanted(self.factor, "factor")?;
        let magnitude = match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(factor), _, _) => factor,
            (None, Some(own), Some(all)) if own != 0.0 && all != 0.0 => {
                yarn_magnitude(factor, own) / yarn_magnitude(factor, all)
            }
            _ => yarn_magnitude(factor, 1.0),
        };
        Ok(Yarn {
            factor,
            original_positions: self.original(positions),
            beta_fast: self.beta_fast.unwrap_or(32.0),
            beta_slow: self.beta_slow.unwrap_or(1.0),
            is_truncated: self.truncate.unwrap_or(true),
            magnitude,
        })
    }

    /// As `_compute_longrope_parameters` of transformers fills in what is not said.
    fn longrope(&self, positions: Positions) -> Result<LongRope, Flaw> {
        let factors = |list: &Option<Vec<f32>>, name: &str| {
            let missing = || Flaw::malformed("rope_scaling", format!("{name} is missing"));
            list.clone().ok_or_else(missing)
        };
        let original_positions = self.original(positions);
        let factor = self
            .factor
            .unwrap_or(positions.count_max / original_positions);
        let magnitude = self
            .attention_factor
            .unwrap_or_else(|| longrope_magnitude(factor, original_positions));
        Ok(LongRope {
            short: factors(&self.short_factor, "short_factor")?,
            long: factors(&self.long_factor, "long_factor")?,
            original_positions,
            magnitude,
        })
    }

    fn original(&self, positions: Positions) -> f32 {
        self.original_max_position_embeddings
            .or(positions.original)
            .unwrap_or(positions.count_max)
    }
}

/// What channels are multiplied with after a stretch by `factor` (`YaRN`, section 3.4).
pub(crate) fn yarn_magnitude(factor: f32, scale: f32) -> f32 {
    if factor <= 1.0 {
        return 1.0;
    }
    0.1 * scale * factor.ln() + 1.0
}

/// The same for `LongRoPE`.
pub(crate) fn longrope_magnitude(factor: f32, original_positions: f32) -> f32 {
    if factor <= 1.0 {
        return 1.0;
    }
    (1.0 + factor.ln() / original_positions.ln()).sqrt()
}

fn wanted(value: Option<f32>, name: &str) -> Result<f32, Flaw> {
    value.ok_or_else(|| Flaw::malformed("rope_scaling", format!("{name} is missing")))
}
