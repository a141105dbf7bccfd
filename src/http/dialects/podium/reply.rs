//! The reply of the shared dialect.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::http::dialects::PassageReply;
use crate::http::dialects::documents::SentDocuments;
use crate::rerank::{
    BudgetReport, CascadeReport, EarlyExitReport, MinScoreReport, Mode, RankedDocument, Ranking, SkipReason,
};

/// The number of documents that Cohere bills as one search.
const DOCUMENTS_PER_SEARCH_UNIT: usize = 100;

/// A ranking. The rows are in `results`, and again in `data`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(
    example = json!({
        "id": "c736de37-405d-4666-be48-f3e15f0f3a65",
        "object": "rerank",
        "model": "podium-mini",
        "results": [
            {"index": 1, "relevance_score": 0.62, "raw_score": 0.71, "tokens": 9, "tokens_read": 9, "truncated": false},
            {"index": 0, "relevance_score": 0.04, "raw_score": 0.11, "tokens": 5, "tokens_read": 5, "truncated": false},
        ],
        "data": [
            {"index": 1, "relevance_score": 0.62, "raw_score": 0.71, "tokens": 9, "tokens_read": 9, "truncated": false},
            {"index": 0, "relevance_score": 0.04, "raw_score": 0.11, "tokens": 5, "tokens_read": 5, "truncated": false},
        ],
        "usage": {"prompt_tokens": 52, "completion_tokens": 0, "total_tokens": 52, "truncated_documents": 0},
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1},
            "mode": "listwise",
            "slates": 1,
            "warnings": [],
            "timing_ms": {"queue": 0.01, "tokenize": 0.4, "forward": 2.1, "total": 2.6},
        },
    })
)]
pub struct RerankReply<'a> {
    id: &'a str,
    #[schema(inline)]
    object: RerankObject,
    model: &'a str,
    /// Best first; equal scores keep the request's order.
    results: Vec<RerankResult<'a>>,
    /// The same rows, with documents as texts.
    data: Vec<RerankDatum<'a>>,
    usage: Usage,
    meta: Meta<'a>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::http::dialects) enum RerankObject {
    Rerank,
    /// Voyage's, in replies to requests of Voyage's clients.
    List,
}

#[derive(Debug, Serialize, ToSchema)]
struct RerankResult<'a> {
    #[serde(flatten)]
    scores: DocumentScores,
    /// The document as it was sent, or its text in `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    document: Option<ReturnedDocument<'a>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct RerankDatum<'a> {
    #[serde(flatten)]
    scores: DocumentScores,
    /// The document's text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    document: Option<Cow<'a, str>>,
}

// Scores stay f32 up to the serialiser, which writes the shortest decimal that reads back as the
// same f32.
#[derive(Debug, Serialize, ToSchema)]
struct DocumentScores {
    /// The document's index in the request, from 0.
    index: usize,
    /// Relevance in [0, 1]. A listwise score depends on the other documents of the slate.
    #[schema(minimum = 0, maximum = 1)]
    relevance_score: f32,
    /// The family's own score: a cosine, a logit difference.
    raw_score: f32,
    /// The tokens of the document. Of a document that is cut and longer than 64 KiB an estimate,
    /// and a warning says so.
    tokens: usize,
    /// The tokens of the document that the model read.
    tokens_read: usize,
    /// Whether the end of the document was cut off.
    truncated: bool,
    /// The stage of a cascade that ranked the document last: 0 is the caller's own scores or order,
    /// 1 the first model. Only from a cascade.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    stage: Option<usize>,
    /// After how many layers the score was read, of a document that left the model early. Only with
    /// an early exit or a cutoff layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    exit_layer: Option<u16>,
    /// The standard deviation of its relevance over several orders of the documents. Only with
    /// `stability`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    spread: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    passage: Option<PassageReply>,
}

