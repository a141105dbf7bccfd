//! Which documents are read together: a family's slate rule applied to this request's lengths, and
//! the fallback to one at a time.

use std::ops::Range;

use super::PromptError;
use super::family::{Layout, SlateRule};
use super::frame::Frame;
use super::prompter::{Listwise, Prompter};
use super::read::{DocumentText, Intake, ShortTexts, warn_of_want};
use super::template::{Part, Scene};
use super::threads;
use crate::rerank::slates::{self, BlockRule, SlateLimits, Window};
use crate::rerank::{LimitSettings, Mode, RerankError, RerankRequest};

/// A cut text may take a few tokens more inside a prompt than were counted of it: the cut changes how
/// the last word splits, and half a character becomes U+FFFD. This many a document are kept free.
const SLACK: usize = 4;

/// Which documents are read together, and in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Slates whose scores compare: all in one round. In [`Mode::Pointwise`], of one document each.
    Slates(Vec<Range<usize>>),
    /// A window of which the scores compare only among themselves: one position a round.
    Windows(Window),
    /// Documents that are read one by one, in groups that share the beginning of their prompts: all
    /// in one round.
    Pairs(Vec<Range<usize>>),
}

/// How much of a slate is not documents.
struct Room {
    /// What stands before an isolated document in its run of text.
    before: String,
    /// Tokens of a slate without documents.
    fixed: usize,
    /// Tokens that come with each document.
    per_document: usize,
    /// The most tokens that one document can have.
    document: usize,
    /// The most tokens of a slate.
    slate: usize,
}

impl Prompter {
    /// Takes in the documents of a listwise family and plans slates; falls back to one document at a
    /// time where `auto` allows it and no slate holds two.
    pub(super) fn read_slates(
        &self,
        listwise: &Listwise,
        request: &RerankRequest,
        limits: &LimitSettings,
        texts: &ShortTexts,
        wanted: &(dyn Fn() -> bool + Sync),
        warnings: &mut Vec<String>,
    ) -> Result<(Mode, Vec<DocumentText>, Plan), RerankError> {
        let count = request.documents.len();
        let room = match listwise.facts.layout {
            Layout::Causal => self.causal_room(listwise, count, limits, texts)?,
            Layout::Isolated => self.isolated_room(listwise, limits, texts)?,
        };
        let limit = self.wanted_limit(request).min(room.document);
        let isolated = listwise.facts.layout == Layout::Isolated;
        let intake = Intake { before: &room.before, limit, keep_ids: isolated, wanted };
        let mut documents = self.documents(request, &intake, warnings)?;
        warn_of_want(request, room.document, &documents, warnings);
        if isolated {
            mark_suffixes(listwise, &texts.query, &mut documents);
        }
        if request.mode == Mode::Pointwise {
            return Ok((Mode::Pointwise, documents, one_by_one(count)));
        }
        let plan = self.slate_plan(listwise, &room, limit, limits, texts, &documents)?;
        let together = match &plan {
            Plan::Slates(slates) => slates.iter().any(|slate| slate.len() > 1),
            Plan::Windows(window) => window.documents > 1,
            Plan::Pairs(_) => true,
        };
        if together || count < 2 {
            return Ok((Mode::Listwise, documents, plan));
        }
        if request.mode == Mode::Listwise {
            if let Plan::Slates(_) = plan {
                return Ok((Mode::Listwise, documents, plan));
            }
            let mut lengths: Vec<usize> = documents.iter().map(|document| document.tokens_read).collect();
            lengths.sort_unstable();
            let longest: usize = lengths.iter().rev().take(2).map(|tokens| tokens + room.per_document).sum();
            return Err(RerankError::PromptTooLong {
                field: "the two longest documents".into(),
                tokens: room.fixed + longest,
                limit: room.slate,
            });
        }
        warnings.push(format!("read pointwise: a slate of {} tokens does not hold two of these documents", room.slate));
        let plan = match &self.pointwise {
            Some(pointwise) => self.read_pairs(pointwise, request, limits, texts, &mut documents, warnings)?,
            None => one_by_one(count),
        };
        Ok((Mode::Pointwise, documents, plan))
    }

