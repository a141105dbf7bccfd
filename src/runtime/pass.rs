//! Input and output of a model: token sequences, and which numbers to read from them.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A position in a [`ForwardPass`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenPosition {
    /// 0 is the prefix, `n` is suffix `n - 1`.
    pub segment: usize,
    /// Tokens from the segment's start.
    pub offset: usize,
}

impl TokenPosition {
    /// A position in the prefix.
    #[must_use]
    pub const fn prefix(offset: usize) -> Self {
        Self { segment: 0, offset }
    }

    /// A position in suffix number `suffix`, counted from 0.
    #[must_use]
    pub const fn suffix(suffix: usize, offset: usize) -> Self {
        Self { segment: suffix + 1, offset }
    }
}

/// The top layers in which some positions attend beyond their own sequence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CrossDocumentLayers {
    /// Number of layers, counted from the last. 0: suffixes never see each other.
    pub count: usize,
    /// In those layers, every position that the pass reads also attends to these positions,
    /// whichever suffix they are in.
    pub shared: Vec<TokenPosition>,
}

/// The type of each token, for models with token type embeddings (BERT).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TokenTypes {
    /// Every token has type 0.
    #[default]
    Zero,
    /// For each sequence, the offset in its own segment at which tokens of type 1 begin. Those
    /// before it have type 0.
    Pairs(Vec<usize>),
}

/// Which positions of a sequence stand for the whole of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The first token, `[CLS]` or `<s>`.
    First,
    /// The mean over all tokens.
    Mean,
    /// The last token.
    Last,
}

/// The positions to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Positions {
    /// One row for each of these positions, in this order.
    Listed(Vec<TokenPosition>),
    /// One row for each sequence, in order. A suffix's sequence is the prefix and the suffix; a
    /// pass without suffixes is one sequence.
    Pooled(Pooling),
    /// Every token; the [`Head::Reader`] says how many rows it makes of them.
    All,
}

/// The layer that turns the states at the read positions into output rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// Nothing: the states themselves, after the final norm.
    Hidden,
    /// The checkpoint's projector (late interaction).
    Projector,
    /// The logits of these tokens only, never of the whole vocabulary.
    Vocabulary(Vec<u32>),
    /// The checkpoint's classifier: one number per label.
    Classifier,
    /// `ColBERT`'s score: the sum over the query's positions of the largest cosine with one of the
    /// document's positions, both through the checkpoint's token projection. The pass has no
    /// prefix; its first suffix is the query, each other one a document. Positions are listed
    /// suffix by suffix. One number for each document.
    MaxSim {
        /// How many of the query's last tokens (`[MASK]`) no token attends to.
        expansion: usize,
    },
    /// A computation of the caller on the states of all tokens, with [`Positions::All`].
    Reader(StateReader),
}

/// The states of all tokens of a pass.
#[derive(Debug)]
pub struct TokenStates<'a> {
    /// Numbers of a state.
    pub width: usize,
    /// For each of the [`ReadStates::layers`], the states of all tokens, one after the other.
    pub layers: Vec<&'a [f32]>,
    /// The tokens of each segment: of the prefix, if it is not empty, and of each suffix.
    pub segments: Vec<Range<usize>>,
}

/// Computes a pass's output from the states of all its tokens, where they are, so that only a few
/// numbers leave the runtime.
pub trait ReadStates: fmt::Debug + Send + Sync {
    /// After how many layers the states are read: ascending, the last one the number of layers of
    /// the model.
    fn layers(&self) -> &[u16];

    /// Number of output rows.
    fn rows(&self) -> usize;

