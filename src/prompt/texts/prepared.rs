//! A request's texts after tokenizing: what the model reads of them, and which documents share a
//! pass.

use std::ops::Range;

use crate::evidence::CountedFacts;
use crate::prompt::template::Run;
use crate::prompt::tokenizer::is_space;
use crate::rerank::slates::Window;
use crate::rerank::{Mode, Passages, RerankRequest};
use crate::runtime::EarlyExit;

/// A tokenized request.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedTexts {
    /// The mode that runs: [`Mode::Listwise`] or [`Mode::Pointwise`].
    pub mode: Mode,
    /// The query, cleaned and truncated.
    pub query: String,
    /// The instruction, cleaned and truncated. A request without one has the family's default;
    /// empty where there is none.
    pub instruction: String,
    /// The documents, in the request's order; or their passages, in the order of `passages`.
    pub documents: Vec<DocumentText>,
    /// The passages, where the documents were split.
    pub passages: Option<Passages>,
    /// Which documents share a pass, and in which order the passes run.
    pub plan: Plan,
    /// Where documents leave the model early, if they do.
    pub early_exit: Option<EarlyExit>,
    /// The layer that the others are scored after; `None`: the last.
    pub cutoff_layer: Option<u16>,
    /// Warnings for the caller: truncated texts, removed control tokens, a fallback.
    pub warnings: Vec<String>,
    /// How many of the last `warnings` are about truncated documents.
    pub(in crate::prompt) truncation_warnings: usize,
    /// How the request wants its documents read.
    pub(in crate::prompt) options: ReadOptions,
    /// Sizes of a slate beside its documents, where the family is listwise.
    pub(in crate::prompt) sizes: Option<SlateSizes>,
    /// The prompt around each document, where documents are read one by one in prompts of their
    /// own.
    pub(in crate::prompt) pair_frame: Option<PairFrame>,
    /// The query's sequence, where it is encoded apart from the documents.
    pub(in crate::prompt) query_ids: Vec<u32>,
    /// How many of its last tokens no token attends to.
    pub(in crate::prompt) expansion: usize,
    /// The instruction's tokens, where it is a row of its own.
    pub(in crate::prompt) instruction_ids: Vec<u32>,
    /// For families of rows, by document.
    pub(in crate::prompt) features: Vec<DocumentFeatures>,
}

/// Features of a whole document, also of the part that is not encoded.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::prompt) struct DocumentFeatures {
    /// The words in common with the query and with the instruction, in [0, 1).
    pub lexical: [f32; 2],
    /// Properties that instructions ask for; empty without an instruction.
    pub counted: CountedFacts,
}

/// A document, cleaned and truncated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentText {
    /// The part of the text that the model reads.
    pub text: String,
    /// Tokens of the whole text.
    pub tokens: usize,
    /// Whether `tokens` is an estimate: a long text is encoded only as far as it is read.
    pub is_estimate: bool,
    /// Tokens that the model reads. Fewer than `tokens` exactly when the document was truncated.
    pub tokens_read: usize,
    /// The document's token ids. In a causal slate: its text. In an isolated slate: its suffix,
    /// which ends with its mark. Pointwise and bi-encoder: the whole sequence, prompt included.
    pub(in crate::prompt) ids: Vec<u32>,
}

impl DocumentText {
    /// Whether there is nothing to read: white space and invisible characters only.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        let is_invisible = |character: char| {
            is_space(character)
                || character.is_control()
                || matches!(character, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
        };
        self.text.chars().all(is_invisible)
    }
}

/// Which documents share a pass, and in which order the passes run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Slates whose scores compare: all run in one round. In [`Mode::Pointwise`] each has one
    /// document.
    Slates(Vec<Range<usize>>),
    /// A sliding window: scores compare only within a window, so each position is a round.
    Windows(Window),
    /// Documents with a prompt each, in groups that share the beginning of their prompts: all run
    /// in one round.
    Pairs(Vec<Range<usize>>),
    /// Documents that are encoded apart from the query and from each other, in groups: all run in
    /// one round.
    BiEncoder(Vec<Range<usize>>),
}

/// How a request wants its documents read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::prompt) struct ReadOptions {
    pub mode: Mode,
    /// Whether a text over its limit is truncated, rather than refused.
    pub truncation: bool,
    pub max_tokens_per_doc: Option<usize>,
}

