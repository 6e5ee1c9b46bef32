//! The pool: nothing lost, nothing given twice, and what is kept goes in the right order.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

fn allocate(pool: &mut BlockPool, count: usize) -> Option<Vec<BlockId>> {
    pool.allocate(count, |block| panic!("{block:?} was kept"))
}

#[test]
fn allocation_is_all_or_nothing() {
    let mut pool = BlockPool::new(3);
    assert_eq!(allocate(&mut pool, 4), None);
    assert_eq!(pool.free_count(), 3);
    assert_eq!(allocate(&mut pool, 3).unwrap().len(), 3);
    assert_eq!(allocate(&mut pool, 1), None);
    assert_eq!(allocate(&mut pool, 0), Some(vec![]));
}

#[test]
fn a_shared_block_is_free_only_after_its_last_holder() {
    let mut pool = BlockPool::new(1);
    let blocks = allocate(&mut pool, 1).unwrap();
    pool.share(blocks[0]);
    pool.release(&blocks);
    assert_eq!(pool.free_count(), 0);
    pool.release(&blocks);
    assert_eq!(pool.free_count(), 1);
}

#[test]
fn blocks_released_last_are_given_first() {
    let mut pool = BlockPool::new(4);
    let blocks = allocate(&mut pool, 2).unwrap();
    pool.release(&blocks);
    assert_eq!(allocate(&mut pool, 2).unwrap(), blocks);
}

#[test]
fn kept_blocks_are_lost_last_the_oldest_first_and_deeper_ones_before() {
    let mut pool = BlockPool::new(6);
    let [old, new] = [0, 1].map(|_| allocate(&mut pool, 2).unwrap());
    let plain = allocate(&mut pool, 1).unwrap();
    for block in old.iter().chain(&new) {
        pool.keep(*block);
    }
    [&old, &new, &plain]
        .into_iter()
        .for_each(|blocks| pool.release(blocks));
    pool.refresh(old[0]);
    let mut lost = vec![];
    let all = pool.allocate(6, |block| lost.push(block)).unwrap();
    assert_eq!(lost, [old[1], new[1], new[0], old[0]]);
    assert_eq!(all[..2], [plain[0], BlockId(5)]);
    assert_eq!(all[2..], lost);
}

#[test]
fn a_kept_block_can_be_held_again() {
    let mut pool = BlockPool::new(2);
    let blocks = allocate(&mut pool, 2).unwrap();
    pool.keep(blocks[0]);
    pool.release(&blocks);
    pool.share(blocks[0]);
    assert_eq!((pool.used_count(), pool.holder_count(blocks[0])), (1, 1));
    assert_eq!(allocate(&mut pool, 2), None);
    pool.keep_none();
    pool.release(&blocks[..1]);
    assert_eq!(allocate(&mut pool, 2).unwrap().len(), 2);
}

#[derive(Clone, Debug)]
enum Op {
    Allocate(usize),
    Share(usize),
    Release(usize),
    Keep(usize),
    Find(usize),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0_usize..9).prop_map(Op::Allocate),
        any::<usize>().prop_map(Op::Share),
        any::<usize>().prop_map(Op::Release),
        any::<usize>().prop_map(Op::Keep),
        any::<usize>().prop_map(Op::Find),
    ]
}

proptest! {
    /// Whatever is given, shared, kept, found and released, no block is lost or given twice, and
    /// only what is kept is told to be lost.
    #[test]
    fn blocks_are_conserved(ops in vec(any_op(), 0..200)) {
        let mut pool = BlockPool::new(32);
        let mut holdings: Vec<Vec<BlockId>> = vec![];
        let mut kept: Vec<BlockId> = vec![];
        for op in ops {
            match op {
                Op::Allocate(count) => {
                    let mut lost = vec![];
                    if let Some(blocks) = pool.allocate(count, |block| lost.push(block)) {
                        let before = holdings.concat();
                        prop_assert!(blocks.iter().all(|block| !before.contains(block)));
                        let given: Vec<BlockId> = blocks
                            .iter()
                            .filter(|block| kept.contains(block))
                            .copied()
                            .collect();
                        prop_assert_eq!(given, lost);
                        kept.retain(|block| !blocks.contains(block));
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
                Op::Keep(index) if !holdings.concat().is_empty() => {
                    let held = holdings.concat();
                    let block = held[index % held.len()];
                    pool.keep(block);
                    if !kept.contains(&block) {
                        kept.push(block);
                    }
                }
                Op::Find(index) if !kept.is_empty() => {
                    let block = kept[index % kept.len()];
                    pool.share(block);
                    holdings.push(vec![block]);
                }
                Op::Share(_) | Op::Release(_) | Op::Keep(_) | Op::Find(_) => {}
            }
            let mut counts: BTreeMap<BlockId, u32> = BTreeMap::new();
            for block in holdings.concat() {
                *counts.entry(block).or_default() += 1;
            }
            prop_assert_eq!(pool.used_count(), counts.len());
            prop_assert_eq!(pool.used_count() + pool.free_count(), pool.block_count());
            for (block, count) in counts {
                prop_assert_eq!(pool.holder_count(block), count);
            }
        }
    }
}
