//! Tests: storing, finding and evicting blocks.

use candle_core::Device;

use super::*;
use crate::runtime::{CrossDocumentLayers, Head, OutputSpec, TokenPosition, TokenTypes};

/// A pass whose prefix has a block of each number, and one token more.
fn pass(blocks: &[u32]) -> ForwardPass {
    let mut prefix: Vec<u32> = blocks.iter().flat_map(|number| [*number; BLOCK]).collect();
    prefix.push(0);
    let marks = vec![TokenPosition::prefix(prefix.len() - 1)];
    ForwardPass {
        prefix,
        suffixes: Vec::new(),
        token_types: TokenTypes::Zero,
        cross_document: CrossDocumentLayers::default(),
        output: OutputSpec::listed(marks, Head::Hidden),
    }
}

/// Runs a batch whose blocks hold the numbers of their last block. Returns the hits of each pass.
fn run(cache: &PrefixCache, batch: &[ForwardPass]) -> Vec<Vec<u32>> {
    let lookup = cache.look_up(batch);
    let found = lookup
        .hits
        .iter()
        .map(|places| places.iter().map(|&place| lookup.blocks[place].to_scalar::<u32>().unwrap()).collect::<Vec<_>>());
    let found = found.collect();
    let new_blocks = lookup.to_store.iter().flat_map(|(place, blocks)| {
        let prefix = shareable(&batch[*place]);
        prefix[blocks.clone()].iter().map(|tokens| Tensor::new(tokens[0], &Device::Cpu).unwrap())
    });
    cache.store(batch, &lookup, new_blocks.collect());
    found
}

fn cache(blocks: u64) -> PrefixCache {
    PrefixCache::new(blocks * 4, 4)
}

#[test]
fn a_block_is_kept_when_it_comes_for_the_second_time() {
    let cache = cache(10);
    assert_eq!(run(&cache, &[pass(&[1, 2])]), [[0; 0]]);
    assert_eq!(cache.statistics().bytes, 0);
    assert_eq!(run(&cache, &[pass(&[1, 2])]), [[0; 0]]);
    assert_eq!(cache.statistics().bytes, 8);
    assert_eq!(run(&cache, &[pass(&[1, 2, 3])]), [[1, 2]]);
    assert_eq!(run(&cache, &[pass(&[1, 4])]), [[1]]);
    assert_eq!(cache.statistics().looked_up_tokens, (2 + 2 + 3 + 2) * BLOCK as u64);
    assert_eq!(cache.statistics().hit_tokens, 3 * BLOCK as u64);
}

#[test]
fn a_block_is_another_one_behind_other_blocks() {
    let cache = cache(10);
    for _ in 0..2 {
        run(&cache, &[pass(&[1, 3])]);
    }
    assert_eq!(run(&cache, &[pass(&[2, 3]), pass(&[3])]), [[0; 0], []]);
    assert_eq!(run(&cache, &[pass(&[1, 3])]), [[1, 3]]);
}

#[test]
fn passes_of_a_batch_bring_a_block_once_and_share_it() {
    let cache = cache(10);
    let batch = [pass(&[1, 2]), pass(&[1, 2]), pass(&[1, 3]), pass(&[1, 3])];
    let lookup = cache.look_up(&batch);
    assert_eq!(lookup.to_store, [(1, 0..2), (3, 1..2)]);
    run(&cache, &batch);
    run(&cache, &batch);
    let lookup = cache.look_up(&batch);
    assert_eq!(lookup.hits, [[0, 1], [0, 1], [0, 2], [0, 2]]);
    assert_eq!((lookup.blocks.len(), lookup.to_store.len()), (3, 0));
}

#[test]
fn what_was_not_used_for_longest_leaves_and_ends_before_beginnings() {
    let cache = cache(3);
    for _ in 0..2 {
        run(&cache, &[pass(&[1, 2])]);
    }
    for _ in 0..2 {
        run(&cache, &[pass(&[5])]);
    }
    assert_eq!(run(&cache, &[pass(&[1])]), [[1]]);
    for _ in 0..2 {
        run(&cache, &[pass(&[6])]);
    }
    assert_eq!(cache.statistics().evicted_blocks, 1);
    assert_eq!(run(&cache, &[pass(&[5]), pass(&[6])]), [[5], [6]]);
    assert_eq!(run(&cache, &[pass(&[1, 2])]), [[1]], "its end left, not what it continues");
    assert_eq!(cache.statistics().bytes, 12);
}

