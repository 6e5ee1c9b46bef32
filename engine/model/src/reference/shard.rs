//! Who holds what: the model is always in as many parts as it has KV heads, a rank holds a run
//! of them.
//!
//! A part's arithmetic is the same whatever the number of ranks; only its place changes.

use std::ops::Range;

use crate::backend::Shard;
use crate::config::ModelConfig;
use berth_engine_cpu::share::share;

/// What one part computes, as ranges of the whole model's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Outputs of the query projection, inputs of the output projection.
    pub(crate) query: Range<usize>,
    /// Outputs of the key and of the value projection: one head.
    pub(crate) kv: Range<usize>,
    /// Outputs of gate and up, inputs of down.
    pub(crate) intermediate: Range<usize>,
    /// Tokens whose embedding and logit it holds.
    pub(crate) vocab: Range<usize>,
}

/// The parts of rank `shard.rank`; when they do not divide, lower ranks hold one more.
pub(crate) fn parts_of_rank(config: &ModelConfig, shard: Shard) -> Vec<Part> {
    share(config.kv_head_count, shard.degree, shard.rank)
        .map(|index| part(config, index))
        .collect()
}

/// The tokens of rank `shard.rank`.
pub(crate) fn vocab_of_rank(config: &ModelConfig, shard: Shard) -> Range<usize> {
    let parts = share(config.kv_head_count, shard.degree, shard.rank);
    let (first, last) = (part(config, parts.start), part(config, parts.end - 1));
    first.vocab.start..last.vocab.end
}

fn part(config: &ModelConfig, index: usize) -> Part {
    let count = config.kv_head_count;
    let scale = |heads: Range<usize>| heads.start * config.head_dim..heads.end * config.head_dim;
    Part {
        query: scale(share(config.head_count, count, index)),
        kv: scale(index..index + 1),
        intermediate: share(config.intermediate_size, count, index),
        vocab: share(config.vocab_size, count, index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_parts_over_two_ranks_are_two_and_one() {
        let config = crate::tiny::config();
        let held = |rank| parts_of_rank(&config, Shard { rank, degree: 2 }).len();
        assert_eq!((config.kv_head_count, held(0), held(1)), (3, 2, 1));
    }
}
