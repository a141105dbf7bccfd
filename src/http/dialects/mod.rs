//! One file a dialect: its fields into a [`RerankRequest`], the ranking into its reply. No limits, no defaults of the
//! domain and no statuses live here.
//!
//! A [`Dialect`] is a row of functions; `http::rank` calls them for every route that ranks. Which dialect a call is in depends on its path, and on the shared paths (`/rerank`) on the fields that it has.

pub mod documents;
mod infinity;
mod mixedbread;
mod nim;
mod pinecone;
pub mod podium;
mod score;
mod tei;
mod zeroentropy;

use std::time::Duration;

use axum::http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::Value;

use super::error::ApiError;
use super::error_body::ErrorShape;
use super::fields::{Fields, quoted};
use crate::rerank::{Budget, LEAST_URGENT, Mode, Ranking, RerankError, RerankRequest, Terms};

/// Headers for clients that cannot add a field to the body. The instruction is UTF-8, percent-encoded where it is not
/// plain ASCII.
const TEXT_HEADERS: [(&str, &str); 3] =
    [("podium-instruction", "instruction"), ("podium-profile", "profile"), ("podium-strict", "strict")];
/// The same, for fields that are numbers.
const NUMBER_HEADERS: [(&str, &str); 4] = [
    ("podium-priority", "priority"),
    ("podium-timeout-ms", "timeout_ms"),
    ("podium-max-latency-ms", "max_latency_ms"),
    ("podium-max-total-tokens", "max_total_tokens"),
];

/// How many unknown fields are named.
const NAMED_FIELDS: usize = 5;

/// Fields of other servers that are known and change nothing here, and why.
const WITHOUT_EFFECT: [(&str, &str); 3] = [
    (
        "max_chunks_per_doc",
        "documents are read as they are, not in chunks; max_tokens_per_doc limits what is read of each",
    ),
    (
        "truncate_prompt_tokens",
        "prompts are not cut as a whole; max_tokens_per_doc limits what is read of each document",
    ),
    ("return_embeddings", "no embeddings come back"),
];

/// How one API spells a rerank.
#[derive(Debug)]
pub struct Dialect {
    /// Its name, as the API's description has it.
    pub(super) name: &'static str,
    /// What it calls the documents.
    pub(super) documents: &'static str,
    /// Takes a body's fields. Only shapes are checked.
    pub(super) read: fn(&mut Fields) -> Result<Call, RerankError>,
    /// Writes the body of the reply.
    pub(super) write: fn(&Answer<'_>) -> serde_json::Result<Vec<u8>>,
    /// Adds headers that only this API has.
    pub(super) headers: fn(&Answer<'_>, &mut HeaderMap),
    /// What its clients read of a failure.
    pub(super) failure: ErrorShape,
}

/// A path that ranks.
#[derive(Debug)]
pub struct Route {
    /// The path.
    pub path: &'static str,
    /// The dialect of its calls, as long as no field says otherwise.
    pub dialect: &'static Dialect,
}

/// Every path that ranks.
pub static ROUTES: [Route; 16] = [
    Route { path: "/v1/rerank", dialect: &podium::DIALECT },
    Route { path: "/v2/rerank", dialect: &podium::DIALECT },
    Route { path: "/rerank", dialect: &podium::DIALECT },
    Route { path: "/v1/reranking", dialect: &podium::DIALECT },
    Route { path: "/reranking", dialect: &podium::DIALECT },
    Route { path: "/", dialect: &tei::DIALECT },
    Route { path: "/invocations", dialect: &tei::DIALECT },
    Route { path: "/score", dialect: &score::DIALECT },
    Route { path: "/v1/score", dialect: &score::DIALECT },
    Route { path: "/v1/ranking", dialect: &nim::DIALECT },
    Route { path: "/ranking", dialect: &nim::DIALECT },
    Route { path: "/v1/models/rerank", dialect: &zeroentropy::DIALECT },
    Route { path: "/models/rerank", dialect: &zeroentropy::DIALECT },
    Route { path: "/infinity/rerank", dialect: &infinity::DIALECT },
    Route { path: "/infinity/v1/rerank", dialect: &infinity::DIALECT },
    Route { path: "/pinecone/rerank", dialect: &pinecone::DIALECT },
];

impl Route {
    /// What a body asks for on this path, and what its answer must know. Checks its shape alone.
    ///
    /// # Errors
    /// What is no JSON object, and the first field that has the wrong shape.
    pub fn read(&self, body: &[u8]) -> Result<Call, ApiError> {
        let mut fields = Fields::parse(body)?;
        Ok((self.dialect_of(&fields).read)(&mut fields)?)
    }

    /// The dialect of a body.
    pub(super) fn dialect_of(&self, fields: &Fields) -> &'static Dialect {
        if self.dialect.name == podium::DIALECT.name { by_fields(fields) } else { self.dialect }
    }
}

/// The dialects that share a path tell each other apart by the name of the documents: `texts` is TEI's, `input`
/// mixedbread's. Voyage's clients send `top_k` and `truncation`, and choke on an error that is an object.
fn by_fields(fields: &Fields) -> &'static Dialect {
    if fields.has("documents") {
        let is_voyage = fields.names("top_k") && fields.names("truncation") && !fields.names("top_n");
        return if is_voyage { &podium::VOYAGE } else { &podium::DIALECT };
    }
    match (fields.has("texts"), fields.has("input")) {
        (true, _) => &tei::DIALECT,
        (false, true) => &mixedbread::DIALECT,
        (false, false) => &podium::DIALECT,
    }
}