#[test]
fn a_batch_that_is_larger_than_the_cache_keeps_its_beginning() {
    let cache = cache(2);
    for _ in 0..2 {
        run(&cache, &[pass(&[1, 2, 3, 4]), pass(&[7])]);
    }
    assert_eq!(run(&cache, &[pass(&[1, 2, 3, 4]), pass(&[7])]), [vec![1, 2], vec![]]);
    assert_eq!((cache.statistics().bytes, cache.statistics().evicted_blocks), (8, 0));
}

#[test]
fn what_is_read_is_not_shared_nor_the_last_token() {
    let at = |marks: Vec<TokenPosition>, shared: Vec<TokenPosition>| {
        let mut pass = pass(&[1, 2, 3]);
        pass.suffixes = vec![vec![1]];
        pass.output = OutputSpec::listed(marks, Head::Hidden);
        pass.cross_document = CrossDocumentLayers { count: 1, shared };
        shareable(&pass).len()
    };
    assert_eq!(at(vec![TokenPosition::suffix(0, 0)], Vec::new()), 3);
    assert_eq!(at(vec![TokenPosition::prefix(32), TokenPosition::prefix(40)], Vec::new()), 2);
    assert_eq!(at(vec![TokenPosition::prefix(40)], vec![TokenPosition::prefix(31)]), 1);
    assert_eq!(at(vec![TokenPosition::prefix(0)], Vec::new()), 0);
    let mut whole_blocks = pass(&[1, 2]);
    whole_blocks.prefix.pop();
    whole_blocks.output = OutputSpec::listed(Vec::new(), Head::Hidden);
    assert_eq!(shareable(&whole_blocks).len(), 1);
}

#[test]
fn a_cache_of_nothing_finds_and_counts_nothing() {
    let cache = PrefixCache::new(3, 4);
    for _ in 0..3 {
        assert_eq!(run(&cache, &[pass(&[1])]), [[0; 0]]);
    }
    assert_eq!(cache.statistics(), PrefixCacheStatistics::default());
}

#[test]
fn what_is_let_go_is_not_found() {
    let cache = cache(4);
    for _ in 0..2 {
        run(&cache, &[pass(&[1, 2])]);
    }
    assert!(cache.clear() && !cache.clear());
    assert_eq!(cache.statistics().bytes, 0);
    assert_eq!(run(&cache, &[pass(&[1, 2])]), [[0; 0]]);
    assert_eq!(run(&cache, &[pass(&[1, 2])]), [[1, 2]], "it was seen before");
}

#[test]
fn what_is_kept_makes_room_where_memory_is_short() {
    let cache = cache(8);
    let batch = [pass(&[1, 2])];
    let held = std::cell::RefCell::new(Vec::new());
    let short = |lookup: &CacheLookup| {
        held.borrow_mut().push(lookup.blocks.len());
        Err::<(), _>(RuntimeError::OutOfMemory(String::new()))
    };
    assert!(cache.run_with(&batch, short).is_err());
    assert_eq!(held.take(), [0], "there is nothing to let go of");
    for _ in 0..2 {
        run(&cache, &batch);
    }
    let fits_alone = |lookup: &CacheLookup| if lookup.blocks.is_empty() { Ok(()) } else { short(lookup) };
    let ((), used) = cache.run_with(&batch, fits_alone).unwrap();
    assert_eq!((held.take().as_slice(), used.hits.as_slice()), ([2].as_slice(), [vec![]].as_slice()));
    assert_eq!(cache.statistics().bytes, 0);
}

#[test]
fn what_was_seen_is_remembered_for_a_while() {
    let mut seen = Seen::default();
    assert!(!seen.note(1));
    for hash in 2..SEEN_BLOCKS as u64 + 2 {
        seen.note(hash);
    }
    assert!(seen.note(1), "the generation before is remembered");
    for hash in 0..2 * SEEN_BLOCKS as u64 {
        seen.note(hash << 32);
    }
    assert!(!seen.note(2));
    assert!(seen.recent.len() + seen.before.len() <= 2 * SEEN_BLOCKS);
}
