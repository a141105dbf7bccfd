//! Splits documents over the limit into passages.
//!
//! A document is cut at the ends of paragraphs where that leaves a passage at least half full, else
//! at those of sentences, lines or words (Unicode's, UAX 29), and within a word only where a single
//! word is over the limit. The family's own tokenizer counts each unit, which takes as long as
//! tokenizing the document once more. If a passage is over the limit when it is tokenized alone,
//! the document is split again with less room.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use super::prepared::{DocumentText, PreparedTexts};
use super::truncate::{IsCancelled, TextOptions, warn_of_removed};
use crate::prompt::binding::Prompter;
use crate::prompt::parallel;
use crate::prompt::tokenizer::CHUNK_BYTES;
use crate::rerank::{Chunking, LimitSettings, Passage, Passages, RerankError, RerankRequest, SplitDocument};

/// Tokens of a passage that are left free at first: its beginning may take a few more alone than
/// within the document.
const MARGIN: usize = 2;

/// How often a document is split again with less room, if a passage is still over the limit.
const MAX_RETRIES: usize = 6;

/// The boundary after a unit of text, from the worst place for a cut to the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Boundary {
    Character,
    Word,
    Line,
    Sentence,
    Paragraph,
}

/// A piece of text that is not cut: a sentence, where it fits into a passage.
#[derive(Debug, Clone)]
struct Unit {
    /// Its bytes, without white space at both ends.
    bytes: Range<usize>,
    /// Its tokens, with the white space before it.
    tokens: usize,
    characters: usize,
    boundary: Boundary,
}

/// The limits of a passage.
#[derive(Debug, Clone, Copy)]
struct PassageLimits {
    tokens: usize,
    characters: usize,
    overlap: usize,
}

/// The passages of one document.
#[derive(Debug, Default)]
struct Split {
    /// Bytes of each passage, and the tokens that it repeats of the one before.
    passages: Vec<(Range<usize>, usize)>,
    tokens_left: usize,
    is_estimate: bool,
}

/// A document that was split and tokenized.
struct TokenizedDocument<'a> {
    /// The text of each passage, as it was sent and as it is read.
    texts: Vec<(&'a str, DocumentText)>,
    passages: Vec<Passage>,
    split: SplitDocument,
    /// Control tokens that were removed.
    removed: usize,
}