/// A request as a dialect spells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// What is to be ranked: one request, or one for each pair that is to be scored.
    pub requests: Vec<RerankRequest>,
    /// The documents as they were sent, if they are to come back.
    pub echo: Option<Vec<Value>>,
    /// Whether scores are to be the family's own numbers.
    pub raw_scores: bool,
    /// What the caller calls query and documents, where that is not its dialect's own choice.
    pub words: Option<(&'static str, &'static str)>,
    /// What the caller should know besides the ranking's own warnings.
    pub warnings: Vec<String>,
    /// Bytes that the reply counts, in the dialect that does.
    pub counted_bytes: usize,
}

impl Call {
    /// A call for one ranking that echoes nothing.
    #[must_use]
    pub fn new(request: RerankRequest) -> Self {
        let (echo, words, warnings) = (None, None, Vec::new());
        Self { requests: vec![request], echo, raw_scores: false, words, warnings, counted_bytes: 0 }
    }

    fn echoing(self, documents: Option<Vec<Value>>) -> Self {
        Self { echo: documents, ..self }
    }

    /// The texts of the documents, of the only or first ranking.
    fn texts(&self) -> &[String] {
        self.requests.first().map_or(&[], |request| &request.documents)
    }
}

/// What a reply is made from.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The request's id.
    pub id: &'a str,
    /// Seconds since 1970.
    pub created: u64,
    /// What was asked for.
    pub call: &'a Call,
    /// One ranking for each of the call's requests; there is at least one.
    pub rankings: &'a [Ranking],
}

/// The tokens that were read, as most dialects say it.
#[derive(Debug, Serialize)]
struct TokenUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Answer<'_> {
    fn token_usage(&self) -> TokenUsage {
        let tokens = self.prompt_tokens();
        TokenUsage { prompt_tokens: tokens, total_tokens: tokens }
    }

    /// The only ranking, or the first.
    fn ranking(&self) -> &Ranking {
        &self.rankings[0]
    }

    fn prompt_tokens(&self) -> usize {
        self.rankings.iter().map(|ranking| ranking.usage.prompt_tokens).sum()
    }

    /// The document at `index`, as it was sent, if it is to come back.
    fn echo(&self, index: usize) -> Option<&Value> {
        self.call.echo.as_ref().and_then(|documents| documents.get(index))
    }

    /// The text that was read of the document at `index`, if it is to come back.
    fn echoed_text(&self, index: usize) -> Option<&str> {
        self.call.echo.is_some().then(|| self.call.texts().get(index).map(String::as_str)).flatten()
    }
}

/// Fields that came as headers.
pub(super) fn take_headers(headers: &HeaderMap, fields: &mut Fields) -> Result<(), RerankError> {
    let mut add = |header: &str, field: &str, value: Option<Value>, kind: &str| {
        let value = value.ok_or_else(|| RerankError::invalid(field, format!("the header {header} is not {kind}")))?;
        if fields.add(field, value) {
            return Ok(());
        }
        let problem = format!("given in the body and in the header {header}; give one of them");
        Err(RerankError::invalid(field, problem))
    };
    for (header, field) in TEXT_HEADERS {
        let Some(value) = headers.get(header) else { continue };
        let text = value.to_str().ok().and_then(|text| percent_decode_str(text).decode_utf8().ok());
        add(header, field, text.map(Value::from), "percent-encoded UTF-8")?;
    }
    for (header, field) in NUMBER_HEADERS {
        let Some(value) = headers.get(header) else { continue };
        let number = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
        add(header, field, number.map(Value::from), "a whole number")?;
    }
    Ok(())
}

