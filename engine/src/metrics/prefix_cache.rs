//! What prompts found in the cache of earlier ones, in tokens.

use berth_engine_core::schedule::PrefixStats;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{add, catch_up, counter};

/// Kept by the scheduler; shown here.
#[derive(Debug)]
pub(super) struct PrefixCacheSeries {
    queries: Counter,
    hits: Counter,
}

// === impl PrefixCacheSeries ===

impl PrefixCacheSeries {
    pub(super) fn new(r: &mut Registry) -> Self {
        let hits = counter(r, "vllm:prefix_cache_hits", "Prompt tokens found");
        add(
            r,
            "vllm:prompt_tokens_cached",
            "Prompt tokens not computed",
            hits.clone(),
        );
        Self {
            queries: counter(r, "vllm:prefix_cache_queries", "Prompt tokens looked for"),
            hits,
        }
    }

    pub(super) fn show(&self, stats: &PrefixStats) {
        catch_up(&self.queries, stats.query_count);
        catch_up(&self.hits, stats.hit_count);
    }

    pub(super) fn add_older_names(&self, r: &mut Registry) {
        let (hits, queries) = (self.hits.clone(), self.queries.clone());
        add(r, "vllm:gpu_prefix_cache_hits", "Prompt tokens found", hits);
        add(
            r,
            "vllm:gpu_prefix_cache_queries",
            "Prompt tokens looked for",
            queries,
        );
    }
}