impl Prompter {
    /// Splits and tokenizes all documents, and returns the passages' texts as they were sent, in
    /// the order of [`Passages::list`].
    pub(super) fn tokenize_passages<'a>(
        &self,
        request: &'a RerankRequest,
        chunking: &Chunking,
        options: &TextOptions,
        limits: &LimitSettings,
        prepared: &mut PreparedTexts,
    ) -> Result<Vec<&'a str>, RerankError> {
        let most = options.limit - options.slack;
        chunking.check_overlap(most)?;
        if let Some(asked) = chunking.tokens.filter(|asked| *asked > most) {
            prepared.warnings.push(format!(
                "chunk_tokens: {asked} is more than fits beside the query and the instruction; passages have at most {most} tokens"
            ));
        }
        let chunking = Chunking { max_passages: chunking.max_passages.min(limits.max_passages + 1), ..*chunking };
        let bytes = request.documents.iter().map(String::len).sum();
        let documents = request.documents.iter().enumerate().collect();
        let max_tokens = request.max_tokens_per_doc.unwrap_or(usize::MAX);
        let tokenized = parallel::map(documents, bytes, |(index, raw): (usize, &String)| {
            self.tokenize_document_passages(index, raw, &chunking, max_tokens, options)
        });
        let mut all = Vec::with_capacity(tokenized.len());
        for (index, document) in tokenized.into_iter().enumerate() {
            let document = document.map_err(RerankError::internal)?;
            let field = format!("documents[{index}]");
            if document.split.tokens_left > 0 && !request.truncation {
                let limit = document.split.tokens - document.split.tokens_left;
                return Err(RerankError::TextTooLong { field, tokens: document.split.tokens, limit });
            }
            warn_of_removed(&field, document.removed, &mut prepared.warnings);
            all.push(document);
        }
        let count = all.iter().map(|document| document.passages.len()).sum();
        if count > limits.max_passages {
            let (documents, limit) = (all.len(), limits.max_passages);
            return Err(RerankError::TooManyPassages { field: "documents".to_owned(), count, documents, limit });
        }
        Ok(interleave(all, &chunking, prepared))
    }

    /// Splits one document. A document within the limit is one passage.
    fn tokenize_document_passages<'a>(
        &self,
        index: usize,
        raw: &'a str,
        chunking: &Chunking,
        max_tokens: usize,
        options: &TextOptions,
    ) -> Result<TokenizedDocument<'a>, tokenizers::Error> {
        let limit = options.limit - options.slack;
        let (whole, removed) = self.clean_and_truncate(raw, &TextOptions { limit, slack: 0, ..*options })?;
        if whole.tokens_read == whole.tokens && whole.tokens <= max_tokens {
            let split = SplitDocument { tokens: whole.tokens, passages: 1, ..SplitDocument::default() };
            let passage = Passage { document: index, start: 0, end: raw.chars().count(), overlap: 0 };
            return Ok(TokenizedDocument { texts: vec![(raw, whole)], passages: vec![passage], split, removed });
        }
        let before = if options.before.is_empty() { 0 } else { self.tokenizer.encode(options.before)?.len() };
        let mut limits = PassageLimits {
            tokens: (limit.saturating_sub(before)).max(1),
            characters: options.max_characters.unwrap_or(usize::MAX).max(1),
            overlap: chunking.overlap,
        };
        limits.tokens = limits.tokens.saturating_sub(MARGIN).max(1);
        let mut retries = 0;
        loop {
            let split = self.split(raw, limits, chunking.max_passages, max_tokens, options.is_cancelled)?;
            let document = self.tokenize_split(index, raw, split, limit, options)?;
            let excess = document.texts.iter().map(|(_, text)| text.tokens.saturating_sub(text.tokens_read)).max();
            let excess = excess.unwrap_or(0);
            if excess == 0 || retries == MAX_RETRIES || limits.tokens == 1 {
                return Ok(document);
            }
            limits.tokens = limits.tokens.saturating_sub(excess + retries * limits.tokens / 8).max(1);
            retries += 1;
        }
    }

    /// Tokenizes the passages of a document on their own.
    fn tokenize_split<'a>(
        &self,
        index: usize,
        raw: &'a str,
        split: Split,
        limit: usize,
        options: &TextOptions,
    ) -> Result<TokenizedDocument<'a>, tokenizers::Error> {
        let options = TextOptions { limit, slack: 0, ..*options };
        let (mut texts, mut passages, mut removed, mut tokens) = (Vec::new(), Vec::new(), 0, split.tokens_left);
        let (mut counted_bytes, mut counted_characters) = (0, 0);
        for (bytes, overlap) in split.passages {
            let (text, removed_here) = self.clean_and_truncate(&raw[bytes.clone()], &options)?;
            removed += removed_here;
            tokens += text.tokens.saturating_sub(overlap);
            counted_characters += raw[counted_bytes..bytes.start].chars().count();
            counted_bytes = bytes.start;
            let end = counted_characters + raw[bytes.clone()].chars().count();
            passages.push(Passage { document: index, start: counted_characters, end, overlap });
            texts.push((&raw[bytes], text));
        }
        let split = SplitDocument {
            tokens,
            passages: passages.len(),
            tokens_left: split.tokens_left,
            is_estimate: split.is_estimate,
        };
        Ok(TokenizedDocument { texts, passages, split, removed })
    }

    /// Finds the passages of a document: at most `max_passages`, of at most `max_tokens` in all.
    fn split(
        &self,
        raw: &str,
        limits: PassageLimits,
        max_passages: usize,
        max_tokens: usize,
        is_cancelled: IsCancelled,
    ) -> Result<Split, tokenizers::Error> {
        let counter = UnitCounter { prompter: self, raw, limits, is_cancelled };
        let wanted = max_tokens.min(max_passages.saturating_mul(limits.tokens));
        let (mut units, mut tokens) = (Vec::new(), 0);
        let mut tokens_unseen = 0;
        for (start, sentence) in raw.split_sentence_bound_indices() {
            if tokens > wanted && start >= CHUNK_BYTES {
                // The rest is not read. It has as many tokens a byte as the part before it.
                tokens_unseen = (tokens as f64 * (raw.len() - start) as f64 / start as f64).ceil() as usize;
                break;
            }
            let before = units.len();
            counter.add(start..start + sentence.len(), Boundary::Sentence, &mut units)?;
            tokens += units[before..].iter().map(|unit: &Unit| unit.tokens).sum::<usize>();
        }
        let mut total = 0;
        let is_within = |unit: &&Unit| {
            total += unit.tokens;
            total <= max_tokens
        };
        let readable = units.iter().take_while(is_within).count().max(1).min(units.len());
        let passages = group(&units[..readable], limits, max_passages);
        let end = passages.last().map_or(0, |(units, _)| units.end);
        Ok(Split {
            tokens_left: units[end..].iter().map(|unit| unit.tokens).sum::<usize>() + tokens_unseen,
            is_estimate: tokens_unseen > 0,
            passages: passages
                .into_iter()
                .map(|(range, overlap)| (units[range.start].bytes.start..units[range.end - 1].bytes.end, overlap))
                .collect(),
        })
    }
}

