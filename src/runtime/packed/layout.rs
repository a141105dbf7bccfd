//! Packing: many passes as one run of rows without padding, and who sees whom in it.
//!
//! Rows are the batch's tokens end to end: for each pass its prefix, then its suffixes. A [`Span`]
//! tells the attention kernels which keys a run of queries sees, as ranges of rows, so that no mask
//! is ever stored: the description is linear in the number of segments and marks.
//!
//! What is kept of earlier batches has rows of keys and values only, which stand behind those of the
//! batch: a prefix that begins with them has rows for the rest.

use std::ops::Range;
use std::sync::Arc;

use super::prefixes::{BLOCK, Prefixes};
use crate::runtime::{ForwardPass, RuntimeError, TokenPosition};

/// A run of queries that see the same keys, but for the causal part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// Rows of the query matrix. The spans of a layer cover all its rows, in order.
    pub queries: Range<usize>,
    /// Rows of the key matrix that every query of the run sees, disjoint.
    pub seen: Vec<Range<usize>>,
    /// As many key rows as there are queries: query `i` sees the first `i + 1` of them.
    /// Empty only for a run of one query.
    pub causal: Range<usize>,
}

impl Span {
    /// The rows of the key matrix that the run sees, those of its causal part last.
    pub fn key_rows(&self) -> impl Iterator<Item = &Range<usize>> {
        self.seen.iter().chain([&self.causal])
    }

    /// How many those are.
    pub fn keys(&self) -> usize {
        self.key_rows().map(ExactSizeIterator::len).sum()
    }
}

/// One pass's place among the packed rows.
#[derive(Debug, Clone)]
struct PackedPass {
    /// Key rows of what the prefix begins with and is kept.
    prefix: Vec<Range<usize>>,
    /// Rows of the rest of the prefix, then of each suffix.
    segments: Vec<Range<usize>>,
    /// The probe's marks, as (segment, row).
    marks: Vec<(usize, usize)>,
    /// Rows that marks see in joint layers, ascending.
    shared: Vec<usize>,
    cross_document: usize,
}

/// A batch of passes, packed.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    /// Token id of each row.
    pub tokens: Vec<u32>,
    /// Position of each row: its distance from the start of its pass's prefix, along its own path.
    pub positions: Vec<u32>,
    /// Rows that are kept for later batches, a block each.
    pub kept: Vec<Range<usize>>,
    passes: Vec<PackedPass>,
}

impl Packed {
    /// Packs passes that can be run, with what is there already and what is to be kept of them.
    pub fn new(passes: &[ForwardPass], prefixes: &Prefixes) -> Self {
        let reused: usize = prefixes.found.iter().map(|blocks| blocks.len() * BLOCK).sum();
        let rows = passes.iter().map(ForwardPass::tokens).sum::<usize>() - reused;
        let mut packed = Self {
            tokens: Vec::with_capacity(rows),
            positions: Vec::with_capacity(rows),
            kept: Vec::new(),
            passes: Vec::with_capacity(passes.len()),
        };
        for (pass, found) in passes.iter().zip(&prefixes.found) {
            packed.push(pass, joined(found.iter().map(|place| rows + place * BLOCK..rows + (place + 1) * BLOCK)));
        }
        for (pass, blocks) in &prefixes.wanted {
            let first = packed.passes[*pass].segments[0].start;
            let found = prefixes.found[*pass].len();
            let rows = |block: usize| first + (block - found) * BLOCK..first + (block - found + 1) * BLOCK;
            packed.kept.extend(blocks.clone().map(rows));
        }
        packed
    }

    fn push(&mut self, pass: &ForwardPass, prefix: Vec<Range<usize>>) {
        let mut segments = Vec::with_capacity(pass.suffixes.len() + 1);
        let (prefix_length, reused) = (pass.prefix.len(), prefix.iter().map(ExactSizeIterator::len).sum::<usize>());
        for (number, segment) in
            std::iter::once(&pass.prefix[reused..]).chain(pass.suffixes.iter().map(Vec::as_slice)).enumerate()
        {
            let start = self.tokens.len();
            self.tokens.extend_from_slice(segment);
            let first_position = if number == 0 { reused } else { prefix_length };
            self.positions.extend((first_position..first_position + segment.len()).map(|position| position as u32));
            segments.push(start..self.tokens.len());
        }
        let row = |mark: &TokenPosition| match mark.segment {
            0 => segments[0].start + mark.offset - reused,
            suffix => segments[suffix].start + mark.offset,
        };
        let mut shared: Vec<usize> = pass.cross_document.shared.iter().map(row).collect();
        shared.sort_unstable();
        shared.dedup();
        let marks = pass.read_positions().iter().map(|mark| (mark.segment, row(mark))).collect();
        self.passes.push(PackedPass { prefix, segments, marks, shared, cross_document: pass.cross_document.count });
    }

