//! Which sizes of group are expected to be asked for next.

use crate::set::GPUS_MAX;

/// Most sizes that one mix names.
const SIZES_MAX: usize = 8;
/// Greatest weight: so sums of weighted parts stay far within 64 bits.
const WEIGHT_MAX: u32 = 1_000_000;

/// Sizes of group and how often each is expected, relative to the others. What a choice leaves
/// behind is weighed by it. By default 1, 2, 4 and 8 GPUs, equally often: the sizes that
/// tensor-parallel models are served with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mix(Vec<(usize, u32)>);

/// Why a mix is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixError {
    /// A size is 0, more than a machine can have, or named twice.
    Size(usize),
    /// A weight is more than a million.
    Weight(u32),
    /// More than eight sizes.
    TooMany,
}

// === impl Mix ===

impl Mix {
    /// Pairs of group size and weight, in any order. A weight of 0 is as if it was not named.
    ///
    /// # Errors
    /// When a size or weight is out of bounds.
    pub fn new(weights: impl IntoIterator<Item = (usize, u32)>) -> Result<Self, MixError> {
        let mut sizes: Vec<(usize, u32)> = Vec::new();
        for (size, weight) in weights {
            if !(1..=GPUS_MAX).contains(&size) || sizes.iter().any(|(known, _)| *known == size) {
                return Err(MixError::Size(size));
            }
            if weight > WEIGHT_MAX {
                return Err(MixError::Weight(weight));
            }
            if sizes.len() == SIZES_MAX {
                return Err(MixError::TooMany);
            }
            sizes.push((size, weight));
        }
        sizes.retain(|(_, weight)| *weight > 0);
        sizes.sort_unstable();
        Ok(Self(sizes))
    }

    /// Sizes, ascending, with their weights.
    pub fn weights(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.0.iter().copied()
    }
}

impl Default for Mix {
    fn default() -> Self {
        Self(vec![(1, 1), (2, 1), (4, 1), (8, 1)])
    }
}

// === impl MixError ===

impl std::fmt::Display for MixError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Size(size) => write!(
                f,
                "size {size} of the mix is named twice or is not 1 to {GPUS_MAX}"
            ),
            Self::Weight(weight) => write!(f, "weight {weight} is more than {WEIGHT_MAX}"),
            Self::TooMany => write!(f, "a mix names at most {SIZES_MAX} sizes"),
        }
    }
}

impl std::error::Error for MixError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_sorted_and_without_those_that_nobody_asks_for() {
        let mix = Mix::new([(4, 3), (2, 0), (1, 5)]).unwrap();
        assert_eq!(mix.weights().collect::<Vec<_>>(), [(1, 5), (4, 3)]);
    }

    #[test]
    fn a_size_twice_or_out_of_bounds_is_refused() {
        assert_eq!(Mix::new([(2, 1), (2, 1)]), Err(MixError::Size(2)));
        assert_eq!(Mix::new([(0, 1)]), Err(MixError::Size(0)));
        assert_eq!(Mix::new([(65, 1)]), Err(MixError::Size(65)));
        assert_eq!(
            Mix::new([(1, WEIGHT_MAX + 1)]),
            Err(MixError::Weight(WEIGHT_MAX + 1))
        );
        assert_eq!(
            Mix::new((1..=9).map(|size| (size, 1))),
            Err(MixError::TooMany)
        );
    }
}