/// Finds the units of a text.
struct UnitCounter<'a> {
    prompter: &'a Prompter,
    raw: &'a str,
    limits: PassageLimits,
    is_cancelled: IsCancelled<'a>,
}

impl UnitCounter<'_> {
    /// Adds the text at `bytes` as one unit if it fits into a passage, else as several. `before` is
    /// the boundary between it and the unit before it.
    fn add(&self, bytes: Range<usize>, before: Boundary, units: &mut Vec<Unit>) -> Result<(), tokenizers::Error> {
        if (self.is_cancelled)() {
            return Err("cancelled".into());
        }
        let text = &self.raw[bytes.clone()];
        let content = text.trim();
        if content.is_empty() {
            return Ok(());
        }
        let start = bytes.start + (text.len() - text.trim_start().len());
        let bytes = start..start + content.len();
        let gap_start = units.last().map_or(0, |last| last.bytes.end);
        if let Some(last) = units.last_mut() {
            last.boundary = match before {
                Boundary::Sentence => boundary(&self.raw[last.bytes.clone()], &self.raw[gap_start..start]),
                other @ (Boundary::Character | Boundary::Word | Boundary::Line | Boundary::Paragraph) => other,
            };
        }
        let tokens = self.prompter.count_tokens(&self.raw[gap_start..bytes.end])?;
        let characters = self.raw[gap_start..bytes.end].chars().count();
        let fits = tokens <= self.limits.tokens && characters <= self.limits.characters;
        let pieces = if fits { Vec::new() } else { self.pieces(content) };
        if pieces.len() < 2 {
            units.push(Unit { bytes, tokens, characters, boundary: Boundary::Paragraph });
            return Ok(());
        }
        for (nth, (range, kind)) in pieces.into_iter().enumerate() {
            let between = if nth == 0 { before } else { kind };
            self.add(start + range.start..start + range.end, between, units)?;
        }
        Ok(())
    }

    /// A text over the limit in pieces: of some words if it has several, else of parts of a word.
    /// With each piece, the boundary before it.
    fn pieces(&self, text: &str) -> Vec<(Range<usize>, Boundary)> {
        // Counting word by word would be slow, and a passage holds many.
        let least = self.limits.tokens / 4;
        let words = cut_at(text, least, text.match_indices(char::is_whitespace).map(|(index, _)| index));
        if words.len() > 1 {
            return words.into_iter().map(|range| (range, Boundary::Word)).collect();
        }
        let words = cut_at(text, least, text.split_word_bound_indices().map(|(index, _)| index));
        if words.len() > 1 {
            return words.into_iter().map(|range| (range, Boundary::Word)).collect();
        }
        let half = (0..=text.len() / 2).rev().find(|index| text.is_char_boundary(*index) && *index > 0);
        let half = half.unwrap_or_else(|| text.chars().next().map_or(0, char::len_utf8));
        let halves = [0..half, half..text.len()];
        halves.into_iter().filter(|range| !range.is_empty()).map(|range| (range, Boundary::Character)).collect()
    }
}

