//! How a panel is cut along its inputs, and what is fetched from memory meanwhile.
#![allow(unsafe_code, reason = "a prefetch is an intrinsic")]

/// What the cache's line has.
const LINE_BYTES: usize = 64;

/// What calibration may choose: it changes the speed and no bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Of a panel, what is kept in the L2 cache while all rows are multiplied with it.
    pub chunk_bytes: usize,
    /// How far ahead weights are fetched into the L2 cache when they are read once, for few rows;
    /// 0 leaves that to the hardware. With more rows it is the next chunk.
    pub ahead_bytes: usize,
}

/// Some of a panel's units (pairs or blocks of inputs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) from: usize,
    pub(super) to: usize,
}

/// What one tile fetches while it computes a group of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    /// From the group's first byte to the first that is fetched.
    pub(super) ahead_bytes: usize,
    pub(super) lines: usize,
}

// === impl Tuning ===

impl Default for Tuning {
    fn default() -> Self {
        Self {
            chunk_bytes: 256 << 10,
            ahead_bytes: 0,
        }
    }
}

impl Tuning {
    /// Equal parts of `units` that each take about `chunk_bytes` at most, in whole groups.
    pub(super) fn chunks(
        self,
        units: usize,
        unit_bytes: usize,
        group: usize,
    ) -> impl Iterator<Item = Chunk> {
        let count = (units * unit_bytes)
            .div_ceil(self.chunk_bytes.max(1))
            .max(1);
        let len = units.div_ceil(count).next_multiple_of(group).max(1);
        (0..units).step_by(len).map(move |from| Chunk {
            from,
            to: units.min(from + len),
        })
    }

    /// For tile `tile` of `tiles` over the rows of a chunk. The tiles share the lines of the next
    /// chunk, which comes right after this one in memory.
    pub(super) fn fetch(
        self,
        (tile, tiles): (usize, usize),
        chunk_bytes: usize,
        group_bytes: usize,
    ) -> Fetch {
        if tiles == 1 && self.ahead_bytes == 0 {
            return Fetch::NONE;
        }
        let all = group_bytes / LINE_BYTES;
        let each = all.div_ceil(tiles);
        let before = (tile * each).min(all);
        let ahead = if tiles == 1 {
            self.ahead_bytes
        } else {
            chunk_bytes
        };
        Fetch {
            ahead_bytes: ahead + before * LINE_BYTES,
            lines: each.min(all - before),
        }
    }
}

impl Fetch {
    pub(super) const NONE: Self = Self {
        ahead_bytes: 0,
        lines: 0,
    };

    /// Asks for the lines of one group, which starts at `from`. They may lie beyond the weights.
    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn ask(self, from: *const u8) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let first = from.wrapping_add(self.ahead_bytes);
        for line in 0..self.lines {
            // SAFETY: a hint: no address faults. SSE is part of the architecture.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(first.wrapping_add(line * LINE_BYTES).cast()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_equal_whole_groups_and_cover_all() {
        let tuning = Tuning {
            chunk_bytes: 1000,
            ahead_bytes: 64,
        };
        let of = |units| {
            let chunks = tuning.chunks(units, 100, 4);
            chunks
                .map(|chunk| (chunk.from, chunk.to))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(10), [(0, 10)]);
        assert_eq!(of(11), [(0, 8), (8, 11)]);
        assert_eq!(of(25), [(0, 12), (12, 24), (24, 25)]);
        assert_eq!(of(0), []);
    }

    #[test]
    fn tiles_share_the_lines_of_the_next_chunk() {
        let tuning = Tuning::default();
        for tiles in 2..40 {
            let mut next = 5000;
            for tile in 0..tiles {
                let fetch = tuning.fetch((tile, tiles), 5000, 1024);
                assert!(fetch.lines == 0 || fetch.ahead_bytes == next);
                next += fetch.lines * LINE_BYTES;
            }
            assert_eq!(next, 5000 + 1024);
        }
        assert_eq!(tuning.fetch((0, 1), 5000, 1024), Fetch::NONE);
        let ahead = Tuning {
            ahead_bytes: 300,
            ..tuning
        };
        let alone = ahead.fetch((0, 1), 5000, 1024);
        assert_eq!((alone.ahead_bytes, alone.lines), (300, 16));
    }
}
