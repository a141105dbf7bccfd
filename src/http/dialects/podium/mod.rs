//! The shared dialect of `/v1/rerank`, `/v2/rerank` and `/rerank`.
//!
//! A request may have the fields of Cohere, Jina, Voyage, vLLM, Together and Contextual. The reply
//! is one that the clients of all of them can read: the rows are in `results`, with documents as
//! `{"text": ...}` or as the record that was sent, and again in `data`, with documents as strings.
//! A row has a document only if the request asked for it.

mod reply;
#[cfg(test)]
mod tests;

use serde_json::Value;
use utoipa::ToSchema;

pub(super) use reply::RerankObject;
pub use reply::RerankReply;

use super::documents::{Documents, Query, SentDocuments};
use super::{Answer, Call, Dialect, Reply, RequestOptions, check_unread, drop_empty_values, is_zero, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Field, Fields, Flag, ParseError, Reader, expected, flag_or, text};
use crate::http::schemas::SchemaOf;
use crate::rerank::{RerankError, RerankRequest};

/// Fields of other servers that change no ranking: they cause no warning.
const IGNORED_FIELDS: [&str; 5] = ["user", "request_id", "cache_salt", "return_len", "encoding_format"];

pub(super) static DIALECT: Dialect = Dialect {
    name: "podium",
    summary: "Rank documents",
    description: "Clients of Cohere, Jina, Voyage, vLLM, Together, Contextual and others can read the reply. A body with \
                  `texts` instead of `documents` is a request of text-embeddings-inference, one with `input` a request \
                  of mixedbread; the reply then has the form of that API.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<RerankReply<'_>>(),
    errors: ErrorShape::Podium,
    read,
};

/// The same dialect for Voyage's clients, which cannot read its errors, and of which one requires
/// Voyage's `object`.
pub(super) static VOYAGE: Dialect = Dialect { errors: ErrorShape::Voyage, read: read_for_voyage, ..DIALECT };

request! {
    #[schema(
        as = RerankRequest,
        example = json!({
            "query": "How do I reset my password?",
            "instruction": "Prefer official documentation.",
            "documents": ["Cats sleep a lot.", "Open Settings, then Security, then Reset password."],
            "top_n": 2,
        })
    )]
    pub(super) struct Request {
        query: Query,
        documents: Documents,
        /// The number of results; all if absent or 0.
        #[schema(minimum = 0)]
        top_n | top_k: Option<usize>,
        /// The fields of a record to read, in this order.
        rank_fields: Option<Vec<String>>,
        /// Whether the reply returns the documents.
        #[schema(default = false)]
        return_documents: Option<Flag>,
        /// Whether a text over its limit is cut and marked; if not, it is an error.
        #[schema(default = true)]
        truncation: Option<Flag>,
        /// Contextual's field: a text for each document, which the model reads after it.
        metadata: Option<Vec<String>>,
        chat_template_kwargs: Option<TemplateVariables>,
        ..options: RequestOptions,
    }
}

/// The variables of vLLM's chat template: its clients give the instruction here.
#[derive(Debug, ToSchema)]
pub(super) struct TemplateVariables {
    instruction: Option<String>,
}

impl Field for TemplateVariables {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let Value::Object(mut variables) = value else { return Err(expected(name, "an object", &value)) };
        let instruction = variables.swap_remove("instruction").filter(|value| !value.is_null());
        let instruction = instruction.map(|value| text(&format!("{name}.instruction"), value)).transpose()?;
        Ok(Self { instruction })
    }
}

impl Request {
    /// The request to rank, and the documents if the reply returns them.
    pub(super) fn into_request(self) -> Result<(RerankRequest, SentDocuments), RerankError> {
        let returned = flag_or(self.return_documents, false);
        let (mut texts, sent) = self.documents.into_parts("documents", self.rank_fields, returned)?;
        if let Some(metadata) = self.metadata {
            add_metadata(&mut texts, &metadata)?;
        }
        let mut options = self.options;
        if let Some(instruction) = self.chat_template_kwargs.and_then(|variables| variables.instruction) {
            if options.instruction.is_some() {
                let problem = "given as chat_template_kwargs.instruction too; give one of them";
                return Err(RerankError::invalid("instruction", problem));
            }
            options.instruction = Some(instruction);
        }
        let mut request = options.into_request(self.query.0, texts, self.top_n);
        request.truncation = flag_or(self.truncation, true);
        Ok((request, sent))
    }
}

fn add_metadata(texts: &mut [String], metadata: &[String]) -> Result<(), RerankError> {
    if !metadata.is_empty() && metadata.len() != texts.len() {
        let problem = format!("has {} entries for {} documents; give one for each", metadata.len(), texts.len());
        return Err(RerankError::invalid("metadata", problem));
    }
    for (text, more) in texts.iter_mut().zip(metadata).filter(|(_, more)| !more.trim().is_empty()) {
        *text = format!("{text}\nmetadata: {more}");
    }
    Ok(())
}

/// Drops a `top_n` of 0: vLLM's clients ask for all results so. Those of Voyage call it `top_k`.
pub(super) fn drop_empty_top_n(fields: &mut Fields) {
    fields.drop_if("top_n", is_zero, "all results");
}

/// Drops the fields of other servers that change no ranking.
pub(super) fn ignore_fields(fields: &mut Fields) {
    fields.ignore(&IGNORED_FIELDS);
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    drop_empty_top_n(fields);
    let request = Request::read(fields)?;
    ignore_fields(fields);
    let (ranking, sent) = request.into_request()?;
    Ok(Call::new(ranking, "documents", sent, |answer| {
        Reply::json(&RerankReply::new(answer.id, answer.ranking(), answer.sent))
    }))
}

fn read_for_voyage(fields: &mut Fields) -> Result<Call, RerankError> {
    let write = |answer: &Answer<'_>| {
        Reply::json(&RerankReply::new(answer.id, answer.ranking(), answer.sent).with_object(RerankObject::List))
    };
    Ok(Call { write: Box::new(write), ..read(fields)? })
}

/// Parses the body of a request, for callers that are not clients of the server. Returns it with
/// warnings about its fields.
///
/// # Errors
/// The body is not a JSON object, or a field is missing or has the wrong type.
pub fn parse(body: &[u8]) -> Result<(RerankRequest, Vec<String>), ParseError> {
    let mut fields = Fields::parse(body)?;
    drop_empty_values(&mut fields);
    drop_empty_top_n(&mut fields);
    let request = Request::read(&mut fields)?;
    ignore_fields(&mut fields);
    let (request, _) = request.into_request()?;
    Ok((request, check_unread(&mut fields, "", false)?))
}