/// Cuts a text at these places (byte indices, ascending), into pieces of at least `least` bytes.
fn cut_at(text: &str, least: usize, places: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for place in places.filter(|place| *place > 0) {
        if place - start >= least.max(1) {
            pieces.push(start..place);
            start = place;
        }
    }
    pieces.push(start..text.len());
    pieces
}

/// The boundary between a sentence and the next one, with white space `gap` between them.
fn boundary(sentence: &str, gap: &str) -> Boundary {
    let is_closing = |character: char| matches!(character, '"' | '\'' | ')' | ']' | '\u{201d}' | '\u{2019}' | '\u{bb}');
    let has_ended = sentence
        .trim_end_matches(is_closing)
        .ends_with(['.', '!', '?', '\u{2026}', '\u{3002}', '\u{ff01}', '\u{ff1f}']);
    match gap.chars().filter(|character| matches!(character, '\n' | '\u{2029}')).count() {
        0 => Boundary::Sentence,
        1 if has_ended => Boundary::Sentence,
        1 => Boundary::Line,
        _ => Boundary::Paragraph,
    }
}

/// Groups units into at most `max_passages` passages: ranges of units, and the tokens that each
/// repeats of the one before it.
fn group(units: &[Unit], limits: PassageLimits, max_passages: usize) -> Vec<(Range<usize>, usize)> {
    let mut passages: Vec<(Range<usize>, usize)> = Vec::new();
    let (mut start, mut done, mut overlap) = (0, 0, 0);
    while done < units.len() && passages.len() < max_passages {
        let (mut end, mut tokens, mut characters) = (start, 0, 0);
        for unit in &units[start..] {
            (tokens, characters) = (tokens + unit.tokens, characters + unit.characters);
            if end > done && (tokens > limits.tokens || characters > limits.characters) {
                break;
            }
            end += 1;
        }
        if end < units.len() {
            end = best_end(units, start, done + 1..end + 1, limits);
        }
        passages.push((start..end, overlap));
        (start, done, overlap) = (end, end, 0);
        let next = units.get(end).map_or(0, |unit| unit.tokens);
        let first = passages.last().map_or(0, |(units, _)| units.start);
        // The next unit has to fit beside what is repeated.
        while start > first + 1
            && overlap + units[start - 1].tokens <= limits.overlap
            && overlap + units[start - 1].tokens + next <= limits.tokens
        {
            start -= 1;
            overlap += units[start].tokens;
        }
    }
    passages
}

/// The best of these ends for a passage that begins at `start`: the last one at the best boundary,
/// among those that leave the passage at least half full.
fn best_end(units: &[Unit], start: usize, ends: Range<usize>, limits: PassageLimits) -> usize {
    let last = ends.end - 1;
    let mut tokens: usize = units[start..ends.start - 1].iter().map(|unit| unit.tokens).sum();
    let mut best = (Boundary::Character, last);
    for end in ends {
        tokens += units[end - 1].tokens;
        if tokens >= limits.tokens / 2 && units[end - 1].boundary >= best.0 {
            best = (units[end - 1].boundary, end);
        }
    }
    best.1
}

/// Puts the passages of all documents into their order, and returns their texts as they were sent.
fn interleave<'a>(
    documents: Vec<TokenizedDocument<'a>>,
    chunking: &Chunking,
    prepared: &mut PreparedTexts,
) -> Vec<&'a str> {
    let mut passages = Passages { list: Vec::new(), documents: Vec::new(), merge: chunking.merge };
    let mut all = Vec::new();
    for document in documents {
        passages.documents.push(document.split);
        all.extend(document.passages.into_iter().zip(document.texts).enumerate());
    }
    // The sort is stable: the passages of one round keep the documents' order.
    all.sort_by_key(|(nth, _)| *nth);
    let mut sources = Vec::with_capacity(all.len());
    for (_, (passage, (source, text))) in all {
        passages.list.push(passage);
        sources.push(source);
        prepared.documents.push(text);
    }
    prepared.passages = Some(passages);
    sources
}
