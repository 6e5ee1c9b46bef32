//! Sets of NUMA nodes of one machine, by position in the order of their numbers.

/// The kubelet's bitmasks hold as many.
pub(crate) const NUMA_NODES_MAX: usize = 64;

/// A set of NUMA nodes. Positions keep the order of the kernel's numbers, so of two masks with
/// equally many nodes the lesser is the one that the kubelet prefers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NumaMask(u64);

// === impl NumaMask ===

impl NumaMask {
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) fn first(count: usize) -> Self {
        (0..count).collect()
    }

    pub(crate) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, position: usize) -> bool {
        position < NUMA_NODES_MAX && self.0 & (1 << position) != 0
    }

    pub(crate) fn with(self, position: usize) -> Self {
        if position < NUMA_NODES_MAX {
            Self(self.0 | 1 << position)
        } else {
            self
        }
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> + Clone {
        (0..NUMA_NODES_MAX).filter(move |position| self.contains(*position))
    }

    /// Every subset but the empty one, descending.
    pub(crate) fn submasks(self) -> impl Iterator<Item = Self> {
        let next = move |mask: &Self| Some(Self(mask.0.wrapping_sub(1) & self.0));
        std::iter::successors(Some(self), next).take_while(|mask| !mask.is_empty())
    }
}

impl FromIterator<usize> for NumaMask {
    fn from_iter<I: IntoIterator<Item = usize>>(positions: I) -> Self {
        positions.into_iter().fold(Self::EMPTY, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submasks_are_every_subset_once() {
        let mask: NumaMask = [0, 3, 5].into_iter().collect();
        let mut all: Vec<NumaMask> = mask.submasks().collect();
        assert_eq!(all.len(), 7);
        all.dedup();
        assert_eq!(all.len(), 7);
        assert!(all.iter().all(|one| one.is_subset(mask) && !one.is_empty()));
        assert_eq!(NumaMask::EMPTY.submasks().count(), 0);
    }
}
