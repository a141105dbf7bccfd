//! Packing: many passes as one run of rows without padding, and who sees whom in it.
//!
//! Rows are the batch's tokens end to end: for each pass its prefix, then its suffixes. A [`Span`]
//! tells the attention kernels which keys a run of queries sees, as ranges of rows.
//!
//! Blocks of the prefix cache have rows of keys and values only, behind those of the batch: a
//! prefix that begins with them has rows for the rest.

mod checks;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

pub(super) use self::checks::check;
use super::prefix_cache::{BLOCK, CacheLookup};
use super::span::{Mask, Span, joined, last_rows};
use crate::runtime::spec::{LayerSpec, Window};
use crate::runtime::{ForwardPass, TokenPosition, TokenTypes};

/// One pass among the packed rows.
#[derive(Debug, Clone)]
struct PackedPass {
    /// Key rows of the cached beginning of the prefix.
    cached: Vec<Range<usize>>,
    /// Rows of the rest of the prefix, then of each suffix.
    segments: Vec<Range<usize>>,
    /// Whether the rows of the prefix are those of an earlier pass.
    borrows_prefix: bool,
    /// The positions that are read, as (segment, row).
    read: Vec<(usize, usize)>,
    /// Rows that the read positions see in cross-document layers, ascending.
    shared: Vec<usize>,
    cross_document_layers: usize,
    /// Rows at the end of the first suffix that no row sees, themselves included.
    unseen: Range<usize>,
}

/// A batch of passes, packed.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    /// Token id of each row.
    pub tokens: Vec<u32>,
    /// Position of each row in its sequence.
    pub positions: Vec<u32>,
    /// Token type of each row.
    pub token_types: Vec<u32>,
    /// Rows whose keys and values the prefix cache stores, a block each.
    pub stored: Vec<Range<usize>>,
    /// Tokens see only those before them.
    causal: bool,
    /// Tokens of the longest sequence, its prefix included.
    longest: usize,
    passes: Vec<PackedPass>,
    /// The spans of each layer, once they are laid out.
    layers: Vec<Arc<[Span]>>,
}

/// Where rows leave a forward pass.
pub(super) struct Exit<'a, States> {
    /// After how many layers.
    pub layer: usize,
    /// From the states of the read rows, after that layer and the final norm: the packing of the
    /// suffixes that go on, and their rows in the packing before.
    pub choose: &'a mut dyn FnMut(States) -> candle_core::Result<(Packed, Vec<u32>)>,
}

impl Packed {
    /// Packs valid passes, with the blocks of the prefix cache that they begin with and those that
    /// it wants of them.
    pub fn new(passes: &[ForwardPass], lookup: &CacheLookup, causal: bool) -> Self {
        let lenders = lenders(passes, &lookup.hits, causal);
        let not_computed = |(number, pass): (usize, &ForwardPass)| match lenders[number] {
            Some(_) => pass.prefix.len(),
            None => lookup.hits[number].len() * BLOCK,
        };
        let not_computed: usize = passes.iter().enumerate().map(not_computed).sum();
        let rows = passes.iter().map(ForwardPass::tokens).sum::<usize>() - not_computed;
        let mut packed = Self {
            tokens: Vec::with_capacity(rows),
            positions: Vec::with_capacity(rows),
            token_types: Vec::with_capacity(rows),
            stored: Vec::new(),
            causal,
            longest: passes.iter().map(ForwardPass::depth).max().unwrap_or_default(),
            passes: Vec::with_capacity(passes.len()),
            layers: Vec::new(),
        };
        for ((pass, hits), lender) in passes.iter().zip(&lookup.hits).zip(lenders) {
            let cached = joined(hits.iter().map(|block| rows + block * BLOCK..rows + (block + 1) * BLOCK));
            packed.push(pass, cached, lender);
        }
        packed.set_stored(lookup);
        packed
    }

