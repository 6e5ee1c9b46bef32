//! Free blocks in the order of their next use: a doubly linked list through the blocks' ids.
//!
//! Every operation takes the same time however many blocks there are, taking one out of the
//! middle too: that is what a prefix hit does.

use crate::batch::BlockId;

/// What `next` of a block says that is not in the list.
const ABSENT: u32 = u32::MAX;

/// A ring: the entry after the last block closes it.
#[derive(Clone, Debug)]
pub(super) struct FreeList {
    links: Vec<Link>,
    count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

// === impl FreeList ===

impl FreeList {
    /// All blocks, in id order.
    ///
    /// # Panics
    /// With the greatest count that there is: two ids are kept for the list itself.
    pub(super) fn all(block_count: u32) -> Self {
        assert!(block_count < ABSENT, "one id is left for the ring's end");
        let absent = Link {
            previous: ABSENT,
            next: ABSENT,
        };
        let end = Link {
            previous: block_count,
            next: block_count,
        };
        let mut links = vec![absent; block_count as usize];
        links.push(end);
        let mut list = Self { links, count: 0 };
        (0..block_count).for_each(|id| list.push_back(BlockId(id)));
        list
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn contains(&self, block: BlockId) -> bool {
        self.links[block.0 as usize].next != ABSENT
    }

    pub(super) fn pop_front(&mut self) -> Option<BlockId> {
        let first = self.links[self.end() as usize].next;
        (first != self.end()).then(|| {
            self.remove(BlockId(first));
            BlockId(first)
        })
    }

    pub(super) fn push_front(&mut self, block: BlockId) {
        let first = self.links[self.end() as usize].next;
        self.insert_before(first, block);
    }

    pub(super) fn push_back(&mut self, block: BlockId) {
        self.insert_before(self.end(), block);
    }

    pub(super) fn remove(&mut self, block: BlockId) {
        debug_assert!(self.contains(block), "only what is in the list leaves it");
        let link = &mut self.links[block.0 as usize];
        let Link { previous, next } = *link;
        link.next = ABSENT;
        self.links[previous as usize].next = next;
        self.links[next as usize].previous = previous;
        self.count -= 1;
    }

    fn insert_before(&mut self, next: u32, block: BlockId) {
        debug_assert!(!self.contains(block), "a block is in the list once");
        let previous = self.links[next as usize].previous;
        self.links[block.0 as usize] = Link { previous, next };
        self.links[previous as usize].next = block.0;
        self.links[next as usize].previous = block.0;
        self.count += 1;
    }

    /// The ring's end.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "made from a count of 32 bits"
    )]
    fn end(&self) -> u32 {
        (self.links.len() - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        /// What a list of ids in a row does, slower.
        #[test]
        fn it_behaves_like_a_row(ops in vec((0_u8..4, 0_u32..16), 0..200)) {
            let mut list = FreeList::all(16);
            let mut row: VecDeque<BlockId> = (0..16).map(BlockId).collect();
            for (op, id) in ops {
                let block = BlockId(id);
                match (op, row.contains(&block)) {
                    (0, _) => prop_assert_eq!(list.pop_front(), row.pop_front()),
                    (1, true) => {
                        list.remove(block);
                        row.retain(|other| *other != block);
                    }
                    (2, false) => {
                        list.push_front(block);
                        row.push_front(block);
                    }
                    (3, false) => {
                        list.push_back(block);
                        row.push_back(block);
                    }
                    _ => {}
                }
                prop_assert_eq!(list.count(), row.len());
                prop_assert_eq!(list.contains(block), row.contains(&block));
            }
            while let Some(block) = list.pop_front() {
                prop_assert_eq!(Some(block), row.pop_front());
            }
            prop_assert!(row.is_empty());
        }
    }
}
