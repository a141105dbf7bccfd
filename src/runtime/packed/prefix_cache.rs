//! The prefix cache: keys and values of prefixes that passes share, stored from one batch to the
//! next.
//!
//! Attention is causal, so the keys and values of a token depend only on the tokens before it:
//! passes with the same beginning have the same keys and values there. The cache stores them in
//! blocks of [`BLOCK`] tokens. A block is looked up by its parent block and its own tokens, which
//! are compared one by one: two prefixes are never confused.
//!
//! A block is stored the second time it is seen: a query that is never repeated costs neither
//! memory nor a copy. Eviction is LRU, children before their parents. The blocks that the current
//! batch uses or adds are not evicted to store more of it.

#[cfg(test)]
mod tests;

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use crate::runtime::{ForwardPass, PrefixCacheStatistics, RuntimeError};

/// Tokens of a block.
pub(super) const BLOCK: usize = 16;

/// Blocks that are remembered as seen, in each of two generations; about 2 MiB in all.
const SEEN_BLOCKS: usize = 1 << 15;

/// The parent of a prefix's first block.
const START: u64 = 0;

type BlockTokens = [u32; BLOCK];

/// The prefix cache of one model.
pub(super) struct PrefixCache {
    block_bytes: usize,
    max_blocks: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    blocks: HashMap<u64, Block>,
    /// Blocks by their parent and their tokens.
    children: HashMap<(u64, BlockTokens), u64>,
    /// Blocks by their last use. A block is used after its children, so the oldest has none.
    by_use: BTreeMap<u64, u64>,
    uses: u64,
    newest_id: u64,
    seen: Seen,
    looked_up: u64,
    hits: u64,
    evicted: u64,
}

struct Block {
    key: (u64, BlockTokens),
    last_use: u64,
    contents: Tensor,
}

/// The blocks that the cache has for a batch, and those that it will store of it.
#[derive(Debug, Clone, Default)]
pub(super) struct CacheLookup {
    /// Keys and values of the blocks that the batch uses, each once.
    pub blocks: Vec<Tensor>,
    /// For each pass, the blocks that it begins with, as indices into `blocks`.
    pub hits: Vec<Vec<usize>>,
    /// Passes and which of their blocks to store, counted from the prefix's start.
    pub to_store: Vec<(usize, Range<usize>)>,
    /// Uses after this one are the batch's own.
    pub since: u64,
}

impl CacheLookup {
    /// No blocks, for so many passes.
    pub fn none(passes: usize) -> Self {
        Self { hits: vec![Vec::new(); passes], ..Self::default() }
    }
}

impl PrefixCache {
    /// A cache of at most `max_bytes`, in blocks of `block_bytes`. 0 disables it.
    pub fn new(max_bytes: u64, block_bytes: usize) -> Self {
        let max_blocks = usize::try_from(max_bytes).unwrap_or(usize::MAX) / block_bytes;
        Self { block_bytes, max_blocks, inner: Mutex::default() }
    }

    /// The hits that a lookup of a batch would have now. Counts nothing, and uses no block.
    pub fn predict(&self, batch: &[ForwardPass]) -> CacheLookup {
        if self.max_blocks == 0 {
            return CacheLookup::none(batch.len());
        }
        let inner = self.lock();
        let mut indices = HashMap::new();
        let mut hits = |pass: &ForwardPass| {
            let index = |id: u64| {
                let next = indices.len();
                *indices.entry(id).or_insert(next)
            };
            inner.path(shareable(pass)).into_iter().map(index).collect()
        };
        CacheLookup { hits: batch.iter().map(&mut hits).collect(), ..CacheLookup::default() }
    }

    /// Looks up the passes of a batch.
    pub fn look_up(&self, batch: &[ForwardPass]) -> CacheLookup {
        if self.max_blocks == 0 {
            return CacheLookup::none(batch.len());
        }
        let mut inner = self.lock();
        let mut lookup = CacheLookup { since: inner.uses, ..CacheLookup::default() };
        let mut indices = HashMap::new();
        for pass in batch {
            let prefix = shareable(pass);
            let path = inner.path(prefix);
            inner.use_all(&path);
            inner.looked_up += (prefix.len() * BLOCK) as u64;
            inner.hits += (path.len() * BLOCK) as u64;
            let index = |id: &u64| {
                *indices.entry(*id).or_insert_with(|| {
                    lookup.blocks.push(inner.blocks[id].contents.clone());
                    lookup.blocks.len() - 1
                })
            };
            lookup.hits.push(path.iter().map(index).collect());
        }
        let mut room = self.max_blocks - lookup.blocks.len();
        let mut claimed = HashSet::new();
        for (number, pass) in batch.iter().enumerate() {
            let first = lookup.hits[number].len();
            let to_store = inner.seen.blocks_to_store(shareable(pass), first, &mut claimed, &mut room);
            if !to_store.is_empty() {
                lookup.to_store.push((number, to_store));
            }
        }
        lookup
    }

    /// Stores the blocks of a batch that [`CacheLookup::to_store`] names, in its order.
    pub fn store(&self, batch: &[ForwardPass], lookup: &CacheLookup, new_blocks: Vec<Tensor>) {
        let mut new_blocks = new_blocks.into_iter();
        let mut inner = self.lock();
        for (pass, blocks) in &lookup.to_store {
            let contents: Vec<Tensor> = new_blocks.by_ref().take(blocks.len()).collect();
            let prefix = shareable(&batch[*pass]);
            let mut path = inner.path(&prefix[..blocks.start]);
            if path.len() < blocks.start {
                // Another batch evicted its parent.
                continue;
            }
            inner.use_all(&path);
            for (tokens, contents) in prefix[blocks.clone()].iter().zip(contents) {
                let key = (path.last().copied().unwrap_or(START), *tokens);
                let known = inner.children.get(&key).copied();
                if known.is_none() && !inner.make_room(self.max_blocks, lookup.since) {
                    break;
                }
                path.push(known.unwrap_or_else(|| inner.insert(key, contents)));
            }
            inner.use_all(&path);
        }
    }

