//! Which NUMA nodes share a socket.
//!
//! The contract has no sockets. The firmware's distances (ACPI SLIT) tell them where a socket is
//! several NUMA nodes (sub-NUMA clustering, NPS2, NPS4): nodes of one package are nearer to each
//! other than to all others (10, 12 and 32 on a DGX A100).

use std::collections::BTreeMap;

use berth_topology::ids::NumaId;
use berth_topology::numa::NumaNode;

/// For each NUMA node with CPUs the lowest one of its socket. A node that is not listed is a socket
/// of its own.
#[derive(Debug, Default)]
pub(crate) struct Sockets(BTreeMap<NumaId, NumaId>);

// === impl Sockets ===

impl Sockets {
    /// Sockets are told only where two different distances part the nodes cleanly: those at the
    /// least distance of all are one socket, provided that being so near is transitive. Else (one
    /// distance, a ring of sockets, no distances) each node is its own, and sockets decide nothing.
    pub(crate) fn read(numa: &[NumaNode]) -> Self {
        Self::parted(numa).unwrap_or_default()
    }

    /// The lowest NUMA node of that node's socket.
    pub(crate) fn of(&self, node: NumaId) -> NumaId {
        self.0.get(&node).copied().unwrap_or(node)
    }

    fn parted(numa: &[NumaNode]) -> Option<Self> {
        let with_cpus: Vec<usize> = (0..numa.len())
            .filter(|node| !numa[*node].cpus.is_empty())
            .collect();
        let others = |a: usize| with_cpus.iter().copied().filter(move |b| *b != a);
        let mut distances = Vec::new();
        for &a in &with_cpus {
            for b in others(a) {
                distances.push(distance(numa, a, b)?);
            }
        }
        let nearest = *distances.iter().min()?;
        distances.iter().find(|distance| **distance > nearest)?;
        let near = |a: usize, b: usize| a == b || distance(numa, a, b) == Some(nearest);
        let of_socket = |a: usize| with_cpus.iter().copied().filter(move |b| near(a, *b));
        let lowest = |a: usize| of_socket(a).map(|node| numa[node].id).min();
        let is_clean = with_cpus
            .iter()
            .all(|a| of_socket(*a).all(|b| of_socket(b).eq(of_socket(*a))));
        let sockets = with_cpus.iter().map(|a| Some((numa[*a].id, lowest(*a)?)));
        is_clean.then(|| sockets.collect::<Option<_>>().map(Self))?
    }
}

/// The greater of the two directions.
fn distance(numa: &[NumaNode], a: usize, b: usize) -> Option<u32> {
    let there = *numa[a].distances.get(b)?;
    let back = *numa[b].distances.get(a)?;
    Some(there.max(back))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lowest NUMA node of each one's socket; nodes without CPUs are marked.
    #[track_caller]
    fn check(distances: &[&[u32]], without_cpus: &[usize], expected: &[u32]) {
        let node = |(id, distances): (usize, &&[u32])| NumaNode {
            id: NumaId(u32::try_from(id).unwrap()),
            cpus: if without_cpus.contains(&id) {
                "".parse().unwrap()
            } else {
                "0-3".parse().unwrap()
            },
            distances: distances.to_vec(),
            ..NumaNode::default()
        };
        let numa: Vec<NumaNode> = distances.iter().enumerate().map(node).collect();
        let sockets = Sockets::read(&numa);
        let found: Vec<u32> = numa.iter().map(|node| sockets.of(node.id).0).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn nodes_of_a_package_are_one_socket() {
        let apart: [&[u32]; 4] = [
            &[10, 12, 32, 32],
            &[12, 10, 32, 32],
            &[32, 32, 10, 12],
            &[32, 32, 12, 10],
        ];
        check(&apart, &[], &[0, 0, 2, 2]);
    }

    #[test]
    fn two_nodes_are_two_sockets() {
        check(&[&[10, 21], &[21, 10]], &[], &[0, 1]);
    }

    #[test]
    fn ring_of_sockets_is_not_taken_for_one() {
        let ring: [&[u32]; 4] = [
            &[10, 21, 31, 21],
            &[21, 10, 21, 31],
            &[31, 21, 10, 21],
            &[21, 31, 21, 10],
        ];
        check(&ring, &[], &[0, 1, 2, 3]);
    }

    #[test]
    fn memory_without_cpus_says_nothing() {
        let grace: [&[u32]; 3] = [&[10, 40, 20], &[40, 10, 80], &[20, 80, 10]];
        check(&grace, &[2], &[0, 1, 2]);
    }

    #[test]
    fn absent_distances_say_nothing() {
        check(&[&[], &[], &[]], &[], &[0, 1, 2]);
        check(&[&[10, 12], &[12, 10, 32], &[32, 32, 10]], &[], &[0, 1, 2]);
    }
}