/// Fields that nobody took are warned of, or refused.
pub(super) fn check_rest(fields: &mut Fields, refuse: bool, call: &mut Call) -> Result<(), RerankError> {
    for (name, why) in WITHOUT_EFFECT {
        // false, and vLLM's -1, ask for what happens anyway.
        if fields.take(&[name])?.is_some_and(|value| value != false && value != -1) {
            call.warnings.push(format!("\"{name}\" has no effect here: {why}"));
        }
    }
    let meant = |name| fields.meant_by(name).map_or_else(String::new, |meant| format!("; did you mean \"{meant}\"?"));
    let names: Vec<&str> = fields.rest().collect();
    if let Some(first) = names.first().filter(|_| refuse) {
        return Err(RerankError::invalid(
            "body",
            format!("the field {} is not known here{}", quoted(first), meant(first)),
        ));
    }
    for name in names.iter().take(NAMED_FIELDS) {
        call.warnings.push(format!("{} is not known and was ignored{}", quoted(name), meant(name)));
    }
    if names.len() > NAMED_FIELDS {
        call.warnings.push(format!("{} more fields are not known and were ignored", names.len() - NAMED_FIELDS));
    }
    Ok(())
}

/// A dialect without headers of its own.
fn no_headers(_: &Answer<'_>, _: &mut HeaderMap) {}

/// The fields that every dialect takes beside its own, so that the instruction can be given everywhere.
fn request(fields: &mut Fields, query: String, documents: Vec<String>) -> Result<RerankRequest, RerankError> {
    Ok(RerankRequest {
        model: fields.text("model")?.map(Into::into),
        instruction: fields.text_of(&["instruction", "instruct"])?.map(Into::into),
        profile: fields.text("profile")?.map(Into::into),
        top_n: fields.count(&["top_n", "top_k"])?,
        max_tokens_per_doc: fields.count(&["max_tokens_per_doc"])?,
        mode: fields.text("mode")?.map_or(Ok(Mode::Auto), |word| mode(&word))?,
        terms: terms(fields)?,
        ..RerankRequest::new(query, documents)
    })
}

/// How urgent the request is, how long it may take and what it may cost.
fn terms(fields: &mut Fields) -> Result<Terms, RerankError> {
    let mut milliseconds =
        |name: &str| Ok::<_, RerankError>(fields.count(&[name])?.map(|count| Duration::from_millis(count as u64)));
    let (timeout, max_latency) = (milliseconds("timeout_ms")?, milliseconds("max_latency_ms")?);
    let priority = fields.count(&["priority"])?.unwrap_or(0);
    let priority = u16::try_from(priority).ok().filter(|priority| *priority <= LEAST_URGENT).ok_or_else(|| {
        RerankError::invalid(
            "priority",
            format!("is {priority}; it lies between 0, the most urgent, and {LEAST_URGENT}"),
        )
    })?;
    let max_total_tokens = fields.count(&["max_total_tokens"])?;
    let strict = fields.flag("strict", false)?;
    Ok(Terms { priority, timeout, budget: Budget { max_latency, max_total_tokens, strict } })
}

fn mode(word: &str) -> Result<Mode, RerankError> {
    [Mode::Auto, Mode::Listwise, Mode::Pointwise]
        .into_iter()
        .find(|mode| mode.as_str() == word)
        .ok_or_else(|| RerankError::invalid("mode", format!("{} is none of auto, listwise, pointwise", quoted(word))))
}

#[cfg(test)]
mod testing {
    use super::{Call, Dialect};
    use crate::http::fields::Fields;

    /// What a dialect makes of a body.
    pub(super) fn read(dialect: &Dialect, json: &str) -> Result<Call, String> {
        let mut fields = Fields::parse(json.as_bytes()).map_err(|failure| failure.to_string())?;
        (dialect.read)(&mut fields).map_err(|error| error.to_string())
    }
}
