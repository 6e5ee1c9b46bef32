//! Names of texts, and which block holds which: how a sequence finds what was computed before.
//!
//! A full block's name is a hash of its tokens and of the name of the block before it, so one
//! name stands for a whole text up to there. Replicas give the same names.

use std::hash::{Hash, Hasher};

use crate::batch::TokenId;
use sha256::Sha256;

pub(crate) mod index;
mod sha256;

/// What stands before the first block; the same on every replica.
const NOTHING: &[u8] = b"berth-nothing";

/// The name of a text that ends where a block does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TextHash([u8; 32]);

/// The names of one sequence's full blocks, made as they are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    root: TextHash,
    names: Vec<TextHash>,
}

// === impl TextHash ===

impl TextHash {
    /// The empty text. Texts with different salts share nothing, so that nobody can tell from a
    /// fast answer what another tenant asked.
    #[must_use]
    pub fn root(salt: Option<&str>) -> Self {
        let mut hash = Sha256::new();
        hash.update(NOTHING);
        if let Some(salt) = salt {
            hash.update(b"cache_salt");
            hash.update(salt.as_bytes());
        }
        Self(hash.finish())
    }

    /// This text with one more block.
    #[must_use]
    pub fn then(self, block: &[TokenId]) -> Self {
        let mut hash = Sha256::new();
        hash.update(&self.0);
        let bytes: Vec<u8> = block.iter().flat_map(|token| token.to_le_bytes()).collect();
        hash.update(&bytes);
        Self(hash.finish())
    }

    /// The digest.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its first eight bytes, for keys that need not withstand an attack.
    #[must_use]
    pub fn short(&self) -> u64 {
        self.0
            .iter()
            .take(8)
            .fold(0, |short, byte| short << 8 | u64::from(*byte))
    }
}

impl Hash for TextHash {
    /// It is random already: a map need not mix more of it.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.short());
    }
}

// === impl Chain ===

impl Chain {
    pub(crate) fn new(salt: Option<&str>) -> Self {
        Self {
            root: TextHash::root(salt),
            names: vec![],
        }
    }

    /// The text up to and with block `index` of `tokens`, which is full.
    pub(crate) fn through(
        &mut self,
        index: usize,
        tokens: &[TokenId],
        block_size: usize,
    ) -> TextHash {
        while self.names.len() <= index {
            let count = self.names.len();
            let block = &tokens[count * block_size..(count + 1) * block_size];
            self.names.push(self.before(count).then(block));
        }
        self.names[index]
    }

    /// The text that the first `count` blocks hold.
    pub(crate) fn after(
        &mut self,
        count: usize,
        tokens: &[TokenId],
        block_size: usize,
    ) -> TextHash {
        match count.checked_sub(1) {
            Some(last) => self.through(last, tokens, block_size),
            None => self.root,
        }
    }

    /// The text before block `index`, whose blocks have been asked for.
    pub(crate) fn before(&self, index: usize) -> TextHash {
        index
            .checked_sub(1)
            .map_or(self.root, |last| self.names[last])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_covers_everything_before_it() {
        let tokens: Vec<TokenId> = (0..12).collect();
        let mut chain = Chain::new(None);
        let last = chain.through(2, &tokens, 4);
        let by_hand = TextHash::root(None)
            .then(&tokens[..4])
            .then(&tokens[4..8])
            .then(&tokens[8..]);
        assert_eq!(last, by_hand);
        assert_eq!(chain.before(0), TextHash::root(None));
        assert_eq!(chain.before(1), chain.through(0, &tokens, 4));
        let mut other = tokens.clone();
        other[0] = 99;
        assert_ne!(Chain::new(None).through(2, &other, 4), last);
        assert_ne!(Chain::new(Some("a")).through(2, &tokens, 4), last);
    }

    /// Replicas of different builds must agree: a change of this figure is a change of format.
    #[test]
    fn names_do_not_change_between_builds() {
        let name = TextHash::root(None).then(&[1, 2, 3, 4]);
        assert_eq!(name.short(), 12_355_373_786_818_892_287);
        assert_ne!(TextHash::root(None), TextHash::root(Some("")));
    }
}