    /// Sets the rows to store to those of a lookup with the hits that the passes were packed with.
    pub fn set_stored(&mut self, lookup: &CacheLookup) {
        self.stored.clear();
        for (pass, blocks) in &lookup.to_store {
            let first = self.passes[*pass].segments[0].start;
            let hits = lookup.hits[*pass].len();
            let rows = |block: usize| first + (block - hits) * BLOCK..first + (block - hits + 1) * BLOCK;
            self.stored.extend(blocks.clone().map(rows));
        }
    }

    /// Adds a pass. Its prefix has the rows of the pass with the number `lender`, if there is one.
    fn push(&mut self, pass: &ForwardPass, cached: Vec<Range<usize>>, lender: Option<usize>) {
        let reused = cached.iter().map(ExactSizeIterator::len).sum::<usize>();
        let mut segments = Vec::with_capacity(pass.suffixes.len() + 1);
        segments.extend(lender.map(|lender| self.passes[lender].segments[0].clone()));
        let rest = std::iter::once(&pass.prefix[reused..]);
        let all = rest.chain(pass.suffixes.iter().map(Vec::as_slice)).enumerate();
        for (number, segment) in all.skip(segments.len()) {
            let start = self.tokens.len();
            self.tokens.extend_from_slice(segment);
            let first = if number == 0 { reused } else { pass.prefix.len() };
            self.positions.extend((first..first + segment.len()).map(|position| position as u32));
            let zeros = zeros_of(pass, number).min(segment.len());
            self.token_types.extend((0..segment.len()).map(|offset| u32::from(offset >= zeros)));
            segments.push(start..self.tokens.len());
        }
        let row = |position: &TokenPosition| match position.segment {
            0 => segments[0].start + position.offset - reused,
            suffix => segments[suffix].start + position.offset,
        };
        let mut shared: Vec<usize> = pass.cross_document.shared.iter().map(row).collect();
        shared.sort_unstable();
        shared.dedup();
        let read = pass.read_positions().iter().map(|position| (position.segment, row(position))).collect();
        let cross_document_layers = pass.cross_document.count;
        let query = segments.get(1).cloned().unwrap_or_default();
        let unseen = query.end - pass.expansion().min(query.len())..query.end;
        let borrows_prefix = lender.is_some();
        self.passes.push(PackedPass { cached, segments, borrows_prefix, read, shared, cross_document_layers, unseen });
    }

    /// The rows that are read, pass by pass in the order of each output.
    pub fn read_rows(&self) -> Vec<u32> {
        self.passes.iter().flat_map(|pass| pass.read.iter().map(|&(_, row)| row as u32)).collect()
    }

    /// The rows of the prefixes and of the suffixes that go on, in the order in which
    /// [`ForwardPass::without_left`] packs them.
    pub fn rows_without_left(&self, goes_on: &[Vec<bool>]) -> Vec<u32> {
        let mut rows = Vec::with_capacity(self.tokens.len());
        for (pass, goes_on) in self.passes.iter().zip(goes_on) {
            let suffixes = pass.segments[1..].iter().zip(goes_on).filter(|(_, goes_on)| **goes_on);
            let prefix = (!pass.borrows_prefix).then_some(&pass.segments[0]);
            let segments = prefix.into_iter().chain(suffixes.map(|(segment, _)| segment));
            rows.extend(segments.flat_map(|segment| segment.start as u32..segment.end as u32));
        }
        rows
    }

    /// The rows of each segment of a pass that is not empty, and the first row of the pass. The
    /// prefix cache holds none.
    pub fn segments_of(&self, pass: usize) -> (Vec<Range<usize>>, usize) {
        let segments = &self.passes[pass].segments;
        let filled = segments.iter().filter(|segment| !segment.is_empty()).cloned().collect();
        (filled, segments[0].start)
    }