    /// The output, with [`Self::rows`] rows.
    fn read(&self, states: &TokenStates<'_>) -> Output;
}

/// A shared [`ReadStates`]; equal only to itself.
#[derive(Debug, Clone)]
pub struct StateReader(pub Arc<dyn ReadStates>);

impl PartialEq for StateReader {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for StateReader {}

/// The numbers to read from a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// The positions to read.
    pub at: Positions,
    /// The head that turns a state into an output row.
    pub head: Head,
    /// Reads the state after this many layers, with the final norm applied. `None`: after the last.
    pub layer: Option<u16>,
    /// Where suffixes leave before that layer. `None`: nowhere.
    pub exit: Option<EarlyExit>,
}

/// Where suffixes leave the model before its last layer.
///
/// The output spec is also read after `layer` layers, with the final norm applied, and only the
/// `keep` best suffixes go through the other layers, up to the one that the spec reads after. A
/// suffix is the better, the larger the first number of its row minus the second, or the only one.
/// For causal models, and heads and positions that give each suffix one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EarlyExit {
    /// After how many layers: at least 1.
    pub layer: u16,
    /// How many suffixes of the pass go on: at least 1.
    pub keep: usize,
}

impl EarlyExit {
    /// The suffixes that go on, by the rows that were read at the exit; of equal ones the earlier.
    #[must_use]
    pub fn choose(&self, rows: &[Vec<f32>]) -> Vec<bool> {
        let score = |row: &Vec<f32>| row.first().map_or(f32::NAN, |first| first - row.get(1).unwrap_or(&0.0));
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by(|left, right| score(&rows[*right]).total_cmp(&score(&rows[*left])));
        let mut goes_on = vec![false; rows.len()];
        for suffix in order.into_iter().take(self.keep) {
            goes_on[suffix] = true;
        }
        goes_on
    }
}

impl OutputSpec {
    /// Reads `head` at these positions, after the last layer.
    #[must_use]
    pub const fn listed(at: Vec<TokenPosition>, head: Head) -> Self {
        Self { at: Positions::Listed(at), head, layer: None, exit: None }
    }

    /// Gives the states of all tokens to a reader.
    #[must_use]
    pub fn read_by(reader: Arc<dyn ReadStates>) -> Self {
        Self { at: Positions::All, head: Head::Reader(StateReader(reader)), layer: None, exit: None }
    }

    /// The same spec, with suffixes leaving early.
    #[must_use]
    pub fn with_exit(self, exit: Option<EarlyExit>) -> Self {
        Self { exit, ..self }
    }

    /// Reads `head` once per sequence, after the last layer.
    #[must_use]
    pub const fn pooled(pooling: Pooling, head: Head) -> Self {
        Self { at: Positions::Pooled(pooling), head, layer: None, exit: None }
    }
}

/// The numbers that were read: one row per position or sequence, in the order of
/// [`OutputSpec::at`]; for [`Head::MaxSim`] one per document. With an [`EarlyExit`], first the rows
/// that were read at the exit, then those after the last layer, which are empty for the suffixes
/// that left.
pub type Output = Vec<Vec<f32>>;

/// Token sequences that go through the model together: a shared prefix and its suffixes.
///
/// In a causal model every token sees the tokens before it in its own segment; a suffix's tokens
/// also see the whole prefix, and their positions continue from its end. Without suffixes the
/// prefix is one sequence by itself. In a bidirectional model tokens see all of their own sequence,
/// and the prefix must be empty or the only segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardPass {
    /// The tokens that all suffixes share. May be empty if there are suffixes.
    pub prefix: Vec<u32>,
    /// Continuations of the prefix that do not see each other.
    pub suffixes: Vec<Vec<u32>>,
    /// The types of the tokens.
    pub token_types: TokenTypes,
    /// Where suffixes do see each other.
    pub cross_document: CrossDocumentLayers,
    /// The numbers to read.
    pub output: OutputSpec,
}

impl ForwardPass {
    /// A single sequence of tokens of type 0.
    #[must_use]
    pub fn sequence(tokens: Vec<u32>, output: OutputSpec) -> Self {
        Self {
            prefix: tokens,
            suffixes: Vec::new(),
            token_types: TokenTypes::Zero,
            cross_document: CrossDocumentLayers::default(),
            output,
        }
    }

