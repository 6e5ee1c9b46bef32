//! How much memory a model takes in this backend.

use berth_engine_cpu::attention::{AttentionShape, KvCache};

use super::spec::{Part, Unserved, all, part_of_rank, vector_elements};
use crate::backend::{CacheShape, Shard};
use crate::config::ModelConfig;
use crate::fit::MemoryNeed;
use crate::source::ModelSource;

const WEIGHTS: &str = "packed weights";

/// What one rank takes: packed weights, keys and values in bf16.
pub(crate) fn need_of_rank(
    source: &ModelSource,
    shard: Shard,
    cache: CacheShape,
) -> Result<MemoryNeed, Unserved> {
    let config = source.config();
    let part = part_of_rank(config, shard);
    let mut weight_bytes = (vector_elements(config, &part) * size_of::<f32>()) as u64;
    for spec in all(config, &part) {
        let (outputs, inputs) = spec.shape();
        weight_bytes += spec.form(source, shard.degree)?.bytes(outputs, inputs) as u64;
    }
    let cache_bytes = KvCache::bytes(attention_shape(config, &part, cache));
    Ok(MemoryNeed {
        weight_bytes,
        cache_bytes: cache_bytes.saturating_mul(config.layer_count as u64),
        weights: WEIGHTS,
    })
}

/// What the whole model takes: all ranks are threads of one process.
pub(crate) fn need_of_all_ranks(
    source: &ModelSource,
    degree: usize,
    cache: CacheShape,
) -> Result<MemoryNeed, Unserved> {
    let nothing = MemoryNeed {
        weight_bytes: 0,
        cache_bytes: 0,
        weights: WEIGHTS,
    };
    (0..degree).try_fold(nothing, |sum, rank| {
        let one = need_of_rank(source, Shard { rank, degree }, cache)?;
        Ok(MemoryNeed {
            weight_bytes: sum.weight_bytes.saturating_add(one.weight_bytes),
            cache_bytes: sum.cache_bytes.saturating_add(one.cache_bytes),
            ..sum
        })
    })
}

/// Bytes that one block of the KV cache takes over all layers and ranks.
#[must_use]
pub fn block_bytes(config: &ModelConfig, block_size: usize) -> u64 {
    let part = part_of_rank(config, Shard { rank: 0, degree: 1 });
    let cache = CacheShape {
        block_size,
        block_count: 1,
    };
    KvCache::bytes(attention_shape(config, &part, cache)).saturating_mul(config.layer_count as u64)
}

/// Bytes that the weights take over all ranks.
///
/// # Errors
/// When the model is not one for this backend.
pub fn weight_bytes(source: &ModelSource, degree: usize) -> Result<u64, Unserved> {
    let cache = CacheShape {
        block_size: 1,
        block_count: 1,
    };
    Ok(need_of_all_ranks(source, degree, cache)?.weight_bytes)
}

/// What a rank's attention looks like.
pub(crate) fn attention_shape(
    config: &ModelConfig,
    part: &Part,
    cache: CacheShape,
) -> AttentionShape {
    AttentionShape {
        kv_head_count: part.kv_head_count,
        heads_per_group: config.heads_per_group(),
        head_dim: config.head_dim,
        block_size: cache.block_size,
        block_count: cache.block_count,
    }
}
