//! What becomes of kept blocks, told to whoever routes requests to where their beginnings are.
//!
//! The events are vLLM's, which KV-aware routers read; how they are encoded and sent is not for
//! this crate.

use std::fmt;

use crate::batch::TokenId;
use crate::prefix::TextHash;

/// One change of what the prefix cache can find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// Full blocks of one sequence, one after the other, can be found from now on.
    BlockStored {
        /// Their names.
        block_hashes: Vec<TextHash>,
        /// The block before the first; none at the start of a text.
        parent_block_hash: Option<TextHash>,
        /// The tokens of all of them.
        token_ids: Vec<TokenId>,
        /// Tokens in each.
        block_size: usize,
    },
    /// Blocks cannot be found any more: their memory was needed.
    BlockRemoved {
        /// Their names.
        block_hashes: Vec<TextHash>,
    },
    /// Nothing can be found any more.
    AllBlocksCleared,
}

/// Takes events in the order in which they happen. It must not wait: the scheduler calls it.
pub trait KvEvents: fmt::Debug + Send {
    /// Takes one.
    fn publish(&mut self, event: KvEvent);
}
