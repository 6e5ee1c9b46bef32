//! How much memory a model takes, and how much there is.

use std::fmt;
use std::fs;
use std::path::Path;

use super::shard::{Part, parts_of_rank};
use crate::backend::{CacheShape, Shard};
use crate::config::ModelConfig;

const F32_BYTES: u64 = 4;

/// Memory that a model takes in this backend, where everything is f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Weights.
    pub weight_bytes: u64,
    /// Paged keys and values.
    pub cache_bytes: u64,
}

// === impl MemoryNeed ===

impl MemoryNeed {
    /// What one rank takes.
    #[must_use]
    pub fn of_rank(config: &ModelConfig, shard: Shard, cache: CacheShape) -> Self {
        let parts = parts_of_rank(config, shard);
        let hidden = config.hidden_size as u64;
        let norms = hidden * (2 * config.layer_count as u64 + 1);
        let weights: u64 = parts.iter().map(|part| part_elements(config, part)).sum();
        let slots = cache.block_size as u64 * cache.block_count as u64;
        let per_slot = 2 * (config.layer_count * config.head_dim * parts.len()) as u64;
        Self {
            weight_bytes: (norms + weights) * F32_BYTES,
            cache_bytes: slots.saturating_mul(per_slot * F32_BYTES),
        }
    }

    /// What the whole model takes: all ranks are threads of one process. (The norms, which every
    /// rank has a copy of, are counted once; they are small.)
    #[must_use]
    pub fn of_all_ranks(config: &ModelConfig, cache: CacheShape) -> Self {
        Self::of_rank(config, Shard { rank: 0, degree: 1 }, cache)
    }

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
            "{weights} MB of weights in f32 and {cache} MB of KV cache"
        )
    }
}

fn part_elements(config: &ModelConfig, part: &Part) -> u64 {
    let of = |range: &std::ops::Range<usize>| range.len() as u64;
    let per_layer = 2 * of(&part.query) + 2 * of(&part.kv) + 3 * of(&part.intermediate);
    let tables = if config.tied_embeddings { 1 } else { 2 };
    (config.layer_count as u64 * per_layer + tables * of(&part.vocab)) * config.hidden_size as u64
}

/// What this process may still take: the machine's available memory, or less where a control
/// group (v2) limits it. None where neither can be read.
pub(crate) fn available_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| mem_available(&text));
    let group = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| group_left(&text));
    machine.into_iter().chain(group).min()
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The least that the process's group or one above it has left. Pages that only cache files can
/// be taken back and count as free.
fn group_left(cgroup: &str) -> Option<u64> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let groups = Path::new(path).ancestors().filter_map(|group| {
        let folder = Path::new("/sys/fs/cgroup").join(group.strip_prefix("/").ok()?);
        let number = |file: &str| {
            fs::read_to_string(folder.join(file))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        let (max, current): (u64, u64) = (number("memory.max")?, number("memory.current")?);
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        Some(
            max.saturating_sub(current)
                .saturating_add(inactive_file(&stat).unwrap_or(0)),
        )
    });
    groups.min()
}

fn inactive_file(stat: &str) -> Option<u64> {
    stat.lines()
        .find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_from_meminfo() {
        let text = "MemTotal:       24000 kB\nMemAvailable:    1000 kB\n";
        assert_eq!(mem_available(text), Some(1_024_000));
        assert_eq!(mem_available("MemTotal: 1 kB"), None);
        assert_eq!(inactive_file("anon 5\ninactive_file 7\n"), Some(7));
    }

    #[test]
    fn ranks_together_need_what_one_rank_needs_but_for_the_norms() {
        let config = crate::tiny::config();
        let cache = CacheShape {
            block_size: 4,
            block_count: 8,
        };
        let whole = MemoryNeed::of_all_ranks(&config, cache);
        let norms = (config.hidden_size * (2 * config.layer_count + 1) * 4) as u64;
        for degree in 1..=config.kv_head_count {
            let ranks =
                (0..degree).map(|rank| MemoryNeed::of_rank(&config, Shard { rank, degree }, cache));
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
