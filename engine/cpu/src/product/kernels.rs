//! Which kernels compute products, as far as the bits leave it open.

use std::fmt;
use std::str::FromStr;

use super::Tuning;
use crate::matrix::Form;
use crate::tier::{Tier, TierError};

/// Written and read as `bf16=avx512-bf16,codes=avx512-bf16,chunk=262144,ahead=0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    /// Whose kernels multiply bf16.
    pub bf16: Tier,
    /// Whose kernels multiply codes of 8 and 4 bits.
    pub codes: Tier,
    /// How they go through memory.
    pub tuning: Tuning,
}

/// Why kernels cannot be read or taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelsError {
    /// Not of the form.
    #[error("{0:?} is not like bf16=avx512-bf16,codes=avx512-bf16,chunk=262144,ahead=0")]
    Malformed(String),
    /// There is no such tier here.
    #[error(transparent)]
    Tier(#[from] TierError),
}

// === impl Kernels ===

impl Kernels {
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

impl fmt::Display for Kernels {
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

impl FromStr for Kernels {
    type Err = KernelsError;

    /// All four parts in their order; the tiers are ones that this machine has.
    fn from_str(text: &str) -> Result<Self, KernelsError> {
        let malformed = || KernelsError::Malformed(text.to_owned());
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
    fn kernels_are_read_back_as_they_were_written() {
        for tier in Tier::here() {
            let kernels = Kernels::of(tier);
            assert_eq!(kernels.to_string().parse(), Ok(kernels));
        }
    }

    #[test]
    fn what_names_no_kernels_is_refused() {
        for text in [
            "",
            "bf16=portable",
            "bf16=portable,codes=portable,chunk=0,ahead=0",
            "bf16=portable,codes=portable,chunk=1,ahead=-1",
            "bf16=portable,codes=portable,chunk=1,ahead=0,more=1",
            "bf16=portable,codes=mmx,chunk=1,ahead=0",
        ] {
            assert!(text.parse::<Kernels>().is_err(), "{text:?}");
        }
    }
}