    /// Runs a batch with the blocks that the cache has for it, and returns those too. Out of
    /// memory, it empties the cache and runs the batch once more, without blocks.
    ///
    /// # Errors
    /// Those of `run`.
    pub fn run_with<T>(
        &self,
        batch: &[ForwardPass],
        run: impl Fn(&CacheLookup) -> Result<T, RuntimeError>,
    ) -> Result<(T, CacheLookup), RuntimeError> {
        let lookup = self.look_up(batch);
        match run(&lookup) {
            Err(RuntimeError::OutOfMemory(_)) if self.clear() => {
                drop(lookup);
                let nothing = CacheLookup::none(batch.len());
                run(&nothing).map(|made| (made, nothing))
            }
            made => made.map(|made| (made, lookup)),
        }
    }

    /// Evicts every block; whether there was any.
    pub fn clear(&self) -> bool {
        let mut inner = self.lock();
        let mut any = false;
        while inner.evict_lru(u64::MAX) {
            any = true;
        }
        any
    }

    pub fn statistics(&self) -> PrefixCacheStatistics {
        let inner = self.lock();
        PrefixCacheStatistics {
            looked_up_tokens: inner.looked_up,
            hit_tokens: inner.hits,
            bytes: (inner.blocks.len() * self.block_bytes) as u64,
            evicted_blocks: inner.evicted,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole blocks at a prefix's start that may be shared. They end before the first position that
/// is read, whose row is needed and sees more in cross-document layers, and before the last token,
/// so that the batch has a row of the prefix.
fn shareable(pass: &ForwardPass) -> &[BlockTokens] {
    let read = pass.read_positions();
    let positions = read.iter().chain(&pass.cross_document.shared);
    let in_prefix = positions.filter(|position| position.segment == 0).map(|position| position.offset);
    let end = in_prefix.chain([pass.prefix.len().saturating_sub(1)]).min().unwrap_or_default();
    pass.prefix[..end].as_chunks().0
}

impl Inner {
    /// The stored blocks of a prefix, from its start.
    fn path(&self, prefix: &[BlockTokens]) -> Vec<u64> {
        let mut path = Vec::new();
        for tokens in prefix {
            match self.children.get(&(path.last().copied().unwrap_or(START), *tokens)) {
                Some(id) => path.push(*id),
                None => break,
            }
        }
        path
    }

    /// Marks the blocks of a path as used, the first one last.
    fn use_all(&mut self, path: &[u64]) {
        for id in path.iter().rev() {
            if let Some(block) = self.blocks.get_mut(id) {
                self.uses += 1;
                self.by_use.remove(&block.last_use);
                self.by_use.insert(self.uses, *id);
                block.last_use = self.uses;
            }
        }
    }

    fn insert(&mut self, key: (u64, BlockTokens), contents: Tensor) -> u64 {
        self.newest_id += 1;
        self.uses += 1;
        let (id, last_use) = (self.newest_id, self.uses);
        self.blocks.insert(id, Block { key, last_use, contents });
        self.children.insert(key, id);
        self.by_use.insert(last_use, id);
        id
    }

    /// Makes room for one more block. Returns false if only blocks that were used after `since`
    /// could be evicted.
    fn make_room(&mut self, max_blocks: usize, since: u64) -> bool {
        while self.blocks.len() >= max_blocks {
            if !self.evict_lru(since) {
                return false;
            }
        }
        true
    }

    /// Evicts the least recently used block, unless it was used after `since`.
    fn evict_lru(&mut self, since: u64) -> bool {
        let Some(oldest) = self.by_use.first_entry().filter(|oldest| *oldest.key() <= since) else { return false };
        let id = oldest.remove();
        if let Some(block) = self.blocks.remove(&id) {
            self.children.remove(&block.key);
            self.evicted += 1;
        }
        true
    }
}

/// Blocks that were seen at least once, by the hash of all tokens up to their end: at least the
/// last [`SEEN_BLOCKS`] of them. After a collision a block is stored one time too early, which does
/// no harm.
#[derive(Default)]
struct Seen {
    hasher: RandomState,
    recent: HashSet<u64>,
    before: HashSet<u64>,
}

impl Seen {
    /// Notes the blocks of a prefix. Returns those from `first` on that were seen before, that no
    /// other pass of the batch has claimed, and for which there is `room`.
    fn blocks_to_store(
        &mut self,
        prefix: &[BlockTokens],
        first: usize,
        claimed: &mut HashSet<u64>,
        room: &mut usize,
    ) -> Range<usize> {
        let (mut hash, mut is_repeated, mut to_store) = (0, true, first..first);
        for (number, tokens) in prefix.iter().enumerate() {
            hash = self.hasher.hash_one((hash, tokens));
            if number < first {
                continue;
            }
            is_repeated &= self.note(hash);
            if is_repeated && claimed.contains(&hash) {
                to_store = number + 1..number + 1;
            } else if is_repeated && *room > 0 {
                claimed.insert(hash);
                *room -= 1;
                to_store.end = number + 1;
            } else {
                is_repeated = false;
            }
        }
        to_store
    }

    /// Notes a hash; whether it was seen before.
    fn note(&mut self, hash: u64) -> bool {
        let was_seen = self.before.contains(&hash) || self.recent.contains(&hash);
        if self.recent.insert(hash) && self.recent.len() >= SEEN_BLOCKS {
            self.before = std::mem::take(&mut self.recent);
        }
        was_seen
    }
}
