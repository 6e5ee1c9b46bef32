//! Sets of GPUs of one machine, by position.

use std::cmp::Ordering;
use std::fmt;

/// Most GPUs of one machine that placement looks at: a set is one machine word. The largest
/// machines built hold 16.
pub const GPUS_MAX: usize = 64;

/// A set of positions on one machine. A position means nothing on another machine.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuSet(u64);

// === impl GpuSet ===

impl GpuSet {
    /// No GPU.
    pub const EMPTY: Self = Self(0);

    /// The first `count` positions; all 64 for more.
    #[must_use]
    pub fn first(count: usize) -> Self {
        if count >= GPUS_MAX {
            Self(u64::MAX)
        } else {
            Self((1 << count) - 1)
        }
    }

    /// The positions whose bits are set.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// One bit for each position.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// How many GPUs are in it.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether no GPU is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the GPU at `position` is in it.
    #[must_use]
    pub fn contains(self, position: usize) -> bool {
        position < GPUS_MAX && self.0 & (1 << position) != 0
    }

    /// The set and the GPU at `position`; a position of [`GPUS_MAX`] or more is no GPU.
    #[must_use]
    pub fn with(self, position: usize) -> Self {
        if position < GPUS_MAX {
            Self(self.0 | 1 << position)
        } else {
            self
        }
    }

    /// The set less the GPU at `position`.
    #[must_use]
    pub fn without(self, position: usize) -> Self {
        if position < GPUS_MAX {
            Self(self.0 & !(1 << position))
        } else {
            self
        }
    }

    /// GPUs in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// GPUs in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// GPUs in `self` that are not in `other`.
    #[must_use]
    pub fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `self` is in `other`.
    #[must_use]
    pub fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether some GPU is in both.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The lowest position in it.
    #[must_use]
    pub fn lowest(self) -> Option<usize> {
        (self.0 != 0).then(|| self.0.trailing_zeros() as usize)
    }

    /// Positions, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> + Clone {
        let mut rest = self;
        std::iter::from_fn(move || {
            let position = rest.lowest()?;
            rest = rest.without(position);
            Some(position)
        })
    }

    /// Compares position by position, ascending: of two sets of one size the lesser holds the lowest
    /// position that only one of them has.
    pub(crate) fn cmp_positions(self, other: Self) -> Ordering {
        let differing = self.0 ^ other.0;
        let lowest = differing & differing.wrapping_neg();
        match (differing, self.0 & lowest) {
            (0, _) => Ordering::Equal,
            (_, 0) => Ordering::Greater,
            _ => Ordering::Less,
        }
    }

    /// Every two different positions, the lower first.
    pub(crate) fn pairs(self) -> impl Iterator<Item = (usize, usize)> {
        self.iter().flat_map(move |a| {
            let above = Self(self.0 & !Self::first(a + 1).0);
            above.iter().map(move |b| (a, b))
        })
    }
}

impl FromIterator<usize> for GpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(positions: I) -> Self {
        positions.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for GpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back_ascending_and_once() {
        let set: GpuSet = [63, 0, 5, 5].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 5, 63]);
        assert_eq!(set.len(), 3);
        assert_eq!(set.pairs().collect::<Vec<_>>(), [(0, 5), (0, 63), (5, 63)]);
    }

    #[test]
    fn sets_compare_by_their_lowest_positions() {
        let set = |positions: &[usize]| -> GpuSet { positions.iter().copied().collect() };
        assert_eq!(set(&[0, 9]).cmp_positions(set(&[1, 2])), Ordering::Less);
        assert_eq!(set(&[0, 3]).cmp_positions(set(&[0, 2])), Ordering::Greater);
        assert_eq!(set(&[4, 5]).cmp_positions(set(&[4, 5])), Ordering::Equal);
    }

    #[test]
    fn a_position_that_no_machine_has_is_ignored() {
        assert_eq!(GpuSet::EMPTY.with(64), GpuSet::EMPTY);
        assert!(!GpuSet::first(64).contains(64));
        assert_eq!(GpuSet::first(200).len(), GPUS_MAX);
    }
}
