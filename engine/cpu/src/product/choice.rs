//! Which kernels compute products, as far as the bits leave it open.

use std::fmt;
use std::str::FromStr;

use super::Tuning;
use crate::matrix::Form;
use crate::tier::{Tier, TierError};

/// Written and read as `bf16=avx512-bf16,codes=avx512-bf16,chunk=262144,ahead=0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Whose kernels multiply bf16.
    pub bf16: Tier,
    /// Whose kernels multiply codes of 8 and 4 bits.
    pub codes: Tier,
    /// How they go through memory.
    pub tuning: Tuning,
}

/// Why a choice cannot be read or taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// Not of the form.
    #[error("{0:?} is not like bf16=avx512-bf16,codes=avx512-bf16,chunk=262144,ahead=0")]
    Malformed(String),
    /// There is no such tier here.
    #[error(transparent)]
    Tier(#[from] TierError),
}

// === impl Choice ===

impl Choice {
    /// What a tier does without calibration.
    #[must_use]
    pub fn of(tier: Tier) -> Self {
        Self {
            bf16: tier,
            codes: tier,
            tuning: Tuning::default(),
        }
    }

    /// Whose kernels multiply `form`.
    #[must_use]
    pub fn tier(self, form: Form) -> Tier {
        match form {
            Form::Bf16 => self.bf16,
            Form::Int8 | Form::Int4 | Form::Int4Min => self.codes,
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tuning {
            chunk_bytes,
            ahead_bytes,
        } = self.tuning;
        let Self { bf16, codes, .. } = self;
        write!(
            f,
            "bf16={bf16},codes={codes},chunk={chunk_bytes},ahead={ahead_bytes}"
        )
    }
}

impl FromStr for Choice {
    type Err = ChoiceError;

    /// All four parts in their order; the tiers are ones that this machine has.
    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        let malformed = || ChoiceError::Malformed(text.to_owned());
        let mut parts = text.split(',');
        let mut part = |name: &str| {
            let value = parts.next()?.strip_prefix(name)?;
            value.strip_prefix('=')
        };
        let bf16 = part("bf16").ok_or_else(malformed)?;
        let codes = part("codes").ok_or_else(malformed)?;
        let mut bytes = |name: &str| part(name)?.parse().ok();
        let tuning = Tuning {
            chunk_bytes: bytes("chunk")
                .filter(|bytes| *bytes > 0)
                .ok_or_else(malformed)?,
            ahead_bytes: bytes("ahead").ok_or_else(malformed)?,
        };
        if parts.next().is_some() {
            return Err(malformed());
        }
        Ok(Self {
            bf16: Tier::named(bf16)?,
            codes: Tier::named(codes)?,
            tuning,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_back_as_it_was_written() {
        for tier in Tier::here() {
            let choice = Choice::of(tier);
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
    }

    #[test]
    fn what_is_not_a_choice_is_refused() {
        for text in [
            "",
            "bf16=portable",
            "bf16=portable,codes=portable,chunk=0,ahead=0",
            "bf16=portable,codes=portable,chunk=1,ahead=-1",
            "bf16=portable,codes=portable,chunk=1,ahead=0,more=1",
            "bf16=portable,codes=mmx,chunk=1,ahead=0",
        ] {
            assert!(text.parse::<Choice>().is_err(), "{text:?}");
        }
    }
}
