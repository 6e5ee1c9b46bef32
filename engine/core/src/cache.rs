//! The paged cache as the scheduler sees it: blocks of sequences, and what can be found again.
//!
//! Only what is computed can be found, so a hit is always something to read: full blocks as soon
//! as they are full, and where a sequence ended inside a block, that one once nobody writes to it.
//! A hit inside a block is copied by the backend before the step: the copy is then written to,
//! the original stays as it is.

use std::ops::Range;

use crate::batch::{BlockCopy, BlockId, TokenId};
use crate::blocks::BlockPool;
use crate::events::{KvEvent, KvEvents};
use crate::prefix::Chain;
use crate::prefix::index::PrefixIndex;

/// Blocks and their texts.
#[derive(Debug)]
pub(crate) struct BlockCache {
    pool: BlockPool,
    block_size: usize,
    /// None: every text is computed anew.
    index: Option<PrefixIndex>,
    events: Option<Box<dyn KvEvents>>,
}

/// What a sequence need not compute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hit {
    /// Whole blocks from the start.
    blocks: Vec<BlockId>,
    /// The beginning of one more, in tokens.
    beginning: Option<(BlockId, usize)>,
}

/// A sequence's text and blocks.
#[derive(Debug)]
pub(crate) struct Holding<'a> {
    pub(crate) tokens: &'a [TokenId],
    pub(crate) chain: &'a mut Chain,
    pub(crate) blocks: &'a mut Vec<BlockId>,
}

/// Blocks for a sequence that begins to run.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) blocks: Vec<BlockId>,
    pub(crate) copy: Option<BlockCopy>,
}

// === impl BlockCache ===

impl BlockCache {
    pub(crate) fn new(block_count: u32, block_size: usize, finds: bool) -> Self {
        Self {
            pool: BlockPool::new(block_count),
            block_size,
            index: finds.then(PrefixIndex::default),
            events: None,
        }
    }

    pub(crate) fn publish_to(&mut self, events: Box<dyn KvEvents>) {
        self.events = Some(events);
    }

    pub(crate) fn pool(&self) -> &BlockPool {
        &self.pool
    }

    pub(crate) fn blocks_for(&self, token_count: usize) -> usize {
        token_count.div_ceil(self.block_size)
    }

    /// What is computed of `tokens` already, all but the last at most: its logits are wanted.
    pub(crate) fn find(&self, tokens: &[TokenId], chain: &mut Chain) -> Hit {
        let Some(index) = &self.index else {
            return Hit::default();
        };
        let wanted = &tokens[..tokens.len().saturating_sub(1)];
        let mut blocks = vec![];
        while (blocks.len() + 1) * self.block_size <= wanted.len() {
            let name = chain.through(blocks.len(), tokens, self.block_size);
            let Some(block) = index.find(&name) else {
                break;
            };
            blocks.push(block);
        }
        let rest = &wanted[blocks.len() * self.block_size..];
        let beginning = index.find_beginning(chain.before(blocks.len()), rest);
        Hit { blocks, beginning }
    }

    /// Blocks for `token_count` tokens that begin with `hit`, or none at all.
    pub(crate) fn admit(&mut self, hit: Hit, token_count: usize) -> Option<Admission> {
        let Hit {
            mut blocks,
            beginning,
        } = hit;
        // First of all, so that they are not given away just below.
        blocks.iter().for_each(|block| self.pool.share(*block));
        if let Some((block, _)) = beginning {
            self.pool.refresh(block);
        }
        let missing = self.blocks_for(token_count) - blocks.len();
        let Some(new) = self.allocate(missing) else {
            self.pool.release(&blocks);
            return None;
        };
        let copy = beginning
            .zip(new.first())
            .map(|((from, _), to)| BlockCopy { from, to: *to });
        blocks.extend(new);
        Some(Admission {
            blocks,
            // Where it was the last free block it is its own copy.
            copy: copy.filter(|copy| copy.from != copy.to),
        })
    }