    /// The rows that are read, pass by pass in the order of each probe.
    pub fn read_rows(&self) -> Vec<u32> {
        self.passes.iter().flat_map(|pass| pass.marks.iter().map(|&(_, row)| row as u32)).collect()
    }

    /// The spans of each layer: over all rows, and in the last one over the rows that are read.
    pub fn layers(&self, layers: usize) -> impl Iterator<Item = Arc<[Span]>> {
        // A pass that is joint in one layer is joint in all above it: layers of equal count share their spans.
        let joint_passes = move |layer| self.passes.iter().filter(|pass| pass.is_joint(layer, layers)).count();
        let mut last: Option<(usize, Arc<[Span]>)> = None;
        let below = (0..layers - 1).map(move |layer| {
            let joint = joint_passes(layer);
            match &last {
                Some((of, spans)) if *of == joint => Arc::clone(spans),
                _ => Arc::clone(&last.insert((joint, self.spans(layer, layers).into())).1),
            }
        });
        below.chain(std::iter::once_with(move || self.read_spans(layers).into()))
    }

    /// Spans over all rows, for every layer but the last.
    fn spans(&self, layer: usize, layers: usize) -> Vec<Span> {
        let mut spans = Vec::new();
        for pass in &self.passes {
            let mut marks: Vec<(usize, usize)> =
                if pass.is_joint(layer, layers) { pass.marks.clone() } else { Vec::new() };
            marks.sort_unstable();
            marks.dedup();
            for (number, segment) in pass.segments.iter().enumerate() {
                let mut start = segment.start;
                for &(_, row) in marks.iter().filter(|&&(of, _)| of == number) {
                    pass.push_run(&mut spans, number, start..row);
                    spans.push(Span {
                        queries: row..row + 1,
                        seen: pass.seen_by_mark(number, row, true),
                        causal: 0..0,
                    });
                    start = row + 1;
                }
                pass.push_run(&mut spans, number, start..segment.end);
            }
        }
        spans
    }

    /// Spans whose queries are only the rows that are read: all that the last layer needs.
    fn read_spans(&self, layers: usize) -> Vec<Span> {
        let mut spans = Vec::new();
        for pass in &self.passes {
            let joint = pass.is_joint(layers - 1, layers);
            for &(segment, row) in &pass.marks {
                let query = spans.len();
                spans.push(Span {
                    queries: query..query + 1,
                    seen: pass.seen_by_mark(segment, row, joint),
                    causal: 0..0,
                });
            }
        }
        spans
    }
}

impl PackedPass {
    fn is_joint(&self, layer: usize, layers: usize) -> bool {
        !self.shared.is_empty() && layer + self.cross_document >= layers
    }

    /// What a segment's rows see before it: what is kept of the prefix, and for suffixes the rest of it.
    fn shared_start(&self, segment: usize) -> Vec<Range<usize>> {
        let mut seen = self.prefix.clone();
        if segment > 0 && !self.segments[0].is_empty() {
            seen.push(self.segments[0].clone());
        }
        seen
    }

    /// A run of ordinary rows of one segment: they see what is kept, the prefix and their own segment so far.
    fn push_run(&self, spans: &mut Vec<Span>, segment: usize, rows: Range<usize>) {
        if rows.is_empty() {
            return;
        }
        let mut seen = self.shared_start(segment);
        if self.segments[segment].start < rows.start {
            seen.push(self.segments[segment].start..rows.start);
        }
        spans.push(Span { queries: rows.clone(), seen, causal: rows });
    }

    /// What a mark sees: what is kept, the prefix, its own segment up to itself, and in joint layers the shared rows.
    fn seen_by_mark(&self, segment: usize, row: usize, joint: bool) -> Vec<Range<usize>> {
        let mut seen = self.shared_start(segment);
        seen.push(self.segments[segment].start..row + 1);
        if joint {
            let paths = seen.len();
            for &shared in &self.shared {
                if seen[..paths].iter().any(|range| range.contains(&shared)) {
                    continue;
                }
                match seen[paths..].last_mut() {
                    Some(last) if last.end == shared => last.end += 1,
                    _ => seen.push(shared..shared + 1),
                }
            }
        }
        seen
    }
}

