//! Rotary position embedding: which channels turn, how fast, and how that is stretched for
//! contexts longer than those first trained.

use super::{ConfigError, fault, positive};

/// Rotary position embedding (Su et al. 2021), pairs of channels `(i, i + rotated / 2)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f32,
    /// Channels of a head that are turned: the first ones, an even number.
    pub rotated: usize,
    /// How wavelengths are stretched for contexts longer than those first trained.
    pub scaling: RopeScaling,
}

/// How rotary wavelengths are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As computed from `theta`.
    None,
    /// Every wavelength times `factor`.
    Linear {
        /// The stretch.
        factor: f32,
    },
    /// Long wavelengths are stretched, short ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// Stretch of the long wavelengths.
        factor: f32,
        /// Wavelengths above `original_positions / low_freq_factor` are stretched.
        low_freq_factor: f32,
        /// Wavelengths below `original_positions / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Context length of the first training.
        original_positions: f32,
    },
    /// As Llama 3's, blended by the pair's number (`YaRN`, Peng et al. 2023, section 3).
    Yarn(Yarn),
    /// One stretch per frequency for short contexts, another for long ones (Ding et al. 2024).
    LongRope(LongRope),
    /// One stretch per frequency, `rotated / 2` of them, as GGUF stores Llama 3's.
    PerFrequency(Vec<f32>),
}

/// Numbers of [`RopeScaling::Yarn`].
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// Stretch of the long wavelengths.
    pub factor: f32,
    /// Context length of the first training.
    pub original_positions: f32,
    /// Wavelengths that turn so often in the first context, or oftener, are kept.
    pub beta_fast: f32,
    /// Wavelengths that turn so seldom, or less, are stretched.
    pub beta_slow: f32,
    /// The numbers of the two pairs between which is blended are whole.
    pub is_truncated: bool,
    /// What turned channels are multiplied with.
    pub magnitude: f32,
}

/// Numbers of [`RopeScaling::LongRope`].
#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    /// Stretches where the model is served with at most `original_positions`.
    pub short: Vec<f32>,
    /// Stretches where it is served with more.
    pub long: Vec<f32>,
    /// Context length of the first training.
    pub original_positions: f32,
    /// What turned channels are multiplied with.
    pub magnitude: f32,
}

// === impl Rope ===

impl Rope {
    /// Unscaled, over whole heads.
    #[must_use]
    pub fn plain(theta: f32, head_dim: usize) -> Self {
        Self {
            theta,
            rotated: head_dim,
            scaling: RopeScaling::None,
        }
    }

    pub(super) fn check(&self, head_dim: usize) -> Result<(), ConfigError> {
        positive("rope theta", self.theta)?;
        let rotated = self.rotated;
        if rotated == 0 || rotated > head_dim || !rotated.is_multiple_of(2) {
            let reason = format!("{rotated} of {head_dim} channels cannot be turned in pairs");
            return fault("rotated channels", reason);
        }
        self.scaling.check(rotated / 2)
    }
}

// === impl RopeScaling ===

impl RopeScaling {
    fn check(&self, pair_count: usize) -> Result<(), ConfigError> {
        match self {
            Self::None => Ok(()),
            Self::Linear { factor } => positive("rope factor", *factor),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_positions,
            } => {
                positive("rope factor", *factor)?;
                positive("rope low_freq_factor", *low_freq_factor)?;
                positive("rope original positions", *original_positions)?;
                positive(
                    "rope high minus low frequency factor",
                    high_freq_factor - low_freq_factor,
                )
            }
            Self::Yarn(yarn) => yarn.check(),
            Self::LongRope(long) => long.check(pair_count),
            Self::PerFrequency(factors) => check_factors(factors, pair_count),
        }
    }
}

impl Yarn {
    fn check(&self) -> Result<(), ConfigError> {
        positive("rope factor", self.factor)?;
        positive("rope original positions", self.original_positions)?;
        positive("rope beta_slow", self.beta_slow)?;
        positive(
            "rope beta_fast minus beta_slow",
            self.beta_fast - self.beta_slow,
        )?;
        positive("rope attention factor", self.magnitude)
    }
}

impl LongRope {
    fn check(&self, pair_count: usize) -> Result<(), ConfigError> {
        positive("rope original positions", self.original_positions)?;
        positive("rope attention factor", self.magnitude)?;
        check_factors(&self.short, pair_count)?;
        check_factors(&self.long, pair_count)
    }
}

fn check_factors(factors: &[f32], pair_count: usize) -> Result<(), ConfigError> {
    if factors.len() != pair_count {
        let reason = format!("{} for {pair_count} pairs of channels", factors.len());
        return fault("rope factors", reason);
    }
    factors
        .iter()
        .try_for_each(|&factor| positive("rope factors", factor))
}