    /// Tokens of the prefix, counted once, and of all suffixes. Includes tokens that the prefix
    /// cache may hold, which are not computed again.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.prefix.len() + self.suffixes.iter().map(Vec::len).sum::<usize>()
    }

    /// Length of the longest sequence, prefix included.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.prefix.len() + self.suffixes.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The tokens of a segment: 0 is the prefix, `n` is suffix `n - 1`.
    #[must_use]
    pub fn segment(&self, segment: usize) -> Option<&[u32]> {
        match segment.checked_sub(1) {
            None => Some(&self.prefix),
            Some(suffix) => self.suffixes.get(suffix).map(Vec::as_slice),
        }
    }

    /// Number of rows that the pass's [`Output`] has; with an [`EarlyExit`], half of it.
    #[must_use]
    pub fn output_rows(&self) -> usize {
        match (&self.output.head, &self.output.at) {
            (Head::MaxSim { .. }, _) => self.suffixes.len().saturating_sub(1),
            (_, Positions::Listed(positions)) => positions.len(),
            (_, Positions::Pooled(_)) => self.suffixes.len().max(1),
            (Head::Reader(reader), Positions::All) => reader.0.rows(),
            (_, Positions::All) => self.tokens(),
        }
    }

    /// Tokens of each sequence, the prefix included.
    pub fn sequence_lengths(&self) -> impl Iterator<Item = usize> {
        let alone = self.suffixes.is_empty().then_some(self.prefix.len());
        alone.into_iter().chain(self.suffixes.iter().map(|suffix| self.prefix.len() + suffix.len()))
    }

    /// How many of the first suffix's last tokens no token attends to.
    #[must_use]
    pub fn expansion(&self) -> usize {
        if let Head::MaxSim { expansion } = self.output.head { expansion } else { 0 }
    }

    /// The positions whose states are needed: those listed, or those that pooling takes, sequence
    /// by sequence.
    #[must_use]
    pub fn read_positions(&self) -> Cow<'_, [TokenPosition]> {
        let pooling = match &self.output.at {
            Positions::Listed(positions) => return Cow::Borrowed(positions),
            Positions::All => {
                let tokens = |segment| self.segment(segment).map_or(0, <[u32]>::len);
                let all = (0..=self.suffixes.len())
                    .flat_map(|segment| (0..tokens(segment)).map(move |offset| TokenPosition { segment, offset }));
                return Cow::Owned(all.collect());
            }
            Positions::Pooled(pooling) => *pooling,
        };
        let sequences = if self.suffixes.is_empty() { 0..1 } else { 1..self.suffixes.len() + 1 };
        Cow::Owned(sequences.flat_map(|segment| self.pooled_positions(segment, pooling)).collect())
    }

    /// The pass without the suffixes that do not go on, and without an exit.
    #[must_use]
    pub fn without_left(&self, goes_on: &[bool]) -> Self {
        let mut next = 0;
        // The new segment of each old one; segments that are not listed stay.
        let segments: Vec<Option<usize>> = std::iter::once(Some(0))
            .chain(self.suffixes.iter().enumerate().map(|(suffix, _)| {
                let stays = goes_on.get(suffix).copied().unwrap_or(true);
                next += usize::from(stays);
                stays.then_some(next)
            }))
            .collect();
        let moved = |position: &TokenPosition| {
            let segment = segments.get(position.segment).copied().flatten()?;
            Some(TokenPosition { segment, ..*position })
        };
        let stays = |suffix: usize| segments.get(suffix + 1).is_some_and(Option::is_some);
        let at = match &self.output.at {
            Positions::Listed(positions) => Positions::Listed(positions.iter().filter_map(moved).collect()),
            at @ (Positions::Pooled(_) | Positions::All) => at.clone(),
        };
        let suffixes = self.suffixes.iter().enumerate().filter(|(suffix, _)| stays(*suffix));
        let token_types = match &self.token_types {
            TokenTypes::Pairs(starts) if !self.suffixes.is_empty() => {
                let starts = starts.iter().enumerate().filter(|(suffix, _)| stays(*suffix));
                TokenTypes::Pairs(starts.map(|(_, start)| *start).collect())
            }
            types @ (TokenTypes::Zero | TokenTypes::Pairs(_)) => types.clone(),
        };
        Self {
            prefix: self.prefix.clone(),
            suffixes: suffixes.map(|(_, suffix)| suffix.clone()).collect(),
            token_types,
            cross_document: CrossDocumentLayers {
                count: self.cross_document.count,
                shared: self.cross_document.shared.iter().filter_map(moved).collect(),
            },
            output: OutputSpec { at, head: self.output.head.clone(), layer: self.output.layer, exit: None },
        }
    }

    /// The positions that pooling takes from the sequence that ends with `segment`.
    fn pooled_positions(&self, segment: usize, pooling: Pooling) -> Vec<TokenPosition> {
        let length = self.segment(segment).map_or(0, <[u32]>::len);
        let shared = if segment == 0 { 0 } else { self.prefix.len() };
        let mut all =
            (0..shared).map(TokenPosition::prefix).chain((0..length).map(|offset| TokenPosition { segment, offset }));
        match pooling {
            Pooling::First => all.next().into_iter().collect(),
            Pooling::Mean => all.collect(),
            Pooling::Last => all.next_back().into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(prefix: &[u32], suffixes: &[&[u32]], at: Positions) -> ForwardPass {
        ForwardPass {
            suffixes: suffixes.iter().map(|suffix| suffix.to_vec()).collect(),
            ..ForwardPass::sequence(prefix.to_vec(), OutputSpec { at, head: Head::Hidden, layer: None, exit: None })
        }
    }

    #[test]
    fn an_exit_keeps_the_best_rows_and_the_earlier_of_equal_ones() {
        let choose = |keep, rows: &[Vec<f32>]| EarlyExit { layer: 1, keep }.choose(rows);
        let rows = [vec![1.0, 0.0], vec![9.0, 8.5], vec![3.0, 2.0], vec![0.0, -4.0]];
        assert_eq!(choose(2, &rows), [true, false, false, true]);
        assert_eq!(choose(1, &[vec![2.0], vec![2.0]]), [true, false]);
        assert_eq!(choose(9, &rows), [true; 4]);
    }

    #[test]
    fn a_pass_without_the_suffixes_that_left_reads_the_others_where_they_are_now() {
        let ends = vec![TokenPosition::suffix(0, 1), TokenPosition::suffix(1, 0), TokenPosition::suffix(2, 1)];
        let mut whole = pass(&[7], &[&[1, 2], &[3], &[4, 5]], Positions::Listed(ends));
        whole.token_types = TokenTypes::Pairs(vec![1, 2, 3]);
        whole.output.exit = Some(EarlyExit { layer: 1, keep: 2 });
        let rest = whole.without_left(&[false, true, true]);
        assert_eq!((rest.prefix, rest.suffixes), (vec![7], vec![vec![3], vec![4, 5]]));
        assert_eq!(rest.token_types, TokenTypes::Pairs(vec![2, 3]));
        let moved = vec![TokenPosition::suffix(0, 0), TokenPosition::suffix(1, 1)];
        assert_eq!((rest.output.at, rest.output.exit), (Positions::Listed(moved), None));
    }

    #[test]
    fn pooling_takes_its_positions_from_every_sequence() {
        let read = |prefix: &[u32], suffixes: &[&[u32]], pooling| {
            let pass = pass(prefix, suffixes, Positions::Pooled(pooling));
            (pass.output_rows(), pass.read_positions().into_owned())
        };
        let at = |segment, offset| TokenPosition { segment, offset };
        assert_eq!(read(&[1, 2, 3], &[], Pooling::First), (1, vec![at(0, 0)]));
        assert_eq!(read(&[1, 2, 3], &[], Pooling::Last), (1, vec![at(0, 2)]));
        assert_eq!(read(&[], &[&[1, 2], &[3]], Pooling::First), (2, vec![at(1, 0), at(2, 0)]));
        assert_eq!(read(&[], &[&[1, 2], &[3]], Pooling::Mean), (2, vec![at(1, 0), at(1, 1), at(2, 0)]));
        assert_eq!(read(&[7], &[&[1, 2], &[3]], Pooling::Last), (2, vec![at(1, 1), at(2, 0)]));
        assert_eq!(read(&[7], &[&[1], &[3]], Pooling::Mean), (2, vec![at(0, 0), at(1, 0), at(0, 0), at(2, 0)]));
    }
}