    fn slate_plan(
        &self,
        listwise: &Listwise,
        room: &Room,
        limit: usize,
        limits: &LimitSettings,
        texts: &ShortTexts,
        documents: &[DocumentText],
    ) -> Result<Plan, RerankError> {
        let facts = &listwise.facts.slates;
        let costs: Vec<usize> = documents.iter().map(|document| document.tokens_read + room.per_document).collect();
        let mut slate = SlateLimits {
            max_documents: facts.documents.min(limits.max_slate_documents).max(1),
            max_tokens: room.slate.saturating_sub(room.fixed),
        };
        Ok(match facts.rule {
            SlateRule::Even => Plan::Slates(slates::even(&costs, slate)),
            SlateRule::Blocks => {
                let lengths: Vec<usize> = documents.iter().map(|document| document.tokens_read).collect();
                let query = self.tokenizer.encode(&texts.query).map_err(RerankError::internal)?.len();
                let budget = room.slate.saturating_sub(2 * query);
                let rule = BlockRule { max_documents: slate.max_documents, budget, reserve: limit };
                Plan::Slates(slates::blocks(&lengths, rule, &costs, slate))
            }
            SlateRule::Windows => {
                slate.max_documents = slate.max_documents.min(listwise.identifiers.len());
                let width = slates::widest_window(&costs, slate);
                let stride = facts.stride.unwrap_or(1) * width / facts.documents;
                Plan::Windows(Window { documents: width, stride: stride.max(1) })
            }
        })
    }

    /// The room in a slate that is one sequence: its frame is rendered with empty documents.
    fn causal_room(
        &self,
        listwise: &Listwise,
        count: usize,
        limits: &LimitSettings,
        texts: &ShortTexts,
    ) -> Result<Room, RerankError> {
        let slate = self.context.min(limits.max_slate_tokens);
        let frame = |documents: usize| -> Result<usize, RerankError> {
            let filled = self
                .causal_frame(listwise, documents, texts)
                .map_err(RerankError::internal)?
                .fill(&self.tokenizer, |_| "", |_| 0)
                .map_err(RerankError::internal)?;
            Ok(Self::ending_at_query_mark(listwise, filled).ids.len())
        };
        let one = frame(1)?;
        let most = listwise.facts.slates.documents.min(limits.max_slate_documents).min(count);
        let most = if listwise.identifiers.is_empty() { most } else { most.min(listwise.identifiers.len()) }.max(2);
        let per_document = (frame(most)? - one).div_ceil(most - 1) + SLACK;
        if one + SLACK >= slate {
            return Err(RerankError::PromptTooLong { field: "query".into(), tokens: one + SLACK + 1, limit: slate });
        }
        let fixed = (one + SLACK).saturating_sub(per_document);
        Ok(Room { before: String::new(), fixed, per_document, document: slate - one - SLACK, slate })
    }

    /// The room in a slate of isolated documents.
    fn isolated_room(
        &self,
        listwise: &Listwise,
        limits: &LimitSettings,
        texts: &ShortTexts,
    ) -> Result<Room, RerankError> {
        let (prefix, closing) = self.isolated_ends(listwise, texts)?;
        let before = self.before_document(listwise).map_err(RerankError::internal)?;
        let (prefix, closing) = (prefix.len(), closing.len());
        let fixed = prefix + closing;
        // A document's suffix ends with its mark.
        let document = self.context.saturating_sub(prefix + 1).min(limits.max_slate_tokens.saturating_sub(fixed + 1));
        let limit = self.context.min(limits.max_slate_tokens);
        if document == 0 || fixed > self.context {
            return Err(RerankError::PromptTooLong { field: "query".into(), tokens: fixed + 2, limit });
        }
        Ok(Room { before, fixed, per_document: 1, document, slate: limits.max_slate_tokens })
    }

    /// A causal slate's frame for this many documents.
    pub(super) fn causal_frame(
        &self,
        listwise: &Listwise,
        documents: usize,
        texts: &ShortTexts,
    ) -> Result<Frame, PromptError> {
        let instruction = !texts.instruction.is_empty();
        let scene = Scene { instruction, documents, identifiers: &listwise.identifiers };
        let parts = listwise.template.render(scene, &self.tokenizer)?;
        Ok(Frame::new(parts, &texts.query, &texts.instruction))
    }

    /// What block `document` has before the document, in the same run of text.
    fn before_document(&self, listwise: &Listwise) -> Result<String, PromptError> {
        let scene = Scene { instruction: false, documents: 1, identifiers: &[] };
        let parts = listwise.template.render_block("document", scene, &self.tokenizer)?;
        Ok(match parts.first() {
            Some(Part::Text(before)) => before.clone(),
            _ => String::new(),
        })
    }
}

/// Slates of one document each.
fn one_by_one(count: usize) -> Plan {
    Plan::Slates((0..count).map(|index| index..index + 1).collect())
}

/// Ends each document's suffix with its mark: the bucket of its lexical evidence, if the family has
/// such marks.
fn mark_suffixes(listwise: &Listwise, query: &str, documents: &mut [DocumentText]) {
    let Some(marks) = &listwise.marks else { return };
    let evidence = marks.evidence.as_ref().map(|table| (table, table.query(query)));
    let bytes = documents.iter().map(|document| document.text.len()).sum();
    threads::map(documents, bytes, |document| {
        let bucket = match &evidence {
            Some((table, terms)) => table.bucket(terms, &document.text, marks.document.len()),
            None => 0,
        };
        document.ids.push(marks.document[bucket]);
    });
}