#[derive(Debug, Serialize)]
struct ReturnedDocument<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(flatten)]
    record: Option<Cow<'a, Map<String, Value>>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Usage {
    prompt_tokens: usize,
    /// Always 0: nothing is generated. Together's clients require it.
    completion_tokens: usize,
    total_tokens: usize,
    /// The documents whose end was cut off.
    truncated_documents: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct Meta<'a> {
    api_version: ApiVersion,
    billed_units: BilledUnits,
    #[schema(inline)]
    mode: ModeUsed,
    /// The slates (listwise) or documents (pointwise) that were read.
    slates: usize,
    /// The stored instruction in effect, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    profile: Option<&'a str>,
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline, nullable = false)]
    min_score: Option<MinScoreUsed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline, nullable = false)]
    budget: Option<BudgetUsed<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline, nullable = false)]
    early_exit: Option<EarlyExitUsed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline, nullable = false)]
    cascade: Option<CascadeUsed<'a>>,
    timing_ms: Timing,
}

/// How the documents were read.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ModeUsed {
    Listwise,
    Pointwise,
}

/// The minimum score, and the number of results below it. Only if the request has one.
#[derive(Debug, Serialize, ToSchema)]
struct MinScoreUsed {
    /// The least relevance of a result: the request's number, or the one that `auto` chose.
    #[schema(minimum = 0, maximum = 1)]
    min_score: f32,
    /// The documents with a lower score.
    left_out: usize,
}

/// The documents that left the model before its last layer. Only if the request has an early exit
/// or a cutoff layer.
#[derive(Debug, Serialize, ToSchema)]
struct EarlyExitUsed {
    /// The documents that left early.
    left_early: usize,
    /// The layers that were not computed for them, counted as tokens through all layers.
    tokens_saved: usize,
}

/// The part that was left out to keep to the request's budget; only if it has one.
#[derive(Debug, Serialize, ToSchema)]
struct BudgetUsed<'a> {
    /// The most tokens that were read of each document, if the budget lowered that.
    #[schema(minimum = 1, required = true)]
    tokens_per_document: Option<usize>,
    documents_read: usize,
    /// The documents that were not read: they follow the others, with a score of 0 and
    /// `tokens_read` 0.
    documents_left_in_input_order: usize,
    reason: &'a str,
}

/// The work of the stages of a cascade; only if one ranked.
#[derive(Debug, Serialize, ToSchema)]
struct CascadeUsed<'a> {
    #[schema(inline)]
    stages: Vec<StageUsed<'a>>,
    /// Estimate of the tokens of other documents, which the last model alone would have read.
    tokens_saved: usize,
}