    /// Whether all rows are read, in their order. Then the last layer is like the others.
    pub fn reads_all_rows(&self) -> bool {
        let mut read = self.passes.iter().flat_map(|pass| pass.read.iter().map(|&(_, row)| row));
        (0..self.tokens.len()).all(|row| read.next() == Some(row)) && read.next().is_none()
    }

    /// Makes the spans of a run through these layers, which [`Self::layers`] then returns.
    pub fn lay_out_layers(&mut self, layers: &[LayerSpec]) {
        self.layers = self.layers(layers);
    }

    /// The spans of each layer: over all rows, and in the last one over the rows that are read,
    /// unless those are all.
    pub fn layers(&self, layers: &[LayerSpec]) -> Vec<Arc<[Span]>> {
        let count = layers.len();
        if self.layers.len() == count {
            return self.layers.clone();
        }
        // A pass with cross-document attention in one layer has it in all above: layers of equal
        // counts and windows share their spans.
        let crossing = |layer| self.passes.iter().filter(|pass| pass.is_crossing(layer, count)).count();
        let is_short = !self.reads_all_rows();
        let mut made = Vec::<(_, Arc<[Span]>)>::new();
        let spans = |(number, layer): (usize, &LayerSpec)| {
            if number + 1 == count && is_short {
                return self.read_spans(layers).into();
            }
            let key = (crossing(number), self.effective(layer.window));
            if let Some((_, spans)) = made.iter().find(|(made_key, _)| *made_key == key) {
                return Arc::clone(spans);
            }
            let spans: Arc<[Span]> = self.spans(number, layers).into();
            made.push((key, Arc::clone(&spans)));
            spans
        };
        layers.iter().enumerate().map(spans).collect()
    }

    /// The window, without each side that hides no key of the longest sequence: without a mask,
    /// runs share keys.
    fn effective(&self, window: Window) -> Window {
        let limit = |keys: usize| if keys.saturating_add(1) < self.longest { keys } else { usize::MAX };
        let after = if self.causal { usize::MAX } else { limit(window.after) };
        Window { before: limit(window.before), after }
    }

    /// Spans of one of the layers over all rows.
    pub fn spans(&self, layer: usize, layers: &[LayerSpec]) -> Vec<Span> {
        let window = self.effective(layers[layer].window);
        let mask = Mask::new(self.causal, window);
        let mut spans = Vec::new();
        for pass in &self.passes {
            let mut marks: Vec<(usize, usize)> =
                if pass.is_crossing(layer, layers.len()) { pass.read.clone() } else { Vec::new() };
            marks.sort_unstable();
            marks.dedup();
            for (number, segment) in pass.segments.iter().enumerate().skip(usize::from(pass.borrows_prefix)) {
                let mut start = segment.start;
                for &(_, row) in marks.iter().filter(|&&(of, _)| of == number) {
                    pass.push_run(&mut spans, number, start..row, mask);
                    spans.push(Span::single(row, self.keys_of_row(pass, number, row, window, true)));
                    start = row + 1;
                }
                let end = pass.seen_end(number);
                pass.push_run(&mut spans, number, start..end, mask);
                let unseen = (end..segment.end).map(|row| (row, self.keys_of_row(pass, number, row, window, false)));
                spans.extend(unseen.map(|(row, keys)| Span::single(row, keys)));
            }
        }
        spans
    }

    /// Spans whose queries are only the rows that are read: all that the last layer needs.
    fn read_spans(&self, layers: &[LayerSpec]) -> Vec<Span> {
        let last = layers.len() - 1;
        let window = self.effective(layers[last].window);
        let mut spans = Vec::new();
        for pass in &self.passes {
            let is_crossing = pass.is_crossing(last, layers.len());
            for &(segment, row) in &pass.read {
                let keys = self.keys_of_row(pass, segment, row, window, is_crossing);
                spans.push(Span::single(spans.len(), keys));
            }
        }
        spans
    }

