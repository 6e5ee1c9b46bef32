//! How much memory the KV cache gets where nothing is said.
//!
//! ```text
//! 0.9 × the least of (control group, machine, the ranks' NUMA nodes) − weights − 300 MB
//! ```

use std::collections::BTreeMap;

use berth_engine_model::available::{available_bytes, node_available_bytes};

use crate::assign::Place;

/// What the process takes beside weights and cache: activations, logits, tokenizer, requests.
const BESIDE_BYTES: u64 = 300_000_000;
/// Where the system does not tell what there is.
const UNKNOWN_BYTES: u64 = 1 << 30;

/// What there is for weights and cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// None where it cannot be read.
    available_bytes: Option<u64>,
    /// Of all ranks.
    weight_bytes: u64,
}

// === impl Memory ===

impl Memory {
    /// What this process may take for ranks at these places, now.
    pub(super) fn read(places: &[Place], weight_bytes: u64) -> Self {
        let nodes: Vec<Option<u32>> = places.iter().map(|place| place.numa_node).collect();
        let on_nodes = least_on_nodes(&nodes, node_available_bytes);
        Self {
            available_bytes: available_bytes().into_iter().chain(on_nodes).min(),
            weight_bytes,
        }
    }

    /// For the cache of all ranks.
    pub(super) fn cache_bytes(self) -> u64 {
        let Some(available_bytes) = self.available_bytes else {
            return UNKNOWN_BYTES;
        };
        (available_bytes / 10 * 9)
            .saturating_sub(self.weight_bytes)
            .saturating_sub(BESIDE_BYTES)
    }

    /// Megabytes: there are, the weights take, are wanted beside them and the cache.
    pub(super) fn megabytes(self) -> [u64; 3] {
        let available_bytes = self.available_bytes.unwrap_or(0);
        [available_bytes, self.weight_bytes, BESIDE_BYTES].map(|bytes| bytes / 1_000_000)
    }
}

/// What all ranks together may take: each takes as much, and the node that has least for each of
/// its own bounds all. None where a rank's node is not known.
fn least_on_nodes(
    nodes: &[Option<u32>],
    available_bytes: impl Fn(u32) -> Option<u64>,
) -> Option<u64> {
    let mut ranks_by_node = BTreeMap::<u32, u64>::new();
    for node in nodes {
        *ranks_by_node.entry((*node)?).or_default() += 1;
    }
    let for_each = ranks_by_node
        .iter()
        .filter_map(|(node, rank_count)| Some(available_bytes(*node)? / rank_count));
    Some(for_each.min()?.saturating_mul(nodes.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(available_bytes: Option<u64>, weight_bytes: u64, expected: u64) {
        let memory = Memory {
            available_bytes,
            weight_bytes,
        };
        assert_eq!(memory.cache_bytes(), expected);
    }

    #[test]
    fn the_cache_gets_what_weights_and_the_rest_leave_of_nine_tenths() {
        check(Some(10_000_000_000), 2_000_000_000, 6_700_000_000);
        check(Some(2_000_000_000), 1_500_000_000, 0);
        check(Some(1_000), 1, 0);
        check(None, 1, UNKNOWN_BYTES);
    }

    #[test]
    fn the_fullest_node_bounds_every_rank() {
        let bytes = |node| [Some(100), Some(90), None].get(node as usize).copied()?;
        assert_eq!(least_on_nodes(&[Some(0)], bytes), Some(100));
        assert_eq!(least_on_nodes(&[Some(0), Some(1)], bytes), Some(180));
        assert_eq!(
            least_on_nodes(&[Some(0), Some(0), Some(1)], bytes),
            Some(150)
        );
        assert_eq!(least_on_nodes(&[Some(0), None], bytes), None);
        assert_eq!(least_on_nodes(&[Some(2)], bytes), None);
        assert_eq!(least_on_nodes(&[], bytes), None);
    }
}