/// The work of one stage.
#[derive(Debug, Serialize, ToSchema)]
struct StageUsed<'a> {
    /// 0 is the caller's own scores, 1 the first model.
    stage: usize,
    /// The model's name; `null` for the caller's scores.
    #[schema(required = true)]
    model: Option<&'a str>,
    /// The documents that it ranked.
    documents: usize,
    /// The tokens that its model read.
    tokens: usize,
    /// Milliseconds from its beginning to its ranking, if it ran on a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    time_ms: Option<f64>,
    /// Why it did not run, if it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^(keeps_all|sure|budget|not_loaded|failed)$")]
    skipped: Option<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ApiVersion {
    version: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct BilledUnits {
    search_units: usize,
}

/// Milliseconds.
#[derive(Debug, Serialize, ToSchema)]
struct Timing {
    queue: f64,
    tokenize: f64,
    forward: f64,
    total: f64,
}

impl<'a> RerankReply<'a> {
    /// The reply to a request. `sent` has the documents, if they are to be returned.
    #[must_use]
    pub fn new(id: &'a str, ranking: &'a Ranking, sent: &'a SentDocuments) -> Self {
        let results = ranking.results.iter();
        Self {
            id,
            object: RerankObject::Rerank,
            model: &ranking.model,
            results: results
                .clone()
                .map(|row| RerankResult { scores: row.into(), document: ReturnedDocument::new(sent, row.index) })
                .collect(),
            data: results.map(|row| RerankDatum { scores: row.into(), document: sent.text(row.index) }).collect(),
            usage: Usage {
                prompt_tokens: ranking.usage.prompt_tokens,
                completion_tokens: 0,
                total_tokens: ranking.usage.prompt_tokens,
                truncated_documents: ranking.usage.truncated_documents,
            },
            meta: Meta::new(ranking),
        }
    }

    /// The same reply with another `object`.
    pub(super) fn with_object(self, object: RerankObject) -> Self {
        Self { object, ..self }
    }
}

impl<'a> ReturnedDocument<'a> {
    fn new(sent: &'a SentDocuments, index: usize) -> Option<Self> {
        let record = sent.document(index)?.as_object();
        let text = match record.and_then(|record| record.get("text")) {
            Some(text) if !text.is_null() => None,
            _ => sent.text(index),
        };
        let record = record.map(|record| match record.get("text") {
            // The text that was read takes its place.
            Some(Value::Null) => {
                let others = record.iter().filter(|(name, _)| *name != "text");
                Cow::Owned(others.map(|(name, value)| (name.clone(), value.clone())).collect())
            }
            _ => Cow::Borrowed(record),
        });
        Some(Self { text, record })
    }
}

impl From<&RankedDocument> for DocumentScores {
    fn from(row: &RankedDocument) -> Self {
        Self {
            index: row.index,
            relevance_score: row.relevance_score,
            raw_score: row.raw_score,
            tokens: row.tokens,
            tokens_read: row.tokens_read,
            truncated: row.truncated(),
            stage: row.stage,
            exit_layer: row.exit_layer,
            spread: row.spread,
            passage: PassageReply::of(row),
        }
    }
}

impl<'a> Meta<'a> {
    fn new(ranking: &'a Ranking) -> Self {
        let timing = &ranking.timing;
        Self {
            api_version: ApiVersion { version: "2" },
            billed_units: BilledUnits { search_units: ranking.documents.div_ceil(DOCUMENTS_PER_SEARCH_UNIT) },
            mode: if ranking.mode == Mode::Pointwise { ModeUsed::Pointwise } else { ModeUsed::Listwise },
            slates: ranking.slates,
            profile: ranking.profile.as_deref(),
            warnings: &ranking.warnings,
            min_score: ranking
                .min_score
                .map(|MinScoreReport { min_score, left_out }| MinScoreUsed { min_score, left_out }),
            budget: ranking.budget.as_ref().map(BudgetUsed::from),
            early_exit: ranking
                .early_exit
                .map(|EarlyExitReport { left_early, tokens_saved }| EarlyExitUsed { left_early, tokens_saved }),
            cascade: ranking.cascade.as_ref().map(CascadeUsed::from),
            timing_ms: Timing {
                queue: milliseconds(timing.queue),
                tokenize: milliseconds(timing.tokenize),
                forward: milliseconds(timing.forward),
                total: milliseconds(timing.total),
            },
        }
    }
}

impl<'a> From<&'a BudgetReport> for BudgetUsed<'a> {
    fn from(report: &'a BudgetReport) -> Self {
        Self {
            tokens_per_document: report.tokens_per_document,
            documents_read: report.documents_read,
            documents_left_in_input_order: report.documents_left_in_input_order,
            reason: &report.reason,
        }
    }
}

impl<'a> From<&'a CascadeReport> for CascadeUsed<'a> {
    fn from(report: &'a CascadeReport) -> Self {
        let stages = report.stages.iter().map(|stage| StageUsed {
            stage: stage.stage,
            model: stage.model.as_deref(),
            documents: stage.documents,
            tokens: stage.tokens,
            time_ms: stage.time.map(milliseconds),
            skipped: stage.skipped.map(SkipReason::as_str),
        });
        Self { stages: stages.collect(), tokens_saved: report.tokens_saved }
    }
}

/// Milliseconds with three decimals.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_written_as_the_shortest_decimal_of_its_f32() {
        let row = RankedDocument {
            index: 0,
            relevance_score: 0.34,
            raw_score: -1.0e-7,
            tokens: 3,
            tokens_read: 2,
            stage: None,
            exit_layer: None,
            spread: None,
            passage: None,
        };
        let row = RerankResult { scores: (&row).into(), document: None };
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(
            json,
            r#"{"index":0,"relevance_score":0.34,"raw_score":-1e-7,"tokens":3,"tokens_read":2,"truncated":true}"#
        );
    }
}