/// Query and instruction, cleaned and truncated.
#[derive(Debug, Clone, Copy)]
pub(in crate::prompt) struct ShortTexts<'a> {
    pub query: &'a str,
    pub instruction: &'a str,
}

/// Sizes of a slate beside its documents, in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::prompt) struct SlateSizes {
    /// Text that the template puts before an isolated document in the same run.
    pub before: String,
    /// A slate without documents.
    pub fixed: usize,
    /// Tokens that the prompt adds for each document: template, mark, slack.
    pub per_document: usize,
    /// The longest document that fits beside the query and the instruction.
    pub max_document: usize,
    /// The limit on a slate's tokens.
    pub max_slate: usize,
    /// The query alone; 0 unless the slate rule is `blocks`.
    pub query: usize,
    /// The most tokens of a document that this request reads.
    pub document_limit: usize,
}

/// The prompt around one document, with everything encoded but the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::prompt) struct PairFrame {
    /// Token ids before the run that holds the document.
    pub before: Vec<u32>,
    /// The text with the document in it.
    pub run: Run,
    /// Token ids after that run.
    pub after: Vec<u32>,
    /// Control tokens in `before` and `after`.
    pub controls: usize,
    /// The most tokens of the whole prompt.
    pub limit: usize,
}

impl PreparedTexts {
    /// Tokens of the query's sequence, where it is encoded apart from the documents.
    #[must_use]
    pub fn query_tokens(&self) -> usize {
        self.query_ids.len()
    }

    /// How many of these, the last ones, no token attends to.
    #[must_use]
    pub fn expansion(&self) -> usize {
        self.expansion
    }

    /// The index in the request of the document that `documents[index]` is, or is a passage of.
    #[must_use]
    pub fn document_of(&self, index: usize) -> usize {
        self.passages.as_ref().and_then(|passages| passages.list.get(index)).map_or(index, |passage| passage.document)
    }

    /// Documents in the request.
    #[must_use]
    pub fn request_documents(&self) -> usize {
        self.passages.as_ref().map_or(self.documents.len(), |passages| passages.documents.len())
    }

    /// Query and instruction of a request, without documents yet.
    pub(in crate::prompt) fn new(
        request: &RerankRequest,
        query: String,
        instruction: String,
        warnings: Vec<String>,
    ) -> Self {
        let RerankRequest { mode, truncation, .. } = *request;
        // Of a document that is split, it limits the passages together.
        let max_tokens_per_doc = request.max_tokens_per_doc.filter(|_| request.chunking.is_none());
        Self {
            mode,
            query,
            instruction,
            documents: Vec::new(),
            passages: None,
            plan: Plan::Slates(Vec::new()),
            early_exit: None,
            cutoff_layer: None,
            warnings,
            truncation_warnings: 0,
            options: ReadOptions { mode, truncation, max_tokens_per_doc },
            sizes: None,
            pair_frame: None,
            query_ids: Vec::new(),
            expansion: 0,
            instruction_ids: Vec::new(),
            features: Vec::new(),
        }
    }

    /// The same request with only its first `count` documents, neither planned nor warned of.
    pub(in crate::prompt) fn with_first(&self, count: usize) -> Self {
        Self {
            mode: self.mode,
            query: self.query.clone(),
            instruction: self.instruction.clone(),
            documents: self.documents[..count.min(self.documents.len())].to_vec(),
            passages: self.passages.clone(),
            plan: Plan::Slates(Vec::new()),
            early_exit: self.early_exit,
            cutoff_layer: self.cutoff_layer,
            warnings: self.warnings[..self.warnings.len() - self.truncation_warnings].to_vec(),
            truncation_warnings: 0,
            options: self.options,
            sizes: self.sizes.clone(),
            pair_frame: self.pair_frame.clone(),
            expansion: self.expansion,
            query_ids: self.query_ids.clone(),
            instruction_ids: self.instruction_ids.clone(),
            features: self.features[..count.min(self.features.len())].to_vec(),
        }
    }

    pub(in crate::prompt) fn short_texts(&self) -> ShortTexts<'_> {
        ShortTexts { query: &self.query, instruction: &self.instruction }
    }
}
