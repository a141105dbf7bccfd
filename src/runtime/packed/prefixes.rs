//! Keys and values of beginnings that passes share, kept from one batch to the next.
//!
//! Attention is causal: what the layers make of a token depends on the tokens before it and on nothing else. A pass that
//! begins as an earlier one did has the same keys and values there. They are kept in blocks of [`BLOCK`] tokens. A block is
//! found by the block before it and its own tokens, which are compared one by one, so that no two beginnings are ever taken
//! for each other.
//!
//! A block is kept when it comes for the second time: a query that is never asked again costs neither memory nor a copy.
//! What was not used for longest leaves first, and a block before the one that it continues. What the batch at hand uses or
//! brings does not leave for more of it.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use crate::runtime::{ForwardPass, PrefixCacheStatistics, RuntimeError};

/// Tokens of a block.
pub(super) const BLOCK: usize = 16;

/// Blocks that are remembered as seen, in each of two generations: 2 MiB or so in all.
const SEEN_BLOCKS: usize = 1 << 15;

/// The block before a prefix's first one.
const START: u64 = 0;

type BlockTokens = [u32; BLOCK];

/// The cache of one decoder.
pub(super) struct PrefixCache {
    block_bytes: usize,
    max_blocks: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    blocks: HashMap<u64, Block>,
    /// Blocks by the one before them and their tokens.
    continuations: HashMap<(u64, BlockTokens), u64>,
    /// Blocks by when they were used last. A block is used after all that continue it, so that the first has none of those.
    by_use: BTreeMap<u64, u64>,
    uses: u64,
    newest: u64,
    seen: Seen,
    looked_up: u64,
    found: u64,
    evicted: u64,
}

struct Block {
    place: (u64, BlockTokens),
    used: u64,
    contents: Tensor,
}

/// What the cache has for a batch, and what it wants of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Prefixes {
    /// Keys and values of the blocks that the batch uses, each once.
    pub held: Vec<Tensor>,
    /// Of each pass, where the blocks that it begins with stand in `held`.
    pub found: Vec<Vec<usize>>,
    /// Passes and those of their blocks that are to be kept, counted from the prefix's start.
    pub wanted: Vec<(usize, Range<usize>)>,
    /// What was used after this is used by the batch.
    pub since: u64,
}

impl Prefixes {
    /// Nothing, for so many passes.
    pub fn none(passes: usize) -> Self {
        Self { found: vec![Vec::new(); passes], ..Self::default() }
    }
}

impl PrefixCache {
    /// A cache of at most so many bytes, in blocks of so many.
    pub fn new(max_bytes: u64, block_bytes: usize) -> Self {
        let max_blocks = usize::try_from(max_bytes).unwrap_or(usize::MAX) / block_bytes;
        Self { block_bytes, max_blocks, inner: Mutex::default() }
    }

    /// What there is for these passes, none of which has an empty prefix.
    pub fn find(&self, batch: &[ForwardPass]) -> Prefixes {
        if self.max_blocks == 0 {
            return Prefixes::none(batch.len());
        }
        let mut inner = self.lock();
        let mut prefixes = Prefixes { since: inner.uses, ..Prefixes::default() };
        let mut places = HashMap::new();
        for pass in batch {
            let prefix = shareable(pass);
            let path = inner.path(prefix);
            inner.use_all(&path);
            inner.looked_up += (prefix.len() * BLOCK) as u64;
            inner.found += (path.len() * BLOCK) as u64;
            let place = |id: &u64| {
                *places.entry(*id).or_insert_with(|| {
                    prefixes.held.push(inner.blocks[id].contents.clone());
                    prefixes.held.len() - 1
                })
            };
            prefixes.found.push(path.iter().map(place).collect());
        }
        let mut room = self.max_blocks - prefixes.held.len();
        let mut coming = HashSet::new();
        for (place, pass) in batch.iter().enumerate() {
            let first = prefixes.found[place].len();
            let wanted = inner.seen.again(shareable(pass), first, &mut coming, &mut room);
            if !wanted.is_empty() {
                prefixes.wanted.push((place, wanted));
            }
        }
        prefixes
    }

