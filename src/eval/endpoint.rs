//! HTTP client for rerank endpoints: three request formats, retries while the server is busy, and
//! validation of replies.

use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url, redirect};
use serde_json::{Map, Value, json};

use super::answer::{Answer, ScoredDocument, append_missing};
use crate::rerank::{Mode, RerankRequest, Timing};
use crate::telemetry::mask_url_secrets;

/// Time limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for the whole reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(600);

/// Maximum number of retries while the server is busy (429 or 503).
const MAX_RETRIES: usize = 5;

/// Wait before the first retry if the server sends no `Retry-After`; it doubles with every retry.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Upper limit of the wait, also for `Retry-After`.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Maximum length of a body's excerpt in an error message, in characters.
const EXCERPT_CHARACTERS: usize = 300;

/// The format of requests and replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Cohere, Jina, vLLM, Podium: `query` and `documents`; the reply has `results`.
    Rerank,
    /// Voyage: the same with `top_k`; the reply has `data`.
    Voyage,
    /// Text Embeddings Inference: `query` and `texts`; the reply is an array of rows with a
    /// `score`.
    Tei,
}

/// A rerank endpoint.
#[derive(Debug)]
pub struct Endpoint {
    client: Client,
    url: Url,
    api: Api,
    model: Option<String>,
    key: Option<String>,
}

/// The reason why an endpoint gave no usable reply.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The URL is invalid.
    #[error("{url:?} is not a valid http or https URL: {problem}")]
    Address {
        /// The URL as it was given.
        url: String,
        /// The problem.
        problem: String,
    },
    /// The server could not be reached, or sent no complete reply.
    #[error("no reply from {url}")]
    NoReply {
        /// The URL, without secrets.
        url: String,
        /// The HTTP client's error.
        #[source]
        cause: reqwest::Error,
    },
    /// The server replied with an error status.
    #[error("{url} replied {status}: {body}")]
    Status {
        /// The URL, without secrets.
        url: String,
        /// The status.
        status: StatusCode,
        /// An excerpt of the body.
        body: String,
    },
    /// The server was still busy after the last retry.
    #[error("{url} replied {status} {tries} times: {body}")]
    Busy {
        /// The URL, without secrets.
        url: String,
        /// The last status.
        status: StatusCode,
        /// Number of attempts.
        tries: usize,
        /// An excerpt of the last body.
        body: String,
    },
    /// The reply does not have one finite score for each document.
    #[error("invalid reply from {url}: {problem}")]
    Reply {
        /// The URL, without secrets.
        url: String,
        /// The problem.
        problem: String,
    },
}

impl Endpoint {
    /// Creates a client for the endpoint at `url`. A URL without a path gets the usual path of its
    /// `api`. The `key` is sent as a bearer token; no message contains it.
    ///
    /// # Errors
    /// [`EndpointError::Address`] for a URL that is not http or https.
    pub fn new(url: &str, api: Api, model: Option<String>, key: Option<String>) -> Result<Self, EndpointError> {
        let invalid = |problem: String| EndpointError::Address { url: mask_url_secrets(url).into_owned(), problem };
        let mut parsed = Url::parse(url).map_err(|error| invalid(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(invalid(format!("its scheme is {:?}", parsed.scheme())));
        }
        if matches!(parsed.path(), "" | "/") {
            parsed.set_path(match api {
                Api::Rerank | Api::Voyage => "/v1/rerank",
                Api::Tei => "/rerank",
            });
        }
        // A redirect would turn the POST into a GET, so it is an error that the user sees.
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REPLY_TIMEOUT)
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Self { client, url: parsed, api, model, key })
    }

    /// The URL for display: without user, password and query string.
    #[must_use]
    pub fn display_url(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        // These fail only for URLs without a host, and http URLs have one.
        let _without_user = url.set_username("");
        let _without_password = url.set_password(None);
        url.to_string()
    }

    /// The name in reports until a reply contains the model's name: the requested model, otherwise
    /// the host.
    #[must_use]
    pub fn name(&self) -> String {
        self.model.clone().or_else(|| self.url.host_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Sends a request, retries while the server is busy, and reads the reply.
    ///
    /// # Errors
    /// Any [`EndpointError`] except [`EndpointError::Address`].
    pub async fn rerank(&self, request: &RerankRequest) -> Result<Answer, EndpointError> {
        self.rerank_with_retries(request, MAX_RETRIES).await
    }

    /// As [`Self::rerank`], with at most this number of retries.
    ///
    /// # Errors
    /// As [`Self::rerank`].
    pub async fn rerank_with_retries(
        &self,
        request: &RerankRequest,
        max_retries: usize,
    ) -> Result<Answer, EndpointError> {
        let body = self.body(request);
        let url = self.display_url();
        let no_reply = |cause: reqwest::Error| EndpointError::NoReply { url: url.clone(), cause: cause.without_url() };
        let mut retries = 0;
        loop {
            let started = Instant::now();
            let mut call = self.client.post(self.url.clone()).json(&body);
            if let Some(key) = &self.key {
                call = call.bearer_auth(key);
            }
            let response = call.send().await.map_err(no_reply)?;
            let (status, wait) = (response.status(), retry_wait(response.headers(), retries));
            let bytes = response.bytes().await.map_err(no_reply)?;
            let latency = started.elapsed();
            if status.is_success() {
                let answer = parse_reply(self.api, &bytes, request.documents.len(), results_of(request));
                let answer = answer.map_err(|problem| EndpointError::Reply { url, problem })?;
                return Ok(Answer { latency, retries, ..answer });
            }
            let body = excerpt(&bytes);
            if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
                return Err(EndpointError::Status { url, status, body });
            }
            if retries == max_retries {
                return Err(EndpointError::Busy { url, status, tries: retries + 1, body });
            }
            retries += 1;
            tokio::time::sleep(wait).await;
        }
    }

    /// The request's body in the endpoint's format. Options with their default value are not sent.
    fn body(&self, request: &RerankRequest) -> Value {
        let count = results_of(request);
        let mut body = match self.api {
            Api::Rerank => json!({"query": request.query, "documents": request.documents, "top_n": count}),
            Api::Voyage => json!({"query": request.query, "documents": request.documents, "top_k": count}),
            Api::Tei => json!({"query": request.query, "texts": request.documents, "truncate": true}),
        };
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body[name] = value;
            }
        };
        set("model", self.model.clone().map(Value::from));
        set("instruction", request.instruction.as_deref().map(Value::from));
        set("max_tokens_per_doc", request.max_tokens_per_doc.map(Value::from));
        let sure = request.cascade.stop_when_sure;
        set("cascade", sure.map(|probability| json!({"stop_when_sure": probability})));
        set("mode", (request.mode != Mode::Auto).then(|| Value::from(request.mode.as_str())));
        body
    }
}

