//! How much memory a model takes.

use super::shard::{Part, parts_of_rank};
use crate::backend::{CacheShape, Shard};
use crate::config::ModelConfig;
use crate::fit::MemoryNeed;

const F32_BYTES: u64 = 4;

/// What one rank takes: everything is f32.
pub(crate) fn need_of_rank(config: &ModelConfig, shard: Shard, cache: CacheShape) -> MemoryNeed {
    let parts = parts_of_rank(config, shard);
    let hidden = config.hidden_size as u64;
    let norms = hidden * (2 * config.layer_count as u64 + 1);
    let weights: u64 = parts.iter().map(|part| part_elements(config, part)).sum();
    let slots = cache.block_size as u64 * cache.block_count as u64;
    let per_slot = 2 * (config.layer_count * config.head_dim * parts.len()) as u64;
    MemoryNeed {
        weight_bytes: (norms + weights) * F32_BYTES,
        cache_bytes: slots.saturating_mul(per_slot * F32_BYTES),
        weights: "weights in f32",
    }
}

/// What the whole model takes: all ranks are threads of one process. (The norms, which every rank
/// has a copy of, are counted once; they are small.)
pub(crate) fn need_of_all_ranks(config: &ModelConfig, cache: CacheShape) -> MemoryNeed {
    need_of_rank(config, Shard { rank: 0, degree: 1 }, cache)
}

/// Bytes that one block of the KV cache takes over all layers and ranks.
#[must_use]
pub fn block_bytes(config: &ModelConfig, block_size: usize) -> u64 {
    let cache = CacheShape {
        block_size,
        block_count: 1,
    };
    need_of_all_ranks(config, cache).cache_bytes
}

/// Bytes that the weights take over all ranks.
#[must_use]
pub fn weight_bytes(config: &ModelConfig) -> u64 {
    let cache = CacheShape {
        block_size: 1,
        block_count: 1,
    };
    need_of_all_ranks(config, cache).weight_bytes
}

fn part_elements(config: &ModelConfig, part: &Part) -> u64 {
    let of = |range: &std::ops::Range<usize>| range.len() as u64;
    let per_layer = 2 * of(&part.query) + 2 * of(&part.kv) + 3 * of(&part.intermediate);
    let tables = if config.tied_embeddings { 1 } else { 2 };
    (config.layer_count as u64 * per_layer + tables * of(&part.vocab)) * config.hidden_size as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_together_need_what_one_rank_needs_but_for_the_norms() {
        let config = crate::tiny::config();
        let cache = CacheShape {
            block_size: 4,
            block_count: 8,
        };
        let whole = need_of_all_ranks(&config, cache);
        let norms = (config.hidden_size * (2 * config.layer_count + 1) * 4) as u64;
        for degree in 1..=config.kv_head_count {
            let ranks =
                (0..degree).map(|rank| need_of_rank(&config, Shard { rank, degree }, cache));
            let copies = norms * (degree as u64 - 1);
            let sum = ranks.clone().map(|need| need.weight_bytes).sum::<u64>() - copies;
            assert_eq!(sum, whole.weight_bytes);
            assert_eq!(
                ranks.map(|need| need.cache_bytes).sum::<u64>(),
                whole.cache_bytes
            );
        }
    }
}
