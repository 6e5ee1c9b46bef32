//! Chance that a seed repeats.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// A linear congruential generator (Knuth's MMIX).
#[derive(Clone, Debug)]
pub struct Dice(u64);

// === impl Dice ===

impl Dice {
    /// The same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        usize::try_from((self.0 >> 33) % end).unwrap_or(0)
    }
}

/// The seed that the variable names, else one from the clock. The story prints it.
///
/// # Errors
/// When the variable is not a number.
pub fn seed(variable: &str) -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(from_environment(variable)?.unwrap_or(now.as_secs()))
}

/// A number that `./x test --deep`, or a person, may set.
///
/// # Errors
/// When it is set and not a number.
pub fn from_environment(variable: &str) -> Result<Option<u64>> {
    let text = std::env::var(variable).ok();
    text.map(|text| {
        text.parse()
            .with_context(|| format!("{variable} is {text:?}"))
    })
    .transpose()
}
