//! One layer's paged keys and values on one rank, in bf16.
//!
//! A KV head's blocks follow one another, each with its keys and then its values, so that
//! attention reads a block as one stream. Keys lie channel by channel, a block's slots side by
//! side: scores of many positions are then summed at once, each in the order of the channels.
//! Values lie slot by slot.

use berth_engine_core::batch::{BlockCopy, BlockId};

use super::AttentionShape;

/// Keys and values: `[kv head][block][keys: channel, slot | values: slot, channel]`.
#[derive(Debug)]
pub struct KvCache {
    shape: AttentionShape,
    elements: Vec<u16>,
}

/// One KV head's part.
#[derive(Clone, Copy)]
pub(super) struct HeadCache<'a> {
    shape: AttentionShape,
    elements: &'a [u16],
}

/// Consecutive slots of one block.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    /// The block's keys.
    pub(super) keys: &'a [u16],
    /// The block's values.
    pub(super) values: &'a [u16],
    pub(super) first_slot: usize,
    pub(super) count: usize,
}

// === impl KvCache ===

impl KvCache {
    /// An empty cache. Its pages are touched first by who writes to them.
    #[must_use]
    pub fn new(shape: AttentionShape) -> Self {
        Self {
            shape,
            elements: vec![0; shape.kv_head_count * shape.head_elements()],
        }
    }

    /// Bytes that a cache of this shape takes.
    #[must_use]
    pub fn bytes(shape: AttentionShape) -> u64 {
        let per_slot = (2 * shape.kv_head_count * shape.head_dim * size_of::<u16>()) as u64;
        let slots = (shape.block_size as u64).saturating_mul(shape.block_count as u64);
        slots.saturating_mul(per_slot)
    }

    /// What the cache holds.
    #[must_use]
    pub fn shape(&self) -> AttentionShape {
        self.shape
    }

    /// Writes one block's keys and values to another one.
    pub fn copy(&mut self, BlockCopy { from, to }: BlockCopy) {
        let size = self.shape.block_elements();
        for head in self.elements.chunks_exact_mut(self.shape.head_elements()) {
            let from = from.0 as usize * size;
            head.copy_within(from..from + size, to.0 as usize * size);
        }
    }

    /// Every KV head's part, to be written to.
    pub(super) fn elements_mut(&mut self) -> &mut [u16] {
        &mut self.elements
    }

    pub(super) fn head(&self, kv_head: usize) -> HeadCache<'_> {
        let size = self.shape.head_elements();
        HeadCache {
            shape: self.shape,
            elements: &self.elements[kv_head * size..][..size],
        }
    }
}

/// Writes one position of one head, rounded to bf16. `head`: its part of the cache.
pub(super) fn write(
    shape: AttentionShape,
    head: &mut [u16],
    (block, slot): (BlockId, usize),
    key: &[f32],
    value: &[f32],
) {
    let size = shape.block_elements();
    let block = &mut head[block.0 as usize * size..][..size];
    let (keys, values) = block.split_at_mut(size / 2);
    for (channel, key) in keys.chunks_exact_mut(shape.block_size).zip(key) {
        channel[slot] = rounded(*key);
    }
    let values = &mut values[slot * shape.head_dim..][..shape.head_dim];
    for (to, value) in values.iter_mut().zip(value) {
        *to = rounded(*value);
    }
}

/// To bf16, the nearest, the even one of two.
fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return upper_half(bits) | 0x40;
    }
    upper_half(bits + 0x7fff + ((bits >> 16) & 1))
}

fn upper_half(bits: u32) -> u16 {
    (bits >> 16) as u16
}

// === impl HeadCache ===

impl<'a> HeadCache<'a> {
    /// The slots from `position` on that lie in one block, `count_max` at most.
    #[inline(always)]
    pub(super) fn run(self, blocks: &[BlockId], position: usize, count_max: usize) -> Run<'a> {
        let (size, block_size) = (self.shape.block_elements(), self.shape.block_size);
        let block = blocks[position / block_size].0 as usize;
        let (keys, values) = self.elements[block * size..][..size].split_at(size / 2);
        let first_slot = position % block_size;
        Run {
            keys,
            values,
            first_slot,
            count: count_max.min(block_size - first_slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rounding_is_to_the_nearest_and_to_even(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assert_eq!(rounded(value), half::bf16::from_f32(value).to_bits());
        }
    }
}
