//! How many disjoint groups fit.

use std::collections::HashMap;

use crate::set::GpuSet;

/// Steps of one attempt; none of the recorded machines needs a tenth of it.
const STEPS_MAX: u32 = 500_000;

/// Disjoint groups out of a list.
pub(crate) struct Packing {
    group_size: usize,
    /// By their lowest position.
    groups: HashMap<usize, Vec<GpuSet>>,
    most: HashMap<GpuSet, usize>,
    steps_left: u32,
}

// === impl Packing ===

impl Packing {
    pub(crate) fn new(candidates: impl Iterator<Item = GpuSet>, group_size: usize) -> Self {
        let mut groups: HashMap<usize, Vec<GpuSet>> = HashMap::new();
        for group in candidates {
            let lowest = group.lowest().unwrap_or_default();
            groups.entry(lowest).or_default().push(group);
        }
        Self {
            group_size,
            groups,
            most: HashMap::new(),
            steps_left: STEPS_MAX,
        }
    }

    /// Whether `count` groups fit into `free`; no where the steps run out first.
    pub(crate) fn fits(&mut self, free: GpuSet, count: usize) -> bool {
        self.most(free) >= count
    }

    fn most(&mut self, free: GpuSet) -> usize {
        let bound = free.len() / self.group_size;
        let Some(lowest) = free.lowest().filter(|_| bound > 0 && self.steps_left > 0) else {
            return 0;
        };
        if let Some(most) = self.most.get(&free) {
            return *most;
        }
        self.steps_left -= 1;
        let mut most = 0;
        for group in self.groups.get(&lowest).cloned().unwrap_or_default() {
            if most == bound {
                break;
            }
            if group.is_subset(free) {
                most = most.max(1 + self.most(free.difference(group)));
            }
        }
        if most < bound {
            most = most.max(self.most(free.without(lowest)));
        }
        self.most.insert(free, most);
        most
    }
}
