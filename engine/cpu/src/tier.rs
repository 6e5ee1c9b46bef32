//! Which instructions kernels are made of.
#![allow(
    unsafe_code,
    reason = "code for instructions that were found at run time must be called by promise"
)]

use std::fmt;
use std::str::FromStr;

/// A set of instructions that kernels exist for. All give the same bits.
///
/// AMX has no kernels yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// AVX-512 with VDPBF16PS and VPDPBUSD: AMD from Zen 4 on, Intel from Cooper Lake on.
    Avx512Bf16,
    /// AVX-512 with VPDPBUSD; bf16 by f32 arithmetic.
    Avx512Vnni,
    /// AVX-512 with F, BW, DQ and VL.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// What every machine has. Slow: the oracle for the others.
    Portable,
}

/// A tier that this machine or this program does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TierError {
    /// No tier has this name.
    #[error("no tier is called {0:?}: avx512-bf16, avx512-vnni, avx512, avx2, portable")]
    Unknown(String),
    /// The CPU lacks its instructions.
    #[error("this CPU does not have the instructions of tier {0}")]
    Missing(Tier),
}

// === impl Tier ===

impl Tier {
    /// All of them, best first.
    pub const ALL: [Self; 5] = [
        Self::Avx512Bf16,
        Self::Avx512Vnni,
        Self::Avx512,
        Self::Avx2,
        Self::Portable,
    ];

    /// Those that this machine has, best first; never empty.
    #[must_use]
    pub fn here() -> Vec<Self> {
        Self::ALL
            .into_iter()
            .filter(|tier| tier.is_here())
            .collect()
    }

    /// The first of [`Self::here`].
    #[must_use]
    pub fn best() -> Self {
        Self::ALL
            .into_iter()
            .find(|tier| tier.is_here())
            .unwrap_or(Self::Portable)
    }

    /// The tier of that name, if this machine has it.
    ///
    /// # Errors
    /// When there is no such tier, or not here.
    pub fn named(name: &str) -> Result<Self, TierError> {
        let tier: Self = name.parse()?;
        tier.is_here()
            .then_some(tier)
            .ok_or(TierError::Missing(tier))
    }

    /// Whether this machine has its instructions.
    #[must_use]
    #[cfg(target_arch = "x86_64")]
    pub fn is_here(self) -> bool {
        let avx2 = || {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        };
        let avx512 = || {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        };
        let vnni = || avx512() && is_x86_feature_detected!("avx512vnni");
        match self {
            Self::Avx512Bf16 => vnni() && is_x86_feature_detected!("avx512bf16"),
            Self::Avx512Vnni => vnni(),
            Self::Avx512 => avx512(),
            Self::Avx2 => avx2(),
            Self::Portable => true,
        }
    }

    /// Whether this machine has its instructions.
    #[must_use]
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_here(self) -> bool {
        self == Self::Portable
    }

    /// Runs `body` as the compiler makes it for this tier's vectors, where it inlines it.
    ///
    /// The bits are those of every other tier: the compiler fuses no multiply with an add and
    /// reorders no sum unless it is told to. `f32::mul_add` is one instruction in all tiers but
    /// the portable one, where it is a call, with the same result.
    ///
    /// # Panics
    /// When this machine does not have the tier.
    #[inline]
    pub fn run<R>(self, body: impl FnOnce() -> R) -> R {
        assert!(self.is_here(), "tier {self} was checked before it is used");
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 | Self::Avx512Vnni | Self::Avx512 => {
                // SAFETY: the assertion above found the features.
                unsafe { with_avx512(body) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                // SAFETY: the assertion above found the features.
                unsafe { with_avx2(body) }
            }
            _ => body(),
        }
    }

    /// As flags and logs call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }
}

impl FromStr for Tier {
    type Err = TierError;

    fn from_str(name: &str) -> Result<Self, TierError> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.name() == name)
            .ok_or_else(|| TierError::Unknown(name.to_owned()))
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn with_avx512<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_avx2<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for tier in Tier::ALL {
            assert_eq!(tier.name().parse(), Ok(tier));
        }
        assert!("sse".parse::<Tier>().is_err());
    }

    #[test]
    fn every_machine_has_the_portable_tier_last() {
        assert_eq!(Tier::here().last(), Some(&Tier::Portable));
        assert_eq!(Tier::here().first(), Some(&Tier::best()));
        assert_eq!(Tier::named("portable"), Ok(Tier::Portable));
    }

    #[test]
    fn a_body_gives_the_same_bits_on_every_tier() {
        let x: Vec<f32> = (0_u8..200).map(|i| f32::from(i).sin()).collect();
        let dot = || x.iter().fold(0.1_f32, |sum, x| x.mul_add(1.7, sum * 0.9));
        for tier in Tier::here() {
            assert_eq!(tier.run(dot).to_bits(), dot().to_bits(), "{tier}");
        }
    }
}