    /// Keeps what was wanted of a batch: `brought` has the blocks one after another.
    pub fn keep(&self, batch: &[ForwardPass], prefixes: &Prefixes, brought: Vec<Tensor>) {
        let mut brought = brought.into_iter();
        let mut inner = self.lock();
        for (pass, blocks) in &prefixes.wanted {
            let contents: Vec<Tensor> = brought.by_ref().take(blocks.len()).collect();
            let prefix = shareable(&batch[*pass]);
            let mut path = inner.path(&prefix[..blocks.start]);
            if path.len() < blocks.start {
                // Another batch made what comes before it leave.
                continue;
            }
            inner.use_all(&path);
            for (tokens, contents) in prefix[blocks.clone()].iter().zip(contents) {
                let place = (path.last().copied().unwrap_or(START), *tokens);
                let known = inner.continuations.get(&place).copied();
                if known.is_none() && !inner.make_room(self.max_blocks, prefixes.since) {
                    break;
                }
                path.push(known.unwrap_or_else(|| inner.insert(place, contents)));
            }
            inner.use_all(&path);
        }
    }

    /// What `read` makes of a batch with what is kept, and with which of it. Where memory is short and something was kept,
    /// that goes, and `read` is called once more without.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn with<T>(
        &self,
        batch: &[ForwardPass],
        read: impl Fn(&Prefixes) -> Result<T, RuntimeError>,
    ) -> Result<(T, Prefixes), RuntimeError> {
        let prefixes = self.find(batch);
        match read(&prefixes) {
            Err(RuntimeError::OutOfMemory(_)) if self.clear() => {
                drop(prefixes);
                let nothing = Prefixes::none(batch.len());
                read(&nothing).map(|made| (made, nothing))
            }
            made => made.map(|made| (made, prefixes)),
        }
    }

    /// Lets everything go, and says whether there was anything.
    pub fn clear(&self) -> bool {
        let mut inner = self.lock();
        let mut any = false;
        while inner.evict_oldest(u64::MAX) {
            any = true;
        }
        any
    }

    pub fn statistics(&self) -> PrefixCacheStatistics {
        let inner = self.lock();
        PrefixCacheStatistics {
            looked_up_tokens: inner.looked_up,
            hit_tokens: inner.found,
            bytes: (inner.blocks.len() * self.block_bytes) as u64,
            evicted_blocks: inner.evicted,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole blocks at a prefix's start that may be shared. They end before the first mark, since a mark's own row is read and
/// sees more in joint layers, and before the last token, so that something of the prefix is left.
fn shareable(pass: &ForwardPass) -> &[BlockTokens] {
    let read = pass.read_positions();
    let positions = read.iter().chain(&pass.cross_document.shared);
    let in_prefix = positions.filter(|mark| mark.segment == 0).map(|mark| mark.offset);
    let end = in_prefix.chain([pass.prefix.len().saturating_sub(1)]).min().unwrap_or_default();
    pass.prefix[..end].as_chunks().0
}

impl Inner {
    /// The blocks that are kept of a prefix, from its start.
    fn path(&self, prefix: &[BlockTokens]) -> Vec<u64> {
        let mut path = Vec::new();
        for tokens in prefix {
            match self.continuations.get(&(path.last().copied().unwrap_or(START), *tokens)) {
                Some(id) => path.push(*id),
                None => break,
            }
        }
        path
    }

    /// Notes that the blocks of a path are used, the first one last.
    fn use_all(&mut self, path: &[u64]) {
        for id in path.iter().rev() {
            if let Some(block) = self.blocks.get_mut(id) {
                self.uses += 1;
                self.by_use.remove(&block.used);
                self.by_use.insert(self.uses, *id);
                block.used = self.uses;
            }
        }
    }

    fn insert(&mut self, place: (u64, BlockTokens), contents: Tensor) -> u64 {
        self.newest += 1;
        self.uses += 1;
        let (id, used) = (self.newest, self.uses);
        self.blocks.insert(id, Block { place, used, contents });
        self.continuations.insert(place, id);
        self.by_use.insert(used, id);
        id
    }

    /// Makes room for one more block among so many, unless all that could leave was used after `since`.
    fn make_room(&mut self, max_blocks: usize, since: u64) -> bool {
        while self.blocks.len() >= max_blocks {
            if !self.evict_oldest(since) {
                return false;
            }
        }
        true
    }

    /// Lets the block go that was not used for longest, if that was not after `since`.
    fn evict_oldest(&mut self, since: u64) -> bool {
        let Some(oldest) = self.by_use.first_entry().filter(|oldest| *oldest.key() <= since) else { return false };
        let id = oldest.remove();
        if let Some(block) = self.blocks.remove(&id) {
            self.continuations.remove(&block.place);
            self.evicted += 1;
        }
        true
    }
}

/// The blocks that came at least once, by the hash of all tokens up to their end. A hash that two of them share only lets one
/// be kept a time too early. At least the last [`SEEN_BLOCKS`] are remembered.
#[derive(Default)]
struct Seen {
    hasher: RandomState,
    recent: HashSet<u64>,
    before: HashSet<u64>,
}

impl Seen {
    /// Notes the blocks of a prefix; which of them, from `first` on, came before and are in nobody's hands yet (`coming`). Each
    /// of those takes a place of the `room`.
    fn again(
        &mut self,
        prefix: &[BlockTokens],
        first: usize,
        coming: &mut HashSet<u64>,
        room: &mut usize,
    ) -> Range<usize> {
        let (mut hash, mut again, mut wanted) = (0, true, first..first);
        for (number, tokens) in prefix.iter().enumerate() {
            hash = self.hasher.hash_one((hash, tokens));
            if number < first {
                continue;
            }
            let came = self.note(hash);
            again &= came;
            if again && coming.contains(&hash) {
                wanted = number + 1..number + 1;
            } else if again && *room > 0 {
                coming.insert(hash);
                *room -= 1;
                wanted.end = number + 1;
            } else {
                again = false;
            }
        }
        wanted
    }

    /// Whether it came before.
    fn note(&mut self, hash: u64) -> bool {
        let came = self.before.contains(&hash) || self.recent.contains(&hash);
        if self.recent.insert(hash) && self.recent.len() >= SEEN_BLOCKS {
            self.before = std::mem::take(&mut self.recent);
        }
        came
    }
}

#[cfg(test)]
mod tests {
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

    /// Runs a batch whose blocks hold the numbers of their last block, and says what was found of each pass.
    fn run(cache: &PrefixCache, batch: &[ForwardPass]) -> Vec<Vec<u32>> {
        let prefixes = cache.find(batch);
        let found = prefixes.found.iter().map(|places| {
            places.iter().map(|&place| prefixes.held[place].to_scalar::<u32>().unwrap()).collect::<Vec<_>>()
        });
        let found = found.collect();
        let brought = prefixes.wanted.iter().flat_map(|(place, blocks)| {
            let prefix = shareable(&batch[*place]);
            prefix[blocks.clone()].iter().map(|tokens| Tensor::new(tokens[0], &Device::Cpu).unwrap())
        });
        cache.keep(batch, &prefixes, brought.collect());
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
        let prefixes = cache.find(&batch);
        assert_eq!(prefixes.wanted, [(1, 0..2), (3, 1..2)]);
        run(&cache, &batch);
        run(&cache, &batch);
        let prefixes = cache.find(&batch);
        assert_eq!(prefixes.found, [[0, 1], [0, 1], [0, 2], [0, 2]]);
        assert_eq!((prefixes.held.len(), prefixes.wanted.len()), (3, 0));
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
        let short = |prefixes: &Prefixes| {
            held.borrow_mut().push(prefixes.held.len());
            Err::<(), _>(RuntimeError::OutOfMemory(String::new()))
        };
        assert!(cache.with(&batch, short).is_err());
        assert_eq!(held.take(), [0], "there is nothing to let go of");
        for _ in 0..2 {
            run(&cache, &batch);
        }
        let fits_alone = |prefixes: &Prefixes| if prefixes.held.is_empty() { Ok(()) } else { short(prefixes) };
        let ((), used) = cache.with(&batch, fits_alone).unwrap();
        assert_eq!((held.take().as_slice(), used.found.as_slice()), ([2].as_slice(), [vec![]].as_slice()));
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
}
