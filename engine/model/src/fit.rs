//! Whether a rank can be loaded, known before memory is taken.

use std::fmt;

use crate::available::available_bytes;
use crate::backend::{CacheShape, Shard};
use crate::config::ModelConfig;

/// Memory that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Weights.
    pub weight_bytes: u64,
    /// Paged keys and values.
    pub cache_bytes: u64,
    /// How the backend calls its weights: "packed weights".
    pub weights: &'static str,
}

/// Why a rank cannot be loaded, whatever computes.
#[derive(Debug, thiserror::Error)]
pub enum CannotFit {
    /// The rank or the number of ranks cannot be.
    #[error("loading {model} as rank {rank} of {degree}: it can be cut into 1 to {degree_max}")]
    Shard {
        /// The model's name.
        model: String,
        /// The rank asked for.
        rank: usize,
        /// The number of ranks asked for.
        degree: usize,
        /// The model's KV heads.
        degree_max: usize,
    },
    /// The cache has no slots, or more than can be counted.
    #[error("a KV cache of {} blocks of {} tokens cannot be", shape.block_count, shape.block_size)]
    Cache {
        /// The shape asked for.
        shape: CacheShape,
    },
    /// The machine has too little memory left.
    #[error(
        "loading {model} takes {need}, {available_mb} MB are available: give it more memory, a \
         smaller KV cache or a smaller model"
    )]
    TooLarge {
        /// The model's name.
        model: String,
        /// What all ranks take together.
        need: MemoryNeed,
        /// What the machine or the control group has left.
        available_mb: u64,
    },
}

/// Checks that there can be such a rank and such a cache.
pub(crate) fn check_shape(
    config: &ModelConfig,
    shard: Shard,
    cache: CacheShape,
) -> Result<(), CannotFit> {
    let Shard { rank, degree } = shard;
    let degree_max = config.kv_head_count;
    if degree == 0 || degree > degree_max || rank >= degree {
        return Err(CannotFit::Shard {
            model: config.name.clone(),
            rank,
            degree,
            degree_max,
        });
    }
    let countable = u32::try_from(cache.block_count).is_ok() && cache.block_size <= 1 << 16;
    if cache.block_size == 0 || cache.block_count == 0 || !countable {
        return Err(CannotFit::Cache { shape: cache });
    }
    Ok(())
}

/// Checks that what all ranks take together is there.
pub(crate) fn check_memory(config: &ModelConfig, need: MemoryNeed) -> Result<(), CannotFit> {
    match available_bytes() {
        Some(available) if need.total_bytes() > available => Err(CannotFit::TooLarge {
            model: config.name.clone(),
            need,
            available_mb: available / 1_000_000,
        }),
        _ => Ok(()),
    }
}

// === impl MemoryNeed ===

impl MemoryNeed {
    /// Weights and cache.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes.saturating_add(self.cache_bytes)
    }
}

impl fmt::Display for MemoryNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (weights, cache) = (self.weight_bytes / 1_000_000, self.cache_bytes / 1_000_000);
        write!(
            f,
            "{weights} MB of {} and {cache} MB of KV cache",
            self.weights
        )
    }
}