    /// Blocks for more tokens, or none at all.
    pub(crate) fn allocate(&mut self, count: usize) -> Option<Vec<BlockId>> {
        let Self {
            pool,
            index,
            events,
            ..
        } = self;
        let mut removed = vec![];
        let blocks = pool.allocate(count, |block| {
            removed.extend(index.as_mut().and_then(|index| index.remove(block)));
        });
        if let (Some(events), false) = (events, removed.is_empty()) {
            events.publish(KvEvent::BlockRemoved {
                block_hashes: removed,
            });
        }
        blocks
    }

    /// Takes a sequence's blocks back, of which `computed_count` tokens are computed. The last
    /// of them may not fill their block: that one can be found by its beginning.
    pub(crate) fn release(&mut self, holding: &mut Holding<'_>, computed_count: usize) {
        let Holding {
            tokens,
            chain,
            blocks,
        } = holding;
        let full_count = computed_count / self.block_size;
        let tail = &tokens[full_count * self.block_size..computed_count];
        if let (Some(index), false) = (&mut self.index, tail.is_empty()) {
            let before = chain.after(full_count, tokens, self.block_size);
            let found = index.find_beginning(before, tail);
            if found.is_none_or(|(_, count)| count < tail.len()) {
                self.pool.keep(blocks[full_count]);
                index.insert(blocks[full_count], None, before, tail);
            }
        }
        self.pool.release(blocks);
        blocks.clear();
    }

    /// Makes some blocks of a sequence findable, which are full and computed. A block whose text
    /// another block has already gives way to that one.
    pub(crate) fn commit(&mut self, holding: Holding<'_>, some: Range<usize>) {
        let Self {
            pool,
            index: Some(index),
            block_size,
            events,
        } = self
        else {
            return;
        };
        let Holding {
            tokens,
            chain,
            blocks,
        } = holding;
        let mut stored = Stored::default();
        for at in some {
            let name = chain.through(at, tokens, *block_size);
            match index.find(&name) {
                Some(same) if same != blocks[at] => {
                    pool.share(same);
                    pool.release(&blocks[at..=at]);
                    blocks[at] = same;
                }
                Some(_) => {}
                None => {
                    let text = &tokens[at * *block_size..(at + 1) * *block_size];
                    pool.keep(blocks[at]);
                    index.insert(blocks[at], Some(name), chain.before(at), text);
                    stored.add(at);
                    continue;
                }
            }
            stored.publish(events, tokens, chain, *block_size);
        }
        stored.publish(events, tokens, chain, *block_size);
    }

    /// Forgets all texts, unless a sequence runs: what it holds may be shared.
    pub(crate) fn clear(&mut self) -> bool {
        if self.pool.used_count() > 0 {
            return false;
        }
        self.pool.keep_none();
        if let Some(index) = &mut self.index {
            *index = PrefixIndex::default();
        }
        if let Some(events) = &mut self.events {
            events.publish(KvEvent::AllBlocksCleared);
        }
        true
    }

    /// Texts that can be found, in blocks.
    pub(crate) fn kept_count(&self) -> usize {
        self.index.as_ref().map_or(0, PrefixIndex::count)
    }
}

// === impl Hit ===

impl Hit {
    /// Tokens that need not be computed.
    pub(crate) fn token_count(&self, block_size: usize) -> usize {
        let begun = self.beginning.map_or(0, |(_, count)| count);
        self.blocks.len() * block_size + begun
    }
}

/// Blocks of one sequence that were entered one after the other.
#[derive(Debug, Default)]
struct Stored(Range<usize>);

// === impl Stored ===

impl Stored {
    fn add(&mut self, at: usize) {
        self.0 = if self.0.is_empty() {
            at..at + 1
        } else {
            self.0.start..at + 1
        };
    }

    fn publish(
        &mut self,
        events: &mut Option<Box<dyn KvEvents>>,
        tokens: &[TokenId],
        chain: &mut Chain,
        block_size: usize,
    ) {
        let range = std::mem::take(&mut self.0);
        let (Some(events), false) = (events, range.is_empty()) else {
            return;
        };
        let name = |at| chain.through(at, tokens, block_size);
        let before = range.start.checked_sub(1);
        events.publish(KvEvent::BlockStored {
            token_ids: tokens[range.start * block_size..range.end * block_size].to_vec(),
            block_size,
            block_hashes: range.map(name).collect(),
            parent_block_hash: before.map(|before| chain.through(before, tokens, block_size)),
        });
    }
}
