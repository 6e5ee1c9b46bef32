//! CPUs that a `static` CPU manager gives to containers alone, by NUMA node.

use crate::kubelet::hints::NodeCpus;
use crate::kubelet::mask::{NUMA_NODES_MAX, NumaMask};

/// CPUs of one machine that containers hold alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeldCpus {
    /// By NUMA position. Linux knows 8,192 CPUs.
    by_node: [u16; NUMA_NODES_MAX],
    /// Whether all that is held is known by its NUMA node.
    is_placed: bool,
}

/// What is left while a pod is admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CpuRoom {
    pub(crate) nodes: Vec<NodeCpus>,
    /// Whether it is known from which nodes CPUs were taken.
    pub(crate) is_certain: bool,
}

// === impl HeldCpus ===

impl HeldCpus {
    /// How many on each NUMA node, by position, and whether that is all: for records.
    #[must_use]
    pub fn parts(&self) -> (Vec<u16>, bool) {
        let used = self.by_node.iter().rposition(|count| *count > 0);
        let count = used.map_or(0, |last| last + 1);
        (self.by_node[..count].to_vec(), self.is_placed)
    }

    /// The same again.
    #[must_use]
    pub fn from_parts(counts: &[u16], is_placed: bool) -> Self {
        let mut held = Self {
            is_placed,
            ..Self::default()
        };
        for (node, count) in held.by_node.iter_mut().zip(counts) {
            *node = *count;
        }
        held
    }

    /// Holds that many more on a NUMA node, or nobody knows where.
    pub(crate) fn hold(&mut self, node: Option<usize>, count: usize) {
        match node.and_then(|node| self.by_node.get_mut(node)) {
            Some(held) => *held = held.saturating_add(u16::try_from(count).unwrap_or(u16::MAX)),
            None => self.is_placed &= count == 0,
        }
    }
}

impl Default for HeldCpus {
    /// None.
    fn default() -> Self {
        Self {
            by_node: [0; NUMA_NODES_MAX],
            is_placed: true,
        }
    }
}

// === impl CpuRoom ===

impl CpuRoom {
    pub(crate) fn new(nodes: &[NodeCpus], held: Option<&HeldCpus>) -> Self {
        let mut nodes = nodes.to_vec();
        for (node, held) in nodes
            .iter_mut()
            .zip(held.iter().flat_map(|held| &held.by_node))
        {
            node.available = node.available.saturating_sub(usize::from(*held));
        }
        Self {
            nodes,
            is_certain: held.is_none_or(|held| held.is_placed),
        }
    }

    /// Takes `count` for a container, first on the nodes of `mask` (`allocateCPUs`). An init
    /// container's are used again by the next (`updateCPUsToReuse`). `false` when there are too few.
    pub(crate) fn take(&mut self, count: usize, mask: Option<NumaMask>, is_init: bool) -> bool {
        let positions = 0..self.nodes.len();
        let (inside, outside): (Vec<usize>, Vec<usize>) =
            positions.partition(|node| mask.is_some_and(|mask| mask.contains(*node)));
        let first = count.min(self.allocatable(&inside));
        let rest = count - first;
        if rest > self.allocatable(&outside) {
            return false;
        }
        self.take_from(&inside, first, is_init);
        self.take_from(&outside, rest, is_init);
        true
    }

    fn allocatable(&self, nodes: &[usize]) -> usize {
        let of = |node: &usize| self.nodes[*node].available + self.nodes[*node].reusable;
        nodes.iter().map(of).sum()
    }

    /// Which cores the kubelet packs first is not known here: from several nodes it is a guess.
    fn take_from(&mut self, nodes: &[usize], count: usize, is_init: bool) {
        let is_all = count == self.allocatable(nodes);
        let with_room = |node: &&usize| self.allocatable(&[**node]) > 0;
        let spread = nodes.iter().filter(with_room).count();
        self.is_certain &= count == 0 || is_all || spread == 1;
        let mut left = count;
        for &node in nodes {
            let here = left.min(self.allocatable(&[node]));
            left -= here;
            self.take_on(node, here, is_init);
        }
    }

    /// Of what init containers held and what is free, on one node.
    fn take_on(&mut self, node: usize, count: usize, is_init: bool) {
        let cpus = &mut self.nodes[node];
        let is_both = cpus.reusable > 0 && cpus.available > 0;
        self.is_certain &= count == 0 || !is_both || count == cpus.reusable + cpus.available;
        let again = count.min(cpus.reusable);
        cpus.available -= count - again;
        if is_init {
            cpus.reusable += count - again;
        } else {
            cpus.reusable -= again;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(available: &[usize]) -> CpuRoom {
        let node = |available: &usize| NodeCpus {
            all: 8,
            available: *available,
            reusable: 0,
        };
        CpuRoom::new(&available.iter().map(node).collect::<Vec<_>>(), None)
    }

    fn left(room: &CpuRoom) -> Vec<(usize, usize)> {
        let nodes = room.nodes.iter();
        nodes.map(|node| (node.available, node.reusable)).collect()
    }

    #[test]
    fn cpus_come_from_the_mask_first() {
        let mut room = room(&[4, 8]);
        assert!(room.take(6, Some([0].into_iter().collect()), false));
        assert_eq!(left(&room), [(0, 0), (6, 0)]);
        assert!(room.is_certain);
        assert!(!room.take(7, None, false));
    }

    #[test]
    fn what_an_init_container_held_is_used_again() {
        let mut room = room(&[4]);
        let mask = Some([0].into_iter().collect());
        assert!(room.take(4, mask, true));
        assert_eq!(left(&room), [(0, 4)]);
        assert!(room.take(4, mask, false));
        assert_eq!(left(&room), [(0, 0)]);
        assert!(room.is_certain);
    }

    #[test]
    fn cpus_of_several_nodes_are_a_guess() {
        let mut room = room(&[4, 8]);
        assert!(room.take(6, Some(NumaMask::first(2)), false));
        assert!(!room.is_certain);
    }
}
