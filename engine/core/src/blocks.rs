//! The pool of KV blocks: who holds which, and which are free.
//!
//! Blocks are counted, not owned by a type: a prefix cache lets several sequences hold one block.
//! The pool knows neither tokens nor tensors.

use std::collections::VecDeque;

use crate::batch::BlockId;

/// A fixed number of blocks, each free or held at least once.
#[derive(Clone, Debug)]
pub struct BlockPool {
    /// Holders of each block, by block id.
    holders: Vec<u32>,
    /// Blocks without holders. The front is used next, so that memory used last is reused first.
    free: VecDeque<BlockId>,
}

// === impl BlockPool ===

impl BlockPool {
    /// A pool of `block_count` free blocks, given out in id order at first.
    #[must_use]
    pub fn new(block_count: u32) -> Self {
        Self {
            holders: vec![0; block_count as usize],
            free: (0..block_count).map(BlockId).collect(),
        }
    }

    /// Gives `count` blocks to one holder, or none at all.
    pub fn allocate(&mut self, count: usize) -> Option<Vec<BlockId>> {
        if count > self.free.len() {
            return None;
        }
        let blocks: Vec<BlockId> = self.free.drain(..count).collect();
        for block in &blocks {
            *self.holder_count_mut(*block) = 1;
        }
        Some(blocks)
    }

    /// Adds a holder to a block that is held already.
    ///
    /// # Panics
    /// When nobody holds the block: its content is then not to be relied on.
    pub fn share(&mut self, block: BlockId) {
        let count = self.holder_count_mut(block);
        assert!(*count > 0, "only a held block can be shared");
        *count += 1;
    }

    /// Takes one holder from each of a sequence's blocks, last block first; those left without
    /// holders become free.
    ///
    /// # Panics
    /// When a block is released more often than it was given.
    pub fn release(&mut self, blocks: &[BlockId]) {
        for block in blocks.iter().rev() {
            let count = self.holder_count_mut(*block);
            assert!(*count > 0, "a released block has a holder");
            *count -= 1;
            if *count == 0 {
                self.free.push_front(*block);
            }
        }
    }

    /// Blocks nobody holds.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Blocks somebody holds.
    #[must_use]
    pub fn used_count(&self) -> usize {
        self.holders.len() - self.free.len()
    }

    /// All blocks.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.holders.len()
    }

    fn holder_count_mut(&mut self, block: BlockId) -> &mut u32 {
        &mut self.holders[block.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn allocation_is_all_or_nothing() {
        let mut pool = BlockPool::new(3);
        assert_eq!(pool.allocate(4), None);
        assert_eq!(pool.free_count(), 3);
        assert_eq!(pool.allocate(3).unwrap().len(), 3);
        assert_eq!(pool.allocate(1), None);
        assert_eq!(pool.allocate(0), Some(vec![]));
    }

    #[test]
    fn a_shared_block_is_free_only_after_its_last_holder() {
        let mut pool = BlockPool::new(1);
        let blocks = pool.allocate(1).unwrap();
        pool.share(blocks[0]);
        pool.release(&blocks);
        assert_eq!(pool.free_count(), 0);
        pool.release(&blocks);
        assert_eq!(pool.free_count(), 1);
    }

    #[test]
    fn blocks_released_last_are_given_first() {
        let mut pool = BlockPool::new(4);
        let blocks = pool.allocate(2).unwrap();
        pool.release(&blocks);
        assert_eq!(pool.allocate(2).unwrap(), blocks);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Allocate(usize),
        Share(usize),
        Release(usize),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0_usize..9).prop_map(Op::Allocate),
            any::<usize>().prop_map(Op::Share),
            any::<usize>().prop_map(Op::Release),
        ]
    }

    proptest! {
        /// Whatever is given, shared and released, no block is lost or given twice.
        #[test]
        fn blocks_are_conserved(ops in vec(any_op(), 0..200)) {
            let mut pool = BlockPool::new(32);
            let mut holdings: Vec<Vec<BlockId>> = vec![];
            for op in ops {
                match op {
                    Op::Allocate(count) => {
                        let before: Vec<BlockId> = holdings.concat();
                        if let Some(blocks) = pool.allocate(count) {
                            prop_assert!(blocks.iter().all(|block| !before.contains(block)));
                            holdings.push(blocks);
                        }
                    }
                    Op::Share(index) if !holdings.is_empty() => {
                        let blocks = holdings[index % holdings.len()].clone();
                        blocks.iter().for_each(|block| pool.share(*block));
                        holdings.push(blocks);
                    }
                    Op::Release(index) if !holdings.is_empty() => {
                        let blocks = holdings.swap_remove(index % holdings.len());
                        pool.release(&blocks);
                    }
                    Op::Share(_) | Op::Release(_) => {}
                }
                let mut held = holdings.concat();
                held.sort_unstable();
                held.dedup();
                prop_assert_eq!(pool.used_count(), held.len());
                prop_assert_eq!(pool.used_count() + pool.free_count(), pool.block_count());
            }
        }
    }
}