/// How many results a request asks for.
fn results_of(request: &RerankRequest) -> usize {
    request.top_n.unwrap_or(usize::MAX).min(request.documents.len())
}

/// The wait before the next attempt: `Retry-After` in seconds, otherwise exponential back-off.
fn retry_wait(headers: &HeaderMap, retries: usize) -> Duration {
    let requested =
        headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.trim().parse().ok());
    requested.map_or_else(|| FIRST_WAIT * 2_u32.saturating_pow(retries as u32), Duration::from_secs).min(MAX_WAIT)
}

/// The first characters of a body, on one line.
fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { "(empty body)".to_owned() } else { text.chars().take(EXCERPT_CHARACTERS).collect() }
}

/// Parses and validates a reply about `count` documents with at least `results` of them; the others
/// follow. The caller sets latency and retries.
fn parse_reply(api: Api, bytes: &[u8], count: usize, results: usize) -> Result<Answer, String> {
    let reply: Value =
        serde_json::from_slice(bytes).map_err(|error| format!("it is not JSON ({error}): {}", excerpt(bytes)))?;
    let (name, rows) = match api {
        Api::Rerank => ("results", reply.get("results")),
        Api::Voyage => ("data", reply.get("data")),
        Api::Tei => ("the reply", Some(&reply)),
    };
    let rows =
        rows.and_then(Value::as_array).ok_or_else(|| format!("{name}: expected an array: {}", excerpt(bytes)))?;
    let score_name = if api == Api::Tei { "score" } else { "relevance_score" };
    let mut seen = vec![false; count];
    let mut documents = Vec::with_capacity(count);
    for (position, row) in rows.iter().enumerate() {
        let document = parse_row(row, score_name).map_err(|problem| format!("{name}[{position}].{problem}"))?;
        match seen.get_mut(document.index) {
            None => {
                return Err(format!(
                    "{name}[{position}].index: {} is out of range for {count} documents",
                    document.index
                ));
            }
            Some(true) => return Err(format!("{name}[{position}].index: {} occurs twice", document.index)),
            Some(seen) => *seen = true,
        }
        documents.push(document);
    }
    if let Some(missing) = seen.iter().position(|seen| !seen).filter(|_| documents.len() < results) {
        return Err(format!("{name}: has {} of {results} documents; document {missing} is missing", documents.len()));
    }
    // Not every server sorts its results. The sort is stable, so equal scores keep the reply's
    // order.
    documents.sort_by(|left, right| right.score.total_cmp(&left.score));
    append_missing(&mut documents, count);
    let usage = |name: &str| reply.get("usage").and_then(|usage| usage.get(name)).and_then(Value::as_u64);
    let saved = reply.pointer("/meta/early_exit/tokens_saved").and_then(Value::as_u64).unwrap_or(0);
    let tokens = usage("prompt_tokens").or_else(|| usage("total_tokens"));
    Ok(Answer {
        documents,
        model: reply.get("model").and_then(Value::as_str).map(str::to_owned),
        prompt_tokens: tokens.map(|tokens| tokens.saturating_sub(saved) as usize),
        latency: Duration::ZERO,
        retries: 0,
        timing: reply.pointer("/meta/timing_ms").and_then(parse_timing),
    })
}

/// Parses the stage times of a Podium server.
fn parse_timing(timing: &Value) -> Option<Timing> {
    let part = |name: &str| {
        let milliseconds = timing.get(name).and_then(Value::as_f64)?;
        Duration::try_from_secs_f64(milliseconds / 1000.0).ok()
    };
    Some(Timing {
        queue: part("queue")?,
        tokenize: part("tokenize")?,
        forward: part("forward")?,
        total: part("total")?,
    })
}

fn parse_row(row: &Value, score_name: &str) -> Result<ScoredDocument, String> {
    let empty = Map::new();
    let fields = row.as_object().unwrap_or(&empty);
    let display = |name: &str| fields.get(name).map_or_else(|| "nothing".to_owned(), Value::to_string);
    let integer = |name: &str| fields.get(name).and_then(Value::as_u64).map(|number| number as usize);
    let index = integer("index")
        .ok_or_else(|| format!("index: expected an integer of 0 or more, found {}", display("index")))?;
    // A JSON number such as 1e999 parses as infinite.
    let score = fields.get(score_name).and_then(Value::as_f64).filter(|score| score.is_finite());
    let score = score.ok_or_else(|| format!("{score_name}: expected a number, found {}", display(score_name)))?;
    let truncated = fields.get("truncated").and_then(Value::as_bool);
    Ok(ScoredDocument { index, score, tokens_read: integer("tokens_read"), truncated })
}

#[cfg(test)]
mod tests;