    /// The keys that one row sees.
    fn keys_of_row(
        &self,
        pass: &PackedPass,
        segment: usize,
        row: usize,
        window: Window,
        is_crossing: bool,
    ) -> Vec<Range<usize>> {
        let own = &pass.segments[segment];
        let seen_end = pass.seen_end(segment);
        let mut keys = pass.shared_start(segment);
        // A row that no other row sees comes after the last row that it sees; its window reaches
        // back that much less far.
        let last = row.min(seen_end - 1);
        keys.push(own.start..last + 1);
        keys = last_rows(&keys, window.before.saturating_add(1).saturating_sub(row - last));
        if !self.causal {
            let end = row.saturating_add(window.after).saturating_add(1).min(seen_end);
            if let Some(last) = keys.last_mut() {
                last.end = end;
            }
        }
        if is_crossing {
            pass.add_shared(&mut keys);
        }
        keys
    }
}

/// For each pass, the earlier pass with the same prefix whose rows it can use. The keys and values
/// of a prefix depend on nothing else if no position in it is read, which may see other documents.
/// A pass then has the same numbers as alone, to the bit. Prefixes that only begin alike are not
/// shared: their suffixes would see keys in other tiles.
fn lenders(passes: &[ForwardPass], hits: &[Vec<usize>], causal: bool) -> Vec<Option<usize>> {
    let mut first = HashMap::new();
    let mut lenders = Vec::with_capacity(passes.len());
    for (number, (pass, hits)) in passes.iter().zip(hits).enumerate() {
        let reads_prefix = || pass.read_positions().iter().any(|position| position.segment == 0);
        if !causal || pass.prefix.is_empty() || pass.suffixes.is_empty() || reads_prefix() {
            lenders.push(None);
            continue;
        }
        let lender = *first.entry((pass.prefix.as_slice(), hits.as_slice())).or_insert(number);
        lenders.push((lender < number).then_some(lender));
    }
    lenders
}

/// How many tokens of a segment have type 0.
fn zeros_of(pass: &ForwardPass, segment: usize) -> usize {
    let first_sequence = usize::from(!pass.suffixes.is_empty());
    match &pass.token_types {
        TokenTypes::Zero => usize::MAX,
        TokenTypes::Pairs(starts) => {
            segment.checked_sub(first_sequence).and_then(|sequence| starts.get(sequence)).copied().unwrap_or(usize::MAX)
        }
    }
}

impl PackedPass {
    fn is_crossing(&self, layer: usize, layers: usize) -> bool {
        !self.shared.is_empty() && layer + self.cross_document_layers >= layers
    }

    /// The end of the rows of a segment that others see.
    fn seen_end(&self, segment: usize) -> usize {
        if segment == 1 { self.unseen.start } else { self.segments[segment].end }
    }

    /// The keys before a segment's own: the cached beginning of the prefix, and for suffixes the
    /// rest of it.
    fn shared_start(&self, segment: usize) -> Vec<Range<usize>> {
        let mut keys = self.cached.clone();
        if segment > 0 && !self.segments[0].is_empty() {
            keys.push(self.segments[0].clone());
        }
        keys
    }

    /// A run of ordinary rows of one segment.
    fn push_run(&self, spans: &mut Vec<Span>, segment: usize, rows: Range<usize>, mask: Mask) {
        if rows.is_empty() {
            return;
        }
        let mut keys = self.shared_start(segment);
        if self.segments[segment].start < rows.start {
            keys.push(self.segments[segment].start..rows.start);
        }
        keys.push(rows.clone());
        spans.push(Span { queries: rows, keys, mask });
    }

    /// Adds the shared rows that are not among the keys yet.
    fn add_shared(&self, keys: &mut Vec<Range<usize>>) {
        let own = keys.len();
        for &shared in &self.shared {
            if keys[..own].iter().any(|range| range.contains(&shared)) {
                continue;
            }
            match keys[own..].last_mut() {
                Some(last) if last.end == shared => last.end += 1,
                _ => keys.push(shared..shared + 1),
            }
        }
    }
}