/// Ranges in their order, those that continue each other as one.
pub(super) fn joined(ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

/// Refuses a batch with a pass that cannot be run on a model with these limits.
pub(super) fn check(passes: &[ForwardPass], vocabulary: usize, max_positions: usize) -> Result<(), RuntimeError> {
    passes.iter().enumerate().try_for_each(|(place, pass)| {
        check_pass(pass, vocabulary, max_positions)
            .map_err(|problem| RuntimeError::InvalidPass { pass: place, problem })
    })
}

fn check_pass(pass: &ForwardPass, vocabulary: usize, max_positions: usize) -> Result<(), String> {
    if pass.prefix.is_empty() && pass.suffixes.is_empty() {
        return Err("it has no tokens".into());
    }
    if let Some(suffix) = pass.suffixes.iter().position(Vec::is_empty) {
        return Err(format!("its suffix {suffix} is empty"));
    }
    if pass.depth() > max_positions {
        return Err(format!("its longest path has {} tokens, the model has {max_positions} positions", pass.depth()));
    }
    let mut tokens = pass.prefix.iter().chain(pass.suffixes.iter().flatten());
    if let Some(token) = tokens.find(|&&token| token as usize >= vocabulary) {
        return Err(format!("token id {token} is outside the vocabulary of {vocabulary}"));
    }
    for mark in pass.read_positions().iter().chain(&pass.cross_document.shared) {
        let segment = if mark.segment == 0 { Some(&pass.prefix) } else { pass.suffixes.get(mark.segment - 1) };
        if segment.is_none_or(|segment| mark.offset >= segment.len()) {
            return Err(format!("mark (segment {}, offset {}) is outside it", mark.segment, mark.offset));
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
mod tests {
    use super::*;
    use crate::runtime::{CrossDocumentLayers, Head, OutputSpec, TokenTypes};

    fn isolated() -> ForwardPass {
        let ends = vec![TokenPosition::suffix(0, 2), TokenPosition::suffix(1, 1), TokenPosition::suffix(2, 0)];
        ForwardPass {
            prefix: vec![1, 2],
            suffixes: vec![vec![3, 4, 5], vec![6, 7], vec![8]],
            token_types: TokenTypes::Zero,
            cross_document: CrossDocumentLayers { count: 1, shared: ends[..2].to_vec() },
            output: OutputSpec::listed(ends, Head::Hidden),
        }
    }

    #[test]
    fn suffixes_take_their_positions_from_the_end_of_the_prefix() {
        let packed = Packed::new(&[isolated()], &Prefixes::none(1));
        assert_eq!(packed.tokens, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(packed.positions, [0, 1, 2, 3, 4, 2, 3, 2]);
        assert_eq!(packed.read_rows(), [4, 6, 7]);
    }

    #[test]
    fn lower_layers_keep_suffixes_apart() {
        let packed = Packed::new(&[isolated()], &Prefixes::none(1));
        let prefix = vec![0..2];
        assert_eq!(
            packed.spans(0, 2),
            [
                Span { queries: 0..2, seen: vec![], causal: 0..2 },
                Span { queries: 2..5, seen: prefix.clone(), causal: 2..5 },
                Span { queries: 5..7, seen: prefix.clone(), causal: 5..7 },
                Span { queries: 7..8, seen: prefix, causal: 7..8 },
            ]
        );
    }

    #[test]
    fn in_joint_layers_marks_see_every_shared_mark_once() {
        let packed = Packed::new(&[isolated()], &Prefixes::none(1));
        let seen: Vec<_> = packed.read_spans(2).into_iter().map(|span| span.seen).collect();
        assert_eq!(seen, [vec![0..2, 2..5, 6..7], vec![0..2, 5..7, 4..5], vec![0..2, 7..8, 4..5, 6..7]]);
        let runs: Vec<_> = packed.spans(1, 2).into_iter().map(|span| span.queries).collect();
        assert_eq!(runs, [0..2, 2..4, 4..5, 5..6, 6..7, 7..8]);
    }

    #[test]
    fn layers_share_their_spans_until_a_pass_becomes_joint() {
        let packed = Packed::new(&[isolated()], &Prefixes::none(1));
        let layers: Vec<_> = packed.layers(4).collect();
        assert_eq!(layers.len(), 4);
        assert!(Arc::ptr_eq(&layers[0], &layers[1]) && Arc::ptr_eq(&layers[0], &layers[2]));
        let joint =
            ForwardPass { cross_document: CrossDocumentLayers { count: 2, ..isolated().cross_document }, ..isolated() };
        let packed = Packed::new(&[joint], &Prefixes::none(1));
        let layers: Vec<_> = packed.layers(4).collect();
        assert!(Arc::ptr_eq(&layers[0], &layers[1]));
        assert_eq!(*layers[2], packed.spans(2, 4));
        assert_ne!(layers[1], layers[2]);
        assert_eq!(*layers[3], packed.read_spans(4));
    }

    /// A prefix of two blocks and two tokens, a suffix of three.
    fn long() -> ForwardPass {
        ForwardPass {
            prefix: (0..2 * BLOCK as u32 + 2).collect(),
            suffixes: vec![vec![1, 2, 3]],
            token_types: TokenTypes::Zero,
            cross_document: CrossDocumentLayers::default(),
            output: OutputSpec::listed(
                vec![TokenPosition::prefix(2 * BLOCK + 1), TokenPosition::suffix(0, 2)],
                Head::Hidden,
            ),
        }
    }

    #[test]
    fn a_beginning_that_is_kept_has_key_rows_only_behind_all_others() {
        let found = vec![vec![0, 1], Vec::new(), vec![0, 2]];
        let packed = Packed::new(&[long(), long(), long()], &Prefixes { found, ..Prefixes::default() });
        let block = BLOCK as u32;
        assert_eq!(packed.tokens.len(), 5 + (2 * BLOCK + 5) + 5);
        assert_eq!(packed.tokens[..5], [2 * block, 2 * block + 1, 1, 2, 3]);
        assert_eq!(packed.positions[..5], [2 * block, 2 * block + 1, 2 * block + 2, 2 * block + 3, 2 * block + 4]);
        assert_eq!(packed.positions[5], 0);
        let rows = packed.tokens.len();
        let (second, third) = (5, 10 + 2 * BLOCK);
        let both = rows..rows + 2 * BLOCK;
        let apart = [rows..rows + BLOCK, rows + 2 * BLOCK..rows + 3 * BLOCK];
        let second_prefix = second..second + 2 * BLOCK + 2;
        assert_eq!(packed.read_rows()[..2], [1, 4]);
        assert_eq!(
            packed.spans(0, 2),
            [
                Span { queries: 0..2, seen: vec![both.clone()], causal: 0..2 },
                Span { queries: 2..5, seen: vec![both.clone(), 0..2], causal: 2..5 },
                Span { queries: second_prefix.clone(), seen: vec![], causal: second_prefix.clone() },
                Span { queries: third - 3..third, seen: vec![second_prefix], causal: third - 3..third },
                Span { queries: third..third + 2, seen: apart.to_vec(), causal: third..third + 2 },
                Span {
                    queries: third + 2..third + 5,
                    seen: [&apart[..], &[third..third + 2]].concat(),
                    causal: third + 2..third + 5,
                },
            ]
        );
        assert_eq!(
            packed.read_spans(2)[..2].iter().map(|span| span.seen.clone()).collect::<Vec<_>>(),
            [vec![both.clone(), 0..2], vec![both, 0..2, 2..5],]
        );
    }

    #[test]
    fn rows_that_are_to_be_kept_are_those_of_their_blocks() {
        let prefixes =
            Prefixes { found: vec![vec![0], vec![]], wanted: vec![(0, 1..2), (1, 0..2)], ..Prefixes::default() };
        let packed = Packed::new(&[long(), long()], &prefixes);
        let second = BLOCK + 5;
        assert_eq!(packed.kept, [0..BLOCK, second..second + BLOCK, second + BLOCK..second + 2 * BLOCK]);
    }

    #[test]
    fn a_pass_that_cannot_run_is_refused_with_its_place() {
        let problem = |change: fn(&mut ForwardPass)| {
            let mut pass = isolated();
            change(&mut pass);
            check(&[isolated(), pass], 10, 10).unwrap_err().to_string()
        };
        assert_eq!(
            problem(|pass| {
                pass.prefix.clear();
                pass.suffixes.clear();
            }),
            "invalid pass 1: it has no tokens"
        );
        assert_eq!(problem(|pass| pass.suffixes[1].clear()), "invalid pass 1: its suffix 1 is empty");
        assert!(problem(|pass| pass.prefix[0] = 10).contains("token id 10 is outside the vocabulary of 10"));
        assert!(problem(|pass| pass.prefix = vec![1; 8]).contains("11 tokens, the model has 10 positions"));
        assert!(
            problem(|pass| pass.cross_document.shared.push(TokenPosition::suffix(3, 0)))
                .contains("segment 4, offset 0")
        );
    }
}
