//! The pool of KV blocks: who holds which, and which are free.
//!
//! Blocks are counted, not owned by a type: several sequences that begin alike hold one block. A
//! free block whose content is worth keeping stays findable until it is given out again; those
//! are used last, the one that was let go first of all before the others. The pool knows neither
//! tokens nor tensors.

use crate::batch::BlockId;
use free_list::FreeList;

mod free_list;

/// A fixed number of blocks, each free or held at least once.
#[derive(Clone, Debug)]
pub struct BlockPool {
    /// By block id.
    blocks: Vec<Block>,
    /// Blocks without holders; the front is used next.
    free: FreeList,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    holder_count: u32,
    /// Whether its content can be found again.
    is_kept: bool,
}

// === impl BlockPool ===

impl BlockPool {
    /// A pool of `block_count` free blocks, given out in id order at first.
    ///
    /// # Panics
    /// With 2³² − 1 blocks.
    #[must_use]
    pub fn new(block_count: u32) -> Self {
        Self {
            blocks: vec![Block::default(); block_count as usize],
            free: FreeList::all(block_count),
        }
    }

    /// Gives `count` blocks to one holder, or none at all. Hears in `lost` of each block whose
    /// content was kept and is now lost.
    pub fn allocate(
        &mut self,
        count: usize,
        mut lost: impl FnMut(BlockId),
    ) -> Option<Vec<BlockId>> {
        if count > self.free.count() {
            return None;
        }
        let mut blocks = Vec::with_capacity(count);
        while blocks.len() < count {
            let block = self.free.pop_front()?;
            let entry = &mut self.blocks[block.0 as usize];
            entry.holder_count = 1;
            if std::mem::take(&mut entry.is_kept) {
                lost(block);
            }
            blocks.push(block);
        }
        Some(blocks)
    }

    /// Adds a holder to a block that is held, or free with its content kept.
    ///
    /// # Panics
    /// When nobody holds the block and its content is not kept: it is not to be relied on.
    pub fn share(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block.0 as usize];
        if entry.holder_count == 0 {
            assert!(
                entry.is_kept,
                "only a block that is held or kept can be shared"
            );
            self.free.remove(block);
        }
        entry.holder_count += 1;
    }

    /// Takes one holder from each of a sequence's blocks, last block first; those left without
    /// holders become free. So of what is kept, the end of a text is lost before its beginning.
    ///
    /// # Panics
    /// When a block is released more often than it was given.
    pub fn release(&mut self, blocks: &[BlockId]) {
        for block in blocks.iter().rev() {
            let entry = &mut self.blocks[block.0 as usize];
            assert!(entry.holder_count > 0, "a released block has a holder");
            entry.holder_count -= 1;
            match (entry.holder_count, entry.is_kept) {
                (0, true) => self.free.push_back(*block),
                // Its memory was used last, so that it may still be in a CPU's cache.
                (0, false) => self.free.push_front(*block),
                _ => {}
            }
        }
    }

    /// Keeps a held block's content until its memory is needed.
    ///
    /// # Panics
    /// When nobody holds the block.
    pub fn keep(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block.0 as usize];
        assert!(
            entry.holder_count > 0,
            "only a held block's content is known"
        );
        entry.is_kept = true;
    }

    /// Counts a kept block that is free as let go just now.
    pub fn refresh(&mut self, block: BlockId) {
        let Block {
            holder_count,
            is_kept,
        } = self.blocks[block.0 as usize];
        if holder_count == 0 && is_kept {
            self.free.remove(block);
            self.free.push_back(block);
        }
    }

    /// Keeps no block's content any more.
    pub fn keep_none(&mut self) {
        self.blocks
            .iter_mut()
            .for_each(|block| block.is_kept = false);
    }

    /// Blocks nobody holds.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.count()
    }

    /// Blocks somebody holds.
    #[must_use]
    pub fn used_count(&self) -> usize {
        self.blocks.len() - self.free.count()
    }

    /// All blocks.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// How many hold a block.
    #[must_use]
    pub fn holder_count(&self, block: BlockId) -> u32 {
        self.blocks[block.0 as usize].holder_count
    }
}

#[cfg(test)]
mod tests;
