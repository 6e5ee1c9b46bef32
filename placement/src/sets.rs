//! The sets that are tried: one of each kind.
//!
//! Twins are GPUs that can be swapped without changing anything that placement reads. Of two sets
//! that differ by such a swap only the one with the lower positions is visited: behind switches, where
//! all GPUs of a NUMA node are twins, a handful of sets remain of thousands.

use std::ops::ControlFlow;

use crate::set::GpuSet;

/// Sets tried one by one, of twins one: all of any size on 16 GPUs (12,870 of 8), pairs and triples
/// on 64.
pub const SETS_MAX: u64 = 50_000;

/// Sets of one size out of some GPUs.
pub(crate) struct Sets<'a> {
    /// What they are chosen from.
    pub(crate) from: GpuSet,
    /// How many GPUs each has.
    pub(crate) size: usize,
    /// For each GPU its twins, itself included.
    pub(crate) twins: &'a [GpuSet],
    /// For each GPU those that may be in one set with it, itself included.
    pub(crate) together: &'a [GpuSet],
}

// === impl Sets ===

impl Sets<'_> {
    /// Whether they can be tried one by one.
    pub(crate) fn are_few(&self) -> bool {
        self.count() <= SETS_MAX
    }

    /// How many there are, of twins one, when all may be together.
    fn count(&self) -> u64 {
        let mut ways = vec![0_u64; self.size + 1];
        ways[0] = 1;
        let mut left = self.from;
        while let Some(first) = left.lowest() {
            let of_class = self.twins[first].intersection(left);
            left = left.difference(of_class);
            for size in (1..=self.size).rev() {
                let fewer = size.saturating_sub(of_class.len())..size;
                ways[size] = ways[fewer]
                    .iter()
                    .fold(ways[size], |sum, fewer| sum.saturating_add(*fewer));
            }
        }
        ways[self.size]
    }

    /// Calls `visit` with each, ascending by positions, until it breaks.
    pub(crate) fn each(
        &self,
        visit: &mut impl FnMut(GpuSet) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.extend(GpuSet::EMPTY, self.from, self.size, visit)
    }

    fn extend(
        &self,
        chosen: GpuSet,
        from: GpuSet,
        missing: usize,
        visit: &mut impl FnMut(GpuSet) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if missing == 0 {
            return visit(chosen);
        }
        let mut rest = from;
        while rest.len() >= missing {
            let Some(next) = rest.lowest() else { break };
            let after = rest.without(next).intersection(self.together[next]);
            self.extend(chosen.with(next), after, missing - 1, visit)?;
            // Without this one, its twins give nothing that it did not give.
            rest = rest.difference(self.twins[next]);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(twins: &[GpuSet], size: usize) -> Vec<u64> {
        let together = vec![GpuSet::first(twins.len()); twins.len()];
        let sets = Sets {
            from: GpuSet::first(twins.len()),
            size,
            twins,
            together: &together,
        };
        let mut found = Vec::new();
        let end = sets.each(&mut |set| {
            found.push(set.bits());
            ControlFlow::Continue(())
        });
        assert_eq!(end, ControlFlow::Continue(()));
        assert_eq!(sets.count(), found.len() as u64);
        found
    }

    #[test]
    fn without_twins_every_set_is_visited_in_order() {
        let alone: Vec<GpuSet> = (0..4).map(|gpu| GpuSet::EMPTY.with(gpu)).collect();
        let pairs = [0b0011, 0b0101, 0b1001, 0b0110, 0b1010, 0b1100];
        assert_eq!(listed(&alone, 2), pairs);
    }

    #[test]
    fn of_twins_the_lowest_are_taken() {
        let twins = [0b0101, 0b1010, 0b0101, 0b1010].map(GpuSet::from_bits);
        assert_eq!(listed(&twins, 2), [0b0011, 0b0101, 0b1010]);
        assert_eq!(listed(&twins, 3), [0b0111, 0b1011]);
    }

    #[test]
    fn sixty_four_alike_are_few() {
        let twins = vec![GpuSet::first(64); 64];
        assert_eq!(listed(&twins, 32).len(), 1);
    }
}
