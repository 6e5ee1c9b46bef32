//! Which block holds which text, whole blocks and beginnings of blocks.
//!
//! ```text
//! by name:      text ──► block            a hit of a whole block
//! by beginning: (text before, first token) ──► newest block ──► older ──► …
//!                                         the longest common beginning is a hit inside a block
//! ```

use std::collections::HashMap;

use super::TextHash;
use crate::batch::{BlockId, TokenId};

/// Blocks compared for a common beginning; many texts may branch off at one place.
const COMPARED_MAX: usize = 16;

/// Kept blocks by their texts.
#[derive(Debug, Default)]
pub(crate) struct PrefixIndex {
    by_name: HashMap<TextHash, BlockId>,
    /// The newest of the blocks that go on with this token after this text.
    by_beginning: HashMap<(TextHash, TokenId), BlockId>,
    /// By block id; grows with the greatest.
    entries: Vec<Option<Box<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    /// None where the block is not full: it is found by its beginning alone.
    name: Option<TextHash>,
    before: TextHash,
    tokens: Vec<TokenId>,
    /// Neighbours among those with the same beginning.
    newer: Option<BlockId>,
    older: Option<BlockId>,
}

// === impl PrefixIndex ===

impl PrefixIndex {
    /// The block that ends this text.
    pub(crate) fn find(&self, name: &TextHash) -> Option<BlockId> {
        self.by_name.get(name).copied()
    }

    /// The block that has most of `tokens` in common after the text `before`, and how many.
    pub(crate) fn find_beginning(
        &self,
        before: TextHash,
        tokens: &[TokenId],
    ) -> Option<(BlockId, usize)> {
        let first = *tokens.first()?;
        let newest = self.by_beginning.get(&(before, first)).copied();
        let all = std::iter::successors(newest, |block| self.entry(*block)?.older);
        let mut longest: Option<(BlockId, usize)> = None;
        for block in all.take(COMPARED_MAX) {
            let held = &self.entry(block)?.tokens;
            let count = held.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            if longest.is_none_or(|(_, most)| count > most) {
                longest = Some((block, count));
            }
        }
        longest
    }

    /// Enters a block, whose text no other block has: `tokens` after the text `before`, which,
    /// where they fill the block, give the text `name`.
    pub(crate) fn insert(
        &mut self,
        block: BlockId,
        name: Option<TextHash>,
        before: TextHash,
        tokens: &[TokenId],
    ) {
        let Some(first) = tokens.first() else { return };
        let older = self.by_beginning.insert((before, *first), block);
        if let Some(older) = older.and_then(|older| self.entry_mut(older)) {
            older.newer = Some(block);
        }
        if let Some(name) = name {
            self.by_name.insert(name, block);
        }
        let index = block.0 as usize;
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, || None);
        }
        self.entries[index] = Some(Box::new(Entry {
            name,
            before,
            tokens: tokens.to_vec(),
            newer: None,
            older,
        }));
    }

    /// Forgets a block; its text's name, where it was full.
    pub(crate) fn remove(&mut self, block: BlockId) -> Option<TextHash> {
        let entry = *self.entries.get_mut(block.0 as usize)?.take()?;
        if let Some(name) = &entry.name {
            self.by_name.remove(name);
        }
        let (newer, older) = (entry.newer, entry.older);
        if let Some(older) = older.and_then(|older| self.entry_mut(older)) {
            older.newer = newer;
        }
        match newer.and_then(|newer| self.entry_mut(newer)) {
            Some(newer) => newer.older = older,
            None => self.set_newest((entry.before, entry.tokens[0]), older),
        }
        entry.name
    }

    /// How many whole blocks can be found.
    pub(crate) fn count(&self) -> usize {
        self.by_name.len()
    }

    fn set_newest(&mut self, beginning: (TextHash, TokenId), newest: Option<BlockId>) {
        match newest {
            Some(block) => self.by_beginning.insert(beginning, block),
            None => self.by_beginning.remove(&beginning),
        };
    }

    fn entry(&self, block: BlockId) -> Option<&Entry> {
        self.entries.get(block.0 as usize)?.as_deref()
    }

    fn entry_mut(&mut self, block: BlockId) -> Option<&mut Entry> {
        self.entries.get_mut(block.0 as usize)?.as_deref_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> TextHash {
        TextHash::root(None)
    }

    fn insert(index: &mut PrefixIndex, block: u32, before: TextHash, tokens: &[TokenId]) {
        let name = (tokens.len() > 2).then(|| before.then(tokens));
        index.insert(BlockId(block), name, before, tokens);
    }

    #[test]
    fn whole_blocks_are_found_by_name_and_beginnings_by_their_tokens() {
        let mut index = PrefixIndex::default();
        insert(&mut index, 7, root(), &[1, 2, 3, 4]);
        insert(&mut index, 3, root(), &[1, 2, 9, 9]);
        insert(&mut index, 5, root().then(&[1, 2, 3, 4]), &[1, 2, 3, 5]);
        assert_eq!(index.find(&root().then(&[1, 2, 3, 4])), Some(BlockId(7)));
        assert_eq!(index.find(&root().then(&[1, 2, 3, 5])), None);
        let begun = |tokens: &[TokenId]| index.find_beginning(root(), tokens);
        assert_eq!(begun(&[1, 2, 3, 8, 1]), Some((BlockId(7), 3)));
        assert_eq!(begun(&[1, 2, 9]), Some((BlockId(3), 3)));
        assert_eq!(
            begun(&[1, 8]),
            Some((BlockId(3), 1)),
            "the newest of equals"
        );
        assert_eq!(begun(&[2]), None);
        assert_eq!(begun(&[]), None);
    }

    #[test]
    fn a_block_that_is_not_full_is_found_by_its_beginning_alone() {
        let mut index = PrefixIndex::default();
        insert(&mut index, 9, root(), &[2, 6]);
        let found = index.find_beginning(root(), &[2, 6, 7]);
        assert_eq!((found, index.count()), (Some((BlockId(9), 2)), 0));
        assert_eq!(index.remove(BlockId(9)), None, "it has no name");
        assert_eq!(index.find_beginning(root(), &[2]), None);
    }

    #[test]
    fn a_forgotten_block_leaves_its_neighbours_findable() {
        let tokens = |last| [1, 2, last];
        for gone in 0..3 {
            let mut index = PrefixIndex::default();
            for block in 0..3 {
                insert(&mut index, block, root(), &tokens(block));
            }
            assert_eq!(
                index.remove(BlockId(gone)),
                Some(root().then(&tokens(gone)))
            );
            assert_eq!(index.remove(BlockId(gone)), None);
            for block in (0..3).filter(|block| *block != gone) {
                let found = index.find_beginning(root(), &tokens(block));
                assert_eq!(found, Some((BlockId(block), 3)));
            }
            let (_, count) = index.find_beginning(root(), &tokens(gone)).unwrap();
            assert_eq!((count, index.count()), (2, 2));
            for block in 0..3 {
                index.remove(BlockId(block));
            }
            assert_eq!(index.find_beginning(root(), &[1]), None);
            assert_eq!((index.count(), index.by_beginning.len()), (0, 0));
        }
    }
}
